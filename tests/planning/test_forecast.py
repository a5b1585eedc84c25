"""Forecasts play the phases of a run, and errors are what they say."""

import pytest

from tradewind.load.results import Slo
from tradewind.planning.forecast import System, by_quantity, errors, forecast, paper, true_range
from tradewind.planning.plan import Lengths, capacity
from tradewind.planning.simulation import Limits, ServiceTimes

TIMES = ServiceTimes(prefill_rate=1000, step=0.004, row=0.002)
SYSTEM = System(TIMES, Limits(), Lengths(100, 20), Slo(5000, 250))


def phase(name: str, load: float, seconds: float) -> dict[str, float | str]:
    return {"name": name, "load": load, "start": 0.0, "end": seconds}


def test_a_ramp_saturates_and_two_replicas_on_the_same_cores_give_no_more() -> None:
    steps = [phase(f"{users} users", users, 30.0) for users in (1, 4, 16)]
    one = forecast("ramp", steps, SYSTEM)
    assert one["1 users/requests_per_s"] == pytest.approx(1 / 0.22, rel=0.05)
    assert one["1 users/ttft_p50_ms"] == pytest.approx(100)
    assert one["16 users/requests_per_s"] > one["4 users/requests_per_s"] > one["1 users/requests_per_s"]
    pair = System(TIMES, Limits(), Lengths(100, 20), Slo(5000, 250), replicas=2, sharing=2.0)
    two = forecast("ramp", steps, pair)
    assert two["16 users/requests_per_s"] < 1.05 * one["16 users/requests_per_s"]


def test_overload_is_shed_and_goodput_stays() -> None:
    found = forecast("overload", [phase("capacity", 8, 30.0), phase("5x", 30.0, 30.0)], SYSTEM)
    assert found["5x/rejected"] > 0
    assert found["5x/goodput_per_s"] > 0.85 * found["capacity/goodput_per_s"]


def test_errors_are_signed_shares_of_what_was_measured() -> None:
    predicted = {"ramp": {"1 users/requests_per_s": 3.0, "2 users/requests_per_s": 4.0, "1 users/rejected": 0.0}}
    measured = {"ramp": {"1 users/requests_per_s": 2.0, "2 users/requests_per_s": 5.0, "1 users/rejected": 0.0}}
    predicted["poisson 0.5"] = measured["poisson 0.5"] = {"poisson/requests_per_s": 1.0}  # what was asked for
    found = errors(predicted, measured)
    assert found.pop("poisson 0.5") == {}
    assert found == {"ramp": {"1 users/requests_per_s": 0.5, "2 users/requests_per_s": pytest.approx(-0.2)}}
    row = by_quantity(found)["requests_per_s"]
    assert (row["n"], row["median"], row["worst"]) == (2, pytest.approx(0.15), 0.5)
    assert true_range(3.0, row) == (2.0, pytest.approx(3.75))


def test_the_paper_carries_the_error() -> None:
    one = capacity(TIMES, Limits(), Lengths(100, 20), SYSTEM.slo)
    error = {name: {"low": -0.2, "high": 0.25} for name in ("requests_per_s", "ttft_p50_ms", "ttft_p95_ms")}
    row = paper([3000], 100.0, one, SYSTEM, price=0.1, error=error)[0]
    low, high = row["replicas_range"]
    assert low < row["replicas"] < high
    assert row["replicas"] * one.rate >= row["rate"] == 30
    assert row["cost_per_month"] == pytest.approx(73 * row["replicas"])
    assert row["ttft_p95_ms_range"][0] == pytest.approx(row["ttft_p95_ms"] / 1.25)
