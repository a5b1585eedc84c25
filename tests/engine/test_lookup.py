"""Drafts: what follows the longest n-gram seen before, and silence after failures."""

import numpy as np

from tradewind.engine.lookup import LONGEST_PAUSE, Lookup, following
from tradewind.engine.requests import Request
from tradewind.engine.settings import SchedulerSettings


def lookup(text: str, longest: int = 3, most: int = 4) -> Lookup:
    return Lookup(tuple(text.encode()), len(text) + 100, longest, most)


def draft(made: Lookup, most: int = 9) -> str:
    return bytes(made.draft(most)).decode()


def test_what_followed_is_the_draft() -> None:
    assert draft(lookup("the cat sat on the ")) == "cat "
    assert draft(lookup("the cat sat on the "), most=2) == "ca"
    assert draft(lookup("nothing like it")) == ""
    assert draft(lookup("a")) == ""


def test_the_longest_ngram_decides() -> None:
    assert draft(lookup("abcX..bcY..abc", most=1)) == "X"
    assert draft(lookup("abcX..bcY..abc", longest=2, most=1)) == "Y"


def test_the_latest_occurrence_with_room_for_the_draft() -> None:
    assert draft(lookup("abc1.abc2345.abc", most=2)) == "23"
    assert draft(lookup("abababab", most=3)) == "aba"


def test_tokens_of_the_answer_count() -> None:
    made = lookup("abcdef")
    assert draft(made) == ""
    for token in b"..bcd":
        made.add(token)
    assert draft(made) == "ef.."


def test_nothing_where_nothing_may_follow() -> None:
    assert lookup("the cat sat on the ").draft(0) == ()
    assert lookup("the cat sat on the ").draft(-1) == ()


def test_length_follows_success() -> None:
    made = lookup("abcdefgh..abc", most=4)
    made.judge(4, 1)
    assert draft(made) == "d"
    made.judge(1, 1)
    assert draft(made) == "de"
    made.judge(2, 2)
    made.judge(4, 4)
    assert draft(made) == "defg"


def test_failures_make_it_pause_longer_and_longer() -> None:
    made = lookup("abcdefgh..abc")
    pauses = []
    for _ in range(8):
        made.judge(1, 0)
        pauses.append(0)
        while not made.draft(9):
            pauses[-1] += 1
    assert pauses == [2, 4, 8, 16, 32, 64, LONGEST_PAUSE, LONGEST_PAUSE]
    made.judge(1, 1)
    assert made.draft(9)


def test_settings_turn_it_off() -> None:
    request = Request((1, 2, 3), 5)
    assert Lookup.of(request, SchedulerSettings()) is None
    assert Lookup.of(request, SchedulerSettings(lookup_tokens=4)) is not None


def test_occurrences_against_plain_search() -> None:
    random = np.random.default_rng(0)
    for _ in range(200):
        known, size = random.integers(0, 3, random.integers(1, 30)), int(random.integers(1, 4))
        tail = known[-size:].tolist()
        want = [end for end in range(size, len(known)) if known[end - size : end].tolist() == tail]
        assert following(known, size).tolist() == (want if len(known) > size else [])
