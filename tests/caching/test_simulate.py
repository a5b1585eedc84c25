"""The simulator against cases worked out by hand, and against the bound that no policy exceeds."""

import math

import numpy as np
import pytest

from tradewind.caching.policies import POLICIES
from tradewind.caching.simulate import Replay, entry_bytes, ideal, replay
from tradewind.caching.traces import Answers, Popularity, Trace, drawn


def trace(*rows: tuple[float, int], tenants: list[int] | None = None, seconds: float = 1.0) -> Trace:
    """Of time and question; answers of 100 bytes."""
    times, questions = zip(*rows, strict=True)
    count = len(rows)
    return Trace(
        np.array(times), np.array(questions), np.array(tenants or [0] * count),
        np.full(count, 100), np.full(count, seconds),
    )  # fmt: skip


ROOM = 10 * entry_bytes(100)


def outcome(found: Replay) -> tuple[int, int, int]:
    return found.hits, found.coalesced, found.misses


def test_an_answer_being_made_is_waited_for_and_then_found() -> None:
    asked = trace((0.0, 1), (0.5, 1), (0.9, 2), (1.0, 1), (1.5, 1), (1.8, 2), (1.95, 2))
    assert outcome(replay(asked, ROOM)) == (3, 2, 2)


def test_tenants_share_nothing() -> None:
    assert outcome(replay(trace((0, 1), (2, 1), (4, 1), tenants=[0, 1, 0]), ROOM)) == (1, 0, 2)


def test_an_answer_lives_from_the_end_of_its_making() -> None:
    asked = trace((0.0, 1), (5.9, 1), (6.0, 1))
    assert outcome(replay(asked, ROOM, ttl_s=5.0)) == (1, 0, 2)


def test_the_warm_up_fills_the_store_and_is_not_counted() -> None:
    assert outcome(replay(trace((0, 1), (2, 1), (4, 2)), ROOM, warm_up=1)) == (1, 0, 1)


def test_without_room_everything_is_made_anew_unless_it_is_being_made() -> None:
    assert outcome(replay(trace((0, 1), (0.5, 1), (2, 1)), 0)) == (0, 1, 2)


def test_bytes_are_counted_by_answer() -> None:
    asked = trace((0, 1), (2, 1), (4, 2))
    asked.nbytes[2] = 300
    found = replay(asked, ROOM)
    assert found.byte_hit_ratio == 100 / 500
    assert found.hit_ratio == pytest.approx(1 / 3)


def test_one_trace_after_another_begins_when_all_is_made() -> None:
    both = trace((0, 1)).then(trace((0, 1), (1, 2)))
    assert both.times.tolist() == [0, 1, 2]
    assert outcome(replay(both, ROOM)) == (1, 0, 2)


def test_the_ideal_of_half_of_a_thousand_answers() -> None:
    """The sum of 1/r to 500 over that to 1,000."""
    nbytes = np.full(1000, 4096)
    assert ideal(Popularity(1000, 1.0).weights, nbytes, 500 * entry_bytes(4096)) == pytest.approx(0.9075, abs=1e-4)


def test_the_ideal_prefers_small_answers_and_cuts_the_last() -> None:
    weights, nbytes = np.array([0.5, 0.3, 0.2]), np.array([10_000, 100, 100])
    small = entry_bytes(100)
    assert ideal(weights, nbytes, 2 * small) == pytest.approx(0.5)
    assert ideal(weights, nbytes, small + small // 2) == pytest.approx(0.4)
    assert ideal(weights, nbytes, 10**6) == pytest.approx(1.0)


@pytest.mark.parametrize("policy", POLICIES)
def test_a_policy_comes_near_the_ideal_and_not_above_it(policy: str) -> None:
    popularity, answers = Popularity(200, 1.0), Answers(spread=0.0, seconds=0.0)
    asked = drawn(popularity, 8000, 50.0, answers, seed=1)
    budget = 100 * entry_bytes(answers.bytes)
    bound = ideal(popularity.weights, np.full(200, answers.bytes), budget)
    found = replay(asked, budget, policy, warm_up=4000)
    spread = math.sqrt(bound * (1 - bound) / 4000)
    assert bound - 0.12 < found.hit_ratio < bound + 4 * spread
    assert vars(replay(asked, budget, policy, warm_up=4000)) == vars(found)
