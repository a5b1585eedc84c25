"""Requests/s at the same p95, by hand."""

from typing import Any

import pytest

from tests.loadtests.test_caching import raw, timing
from tradewind.load.caching import CachingSettings, measure_caching
from tradewind.tracking import Measurement

BARE = [timing(n, n + 2, None) for n in range(10)]


def measured(phases: dict[str, list[dict[str, Any]]]) -> dict[str, Measurement]:
    return {one.name: one for one in measure_caching(raw({"uncached": BARE, **phases}), CachingSettings(), 0)}


def hits(begin: float, count: int, seconds: float) -> list[dict[str, Any]]:
    """Evenly over ten seconds."""
    starts = (begin + 10 * n / count for n in range(count))
    return [timing(start, start + seconds, "hit") for start in starts]


def test_a_load_that_takes_longer_does_not_count() -> None:
    found = measured(
        {"cached 4 users": [*hits(10, 19, 0.1), timing(18, 19.5, "miss", 7)], "cached 8 users": hits(20, 50, 3)}
    )
    assert found["uncached/system_p95_ms"].value == pytest.approx(2000)
    assert found["same_p95_users"].value == 4
    assert found["same_p95_gain"].value == pytest.approx(20 / 10)
    assert found["same_p95_goal"].value == pytest.approx(0.8 / (1 - 19 / 20))


def test_a_refusal_exceeds_every_p95() -> None:
    """Two of 22 are refused at once: the p95 is infinite, though no answer took longer than 0.1 s."""
    refused = [timing(25, 25.001, None, rejected=1.0), timing(26, 26.001, None, rejected=1.0)]
    found = measured({"cached 4 users": hits(10, 20, 0.1), "cached 8 users": [*hits(20, 20, 0.1), *refused]})
    assert found["cached 8 users/system_p95_ms"].value is None
    assert found["cached 8 users/rejected_ratio"].value == pytest.approx(2 / 22)
    assert found["same_p95_users"].value == 4


def test_refusals_count_among_what_was_sent() -> None:
    """One of 40 leaves the p95 as it is, and the hit ratio of the goal lower."""
    refused = timing(15, 15.001, None, rejected=1.0)
    found = measured({"cached 4 users": [*hits(10, 39, 0.1), refused]})
    assert found["same_p95_gain"].value == pytest.approx(39 / 10)
    assert found["same_p95_goal"].value == pytest.approx(0.8 / (1 - 39 / 40))


def test_more_users_than_a_load_that_fails_are_not_looked_at() -> None:
    phases = {
        "cached 4 users": hits(10, 20, 0.1),
        "cached 8 users": hits(20, 30, 3),
        "cached 12 users": hits(30, 90, 0.1),
    }
    assert measured(phases)["same_p95_users"].value == 4


def test_where_no_load_keeps_to_it_nothing_is_gained() -> None:
    found = measured({"cached 4 users": hits(10, 20, 3)})
    assert (found["same_p95_users"].value, found["same_p95_gain"].value) == (0, 0)
    assert "same_p95_goal" not in found


def test_the_interval_is_of_seconds_drawn_anew() -> None:
    """Every second alike: every draw gives the same. Half of the seconds idle: it is as wide as that."""
    even = measured({"cached 4 users": hits(10, 20, 0.1)})["same_p95_gain"]
    assert even.interval == (pytest.approx(2), pytest.approx(2))
    uneven = measured({"cached 4 users": [one for one in hits(10, 40, 0.1) if one["start"] < 15]})["same_p95_gain"]
    assert uneven.value == pytest.approx(2)
    assert uneven.interval is not None
    assert uneven.interval[0] < 1.2 < 2.8 < uneven.interval[1]
