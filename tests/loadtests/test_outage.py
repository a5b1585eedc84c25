"""What a store that fails adds, by hand."""

import pytest

from tests.loadtests.test_caching import raw, timing
from tradewind.load.caching import CachingSettings, measure_caching


def test_an_outage_is_held_against_questions_as_new() -> None:
    """`no-cache`, whose questions are popular, has no part in it."""
    phases = {
        "no-cache": [timing(n, n + 0.1, "miss") for n in range(10)],
        "fresh": [timing(10 + n, 10.5 + n, "miss", n) for n in range(10)],
        "paused": [timing(20 + n, 20.53 + n + 0.2 * (n == 0), "miss", 10 + n) for n in range(10)],
        "lost": [timing(30 + n, 30.5 + n, "miss", 20 + n) for n in range(10)],
    }
    found = {one.name: one for one in measure_caching(raw(phases), CachingSettings(), 0)}
    assert found["paused/added_p50_ms"].value == pytest.approx(30)
    assert found["paused/added_p50_ms"].interval == (pytest.approx(30), pytest.approx(30))
    assert found["paused/added_p95_ms"].value == pytest.approx(230)
    assert found["lost/added_p50_ms"].value == pytest.approx(0)


def test_an_outage_that_makes_requests_fail_adds_no_finite_time() -> None:
    phases = {
        "fresh": [timing(n, n + 0.5, "miss", n) for n in range(10)],
        "lost": [timing(10 + n, 10.5 + n, None, error="broken") for n in range(10)],
    }
    found = {one.name: one for one in measure_caching(raw(phases), CachingSettings(), 0)}
    assert (found["lost/added_p50_ms"].value, found["lost/added_p50_ms"].interval) == (None, None)
