"""The sweep's means and errors, from runs that are given."""

import pytest

from studies.caching.sweep import BASE, CHANGED, LOAD, SEEDS, cell, errors
from tradewind.load.scenario import CACHING_PARTS
from tradewind.tracking import Measurement


def test_a_cell_that_stands_in_several_rows_counts_once() -> None:
    def row(run: str, replay: float, forecast: float = 0.0) -> dict[str, object]:
        held = {"replay_error": {"mean": replay}, "forecast_error": {"mean": forecast}}
        return {"run_id": run, "cold": held, "warm": held}

    found = errors([row("base", -0.1), row("base", -0.1), row("other", 0.03), row("third", 0.02, -0.2)])
    assert found["cold"]["replay"] == {"median": pytest.approx(0.03), "largest": pytest.approx(0.1), "n": 3}
    assert found["warm"]["forecast"]["largest"] == pytest.approx(0.2)


def test_a_cell_is_the_mean_over_seeds() -> None:
    """0.5, 0.6 and 0.7: their standard deviation is 0.1, and t of two degrees of freedom 4.303."""
    runs = []
    for ratio in (0.5, 0.6, 0.7):
        values = dict.fromkeys(("forecast_spread", "ideal_hit_ratio", "failures", "rejected"), 1.0)
        values |= {"requests": 1000 * ratio, "hit_ratio": ratio, "replay_hit_ratio": 0.6, "forecast_hit_ratio": 0.9}
        values |= {"replay_error": 0.6 - ratio, "forecast_error": 0.9 - ratio}
        runs.append({f"cold/{name}": Measurement(name, value, "1") for name, value in values.items()})
    found = cell("cold", runs)
    assert (found["measured"], found["requests"], found["failures"]) == (pytest.approx(0.6), 500, 3)
    assert found["interval"] == pytest.approx([0.6 - 0.2484, 0.6 + 0.2484], abs=1e-4)
    assert found["forecast_error"]["mean"] == pytest.approx(0.3)
    assert found["replay_error"]["mean"] == pytest.approx(0)


def test_each_setting_is_changed_from_the_base() -> None:
    assert all(getattr(BASE, name) in values for name, (_, values) in CHANGED.items())


def test_each_phase_has_some_hundred_requests_and_each_cell_several_seeds() -> None:
    assert LOAD.rate * LOAD.seconds / CACHING_PARTS >= 550  # Poisson: 500 at two standard deviations
    assert len(SEEDS) >= 3
