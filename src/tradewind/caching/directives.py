"""What a caller says about caching its call, in the request's `Cache-Control` (RFC 9111, section 5.2.1).

`no-store`: the caches are left alone. `no-cache`: a fresh answer, which is then kept. `max-age=N`: a kept answer of at
most N seconds. Of a directive that is said twice the first counts. The other ones are
ignored, `only-if-cached` and `min-fresh` too.
"""

import re
from dataclasses import dataclass

NAMED = re.compile(r"\s*([!#$%&'*+.^_`|~0-9A-Za-z-]+)\s*(?:=\s*(\"[^\"]*\"|[^\s,\"]*))?\s*(?:,|$)")
EMPTY = re.compile(r"[\s,]*")
OLDEST = 2**31
"""Seconds; a larger max-age is as good as this (RFC 9111, section 1.2.2)."""
LONGEST = 512
"""Characters of a header."""


class BadDirective(ValueError):
    """A header that cannot be read."""


@dataclass(frozen=True)
class Directives:
    """max_age: seconds; None: as long as it is kept."""

    no_store: bool = False
    no_cache: bool = False
    max_age: int | None = None

    @classmethod
    def of(cls, header: str) -> "Directives":
        """Raises BadDirective."""
        if len(header) > LONGEST:
            raise BadDirective(f"it has more than {LONGEST} characters")
        said: dict[str, str] = {}
        place = 0
        while (place := _next(header, place)) < len(header):
            found = NAMED.match(header, place)
            if found is None:
                raise BadDirective("it is no list of directives")
            said.setdefault(found[1].lower(), (found[2] or "").strip('"'))
            place = found.end()
        age = said.get("max-age")
        if age is not None and not re.fullmatch("[0-9]+", age):
            raise BadDirective("max-age is a number of seconds")
        return cls("no-store" in said, "no-cache" in said, None if age is None else min(int(age), OLDEST))


def _next(header: str, place: int) -> int:
    """Empty elements of a list count for nothing (RFC 9110, section 5.6.1)."""
    empty = EMPTY.match(header, place)
    assert empty is not None
    return empty.end()


UNSAID = Directives()
"""Of a call that says nothing."""
