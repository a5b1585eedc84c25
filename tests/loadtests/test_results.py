"""Measurements against numbers worked out by hand."""

import pytest

from tradewind.errors import UserError
from tradewind.load.results import measure, quantile


def request(start: float, texts: list[float], error: str | None = None, tokens: int = 4) -> dict[str, object]:
    end = None if error else texts[-1] + 0.1
    return {
        "start": start,
        "texts": texts,
        "end": end,
        "error": error,
        "prompt_tokens": 10,
        "completion_tokens": tokens,
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
    "stopping": 4.0,
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
    assert (values["requests"], values["failures"], values["requests_per_s"]) == (4, 1, 4 / 3)
    assert (values["client_cpu_share"], values["client_delay_p95_ms"]) == (0.25, 9)
    assert all(one.formula and one.unit and one.seed == 7 for one in found.values())


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
