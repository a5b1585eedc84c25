"""Measurements against numbers worked out by hand."""

import pytest

from tradewind.errors import UserError
from tradewind.load.results import Slo, knee, measure, quantile
from tradewind.tracking import Measurement


def request(start: float, texts: list[float], error: str | None = None, tokens: int = 4) -> dict[str, object]:
    end = None if error else texts[-1] + 0.1
    return {
        "start": start,
        "texts": texts,
        "end": end,
        "error": error,
        "prompt_tokens": 10,
        "completion_tokens": tokens,
        "due": None,
        "rejected": None,
    }


RAW = {
    "requests": [
        request(0.5, [0.7, 1.2]),  # starts in the warm-up; its second text falls in the window
        request(1.0, [1.2, 1.3, 1.5, 1.9]),
        request(2.0, [2.4, 2.5], tokens=6),
        request(2.5, [], "ProtocolError: no"),
        request(3.8, [3.9, 4.5]),  # ends after the window
        request(4.2, [4.3]),  # starts after it
    ],
    "phases": [],
    "stopping": 4.0,
    "ended": 4.0,
    "delays": [0.001, 0.002, 0.009],
    "cpu_share": 0.25,
}


def test_by_hand() -> None:
    found = {one.name: one for one in measure(RAW, warm_up=1.0, seed=7)}
    values = {name: pytest.approx(one.value) for name, one in found.items()}
    # Times to first text 0.2, 0.4 and 0.1 s; gaps 0.1, 0.2, 0.4, 0.1, 0.6 s; ends 1.0, 0.6 and 0.8 s after the start.
    assert (values["ttft_p50_ms"], values["ttft_p99_ms"]) == (200, 400)
    assert (values["itl_p50_ms"], values["itl_p95_ms"]) == (200, 600)
    assert (values["e2e_p50_ms"], values["e2e_p95_ms"]) == (800, 1000)
    assert (found["ttft_p50_ms"].n, found["itl_p50_ms"].n) == (3, 5)
    # 4 / 2 + 4 + 6 + 4 / 2 tokens came in 3 s.
    assert values["completion_tokens_per_s"] == 14 / 3
    assert (values["requests"], values["failures"], values["requests_per_s"]) == (4, 1, 1)
    assert (values["client_cpu_share"], values["client_delay_p95_ms"]) == (0.25, 9)
    assert all(one.formula and one.unit and one.seed == 7 for one in found.values())


def test_goodput_is_what_keeps_both_goals() -> None:
    slo = Slo(ttft_ms=200, itl_ms=300)
    found = {one.name: one.value for one in measure(RAW, warm_up=1.0, seed=7, slo=slo)}
    # Of those that ended well: the first keeps both (200 ms; mean gap 233 ms), the second has 400 ms to its first text, the
    # last a gap of 600 ms.
    assert (found["goodput_per_s"], found["goodput_share"]) == (pytest.approx(1 / 3), 0.25)


def phase(name: str, start: float, end: float) -> dict[str, object]:
    return {"name": name, "load": 1.0, "start": start, "end": end}


def test_each_phase_is_measured_by_itself_with_refusals_apart_from_failures() -> None:
    refused = request(2.1, [], "no room") | {"end": 2.105, "rejected": 0.5, "due": 2.0, "error": None}
    raw = RAW | {
        "requests": [*RAW["requests"], refused],  # type: ignore[misc]
        "phases": [phase("calm", 0.0, 1.5), phase("burst", 1.5, 3.0), phase("calm", 3.0, 9.0)],
    }
    found = {one.name: one for one in measure(raw, warm_up=1.0, seed=7)}
    values = {name: pytest.approx(one.value) for name, one in found.items()}
    assert (values["calm/requests"], values["calm/window_s"]) == (3, 2.5)
    assert (values["burst/requests"], values["burst/failures"], values["burst/rejected"]) == (3, 1, 1)
    assert (values["burst/refusal_p50_ms"], values["burst/schedule_delay_p99_ms"]) == (5, 100)
    assert values["burst/requests_per_s"] == 1 / 1.5
    assert "calm/rejected" in found
    assert "calm/refusal_p50_ms" not in found


def test_the_knee_is_where_more_users_bring_no_more() -> None:
    rates = {1: 1.0, 2: 1.9, 4: 3.0, 8: 3.2, 16: 6.0}
    steps = [Measurement(f"{users} users/requests_per_s", rate, "requests/s") for users, rate in rates.items()]
    assert [one.value for one in knee(steps, 0)] == [4.0]
    assert knee(steps[:1], 0) == []


def test_nothing_that_ended_well_names_the_first_failure() -> None:
    with pytest.raises(UserError, match="ProtocolError: no"):
        measure(RAW | {"requests": RAW["requests"][3:4]}, warm_up=1.0, seed=0)  # type: ignore[index]


def test_a_run_of_one_long_answer_has_no_warm_up() -> None:
    """Nothing starts after the warm-up: the window is the whole run, and says so."""
    raw = RAW | {"requests": [request(0.1, [2.1, 5.1])]}
    found = {one.name: one.value for one in measure(raw, warm_up=1.0, seed=0)}
    assert (found["warm_up_s"], found["window_s"], found["ttft_p50_ms"]) == (0, 4, pytest.approx(2000))


def test_interval_covers_the_median_at_its_rate() -> None:
    """Of 400 samples of 50 uniform values, about 95 % of the intervals hold the true median."""
    import random

    drawn = random.Random(3)
    intervals = [quantile([drawn.random() for _ in range(50)], 0.5)[1] for _ in range(400)]
    held = sum(low <= 0.5 <= high for low, high in filter(None, intervals))
    assert 0.92 <= held / 400 <= 0.99
    assert quantile([1.0, 2.0], 0.99)[1] is None
