"""The simulator's two words on a hit ratio, by hand."""

from typing import Any

import pytest

from tests.loadtests.test_caching import raw, timing
from tradewind.load.caching import CachingSettings, measure_caching


def measured(asked: list[dict[str, Any]], settings: CachingSettings) -> dict[str, float | None]:
    given = raw({"cold": asked})
    given["phases"][0]["load"] = 5
    return {one.name: one.value for one in measure_caching(given, settings, 0)}


def test_a_forecast_knows_the_plan_and_not_the_run() -> None:
    """Fifty requests for one question, whose answer takes no time: one miss. What the run had is in the error alone."""
    settings = CachingSettings(questions=1, assumed_s=0.0)
    for asked in ([timing(n, n + 0.5, "miss", n) for n in range(10)], [timing(0, 3, "hit")]):
        found = measured(asked, settings)
        assert (found["cold/forecast_hit_ratio"], found["cold/forecast_spread"]) == (pytest.approx(0.98), 0)
        hits = sum(one["cache"] == "hit" for one in asked) / len(asked)
        assert found["cold/forecast_error"] == pytest.approx(0.98 - hits)


def test_a_forecast_goes_by_what_is_assumed_of_an_answer() -> None:
    """One that takes as long as the phase is joined by all; of a budget's size there is room for none."""
    asked = [timing(0, 3, "hit")]
    slow = measured(asked, CachingSettings(questions=1, assumed_s=60.0))
    assert (slow["cold/forecast_hit_ratio"], slow["cold/forecast_coalesced_ratio"]) == (0, pytest.approx(0.98))
    large = measured(asked, CachingSettings(questions=1, assumed_s=0.0, cache_mib=1, assumed_bytes=1 << 20))
    assert large["cold/forecast_hit_ratio"] == 0


def test_traces_of_other_seeds_differ() -> None:
    found = measured([timing(0, 3, "hit")], CachingSettings(questions=100, assumed_s=0.0))
    assert found["cold/forecast_spread"] > 0  # type: ignore[operator]
