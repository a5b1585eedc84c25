from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tradewind.caching.directives import LONGEST, OLDEST, BadDirective, Directives


@pytest.mark.parametrize(
    ("header", "said"),
    [
        ("", Directives()),
        ("no-store", Directives(no_store=True)),
        ("No-Cache", Directives(no_cache=True)),
        ("max-age=60, no-store", Directives(no_store=True, max_age=60)),
        ('max-age="5"', Directives(max_age=5)),
        (", no-cache,,max-age=7 , ", Directives(no_cache=True, max_age=7)),
        ("max-age=99999999999", Directives(max_age=OLDEST)),
        ("max-age=0, max-age=1000", Directives(max_age=0)),
        (",,", Directives()),
        ("max-stale, only-if-cached , max-age = 0", Directives(max_age=0)),
    ],
)
def test_directives(header: str, said: Directives) -> None:
    assert Directives.of(header) == said


@pytest.mark.parametrize("header", ["max-age=x", "max-age", "max-age=-1", "max-age=1.5", "a b", "=", "x" * 600])
def test_what_cannot_be_read(header: str) -> None:
    with pytest.raises(BadDirective):
        Directives.of(header)


@given(st.text(max_size=LONGEST + 10))
def test_any_text_is_read_or_refused(header: str) -> None:
    with suppress(BadDirective):
        Directives.of(header)
