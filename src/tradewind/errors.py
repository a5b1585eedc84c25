"""The one exception that a user's mistake or a damaged input raises; entry points print it as one line and exit with 2."""

from collections.abc import Iterator
from contextlib import contextmanager


class UserError(Exception):
    """One clear line that names the thing at fault and the choices."""


@contextmanager
def within(place: str) -> Iterator[None]:
    """A UserError of the block says at which place of the configuration it is."""
    try:
        yield
    except UserError as error:
        raise UserError(f"{place}: {error}") from None
