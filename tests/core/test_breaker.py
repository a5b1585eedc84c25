import logging
from itertools import pairwise

import pytest

from tradewind.breaker import Breaker


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def breaker(clock: Clock) -> Breaker:
    return Breaker("the store", "done without", failures=2, pause_s=1.0, longest_s=3.0, clock=clock)


def test_it_opens_after_failures_in_a_row(breaker: Breaker) -> None:
    breaker.failed(OSError())
    breaker.succeeded()
    breaker.failed(OSError())
    assert breaker.allows()
    breaker.failed(OSError())
    assert not breaker.allows()


def test_one_caller_tries_a_pause_and_pauses_grow(breaker: Breaker, clock: Clock) -> None:
    tried = []
    for _ in range(2):
        breaker.failed(OSError())
    for clock.now in (step / 4 for step in range(60)):
        if breaker.allows():
            assert not breaker.allows()
            breaker.failed(OSError())
            tried.append(clock.now)
    assert tried[0] == 1.0
    pauses = [later - earlier for earlier, later in pairwise(tried)]
    assert pauses == sorted(pauses)
    assert pauses[-1] == 3.0


def test_a_line_for_each_change(breaker: Breaker, clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        for _ in range(5):
            breaker.failed(OSError("no route"))
        clock.now = 100.0
        assert breaker.allows()
        breaker.succeeded()
        breaker.succeeded()
    assert caplog.messages == ["the store failed, done without: OSError: no route", "the store answers again"]
