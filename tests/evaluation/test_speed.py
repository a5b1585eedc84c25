import time

import pytest

from tradewind.engine.mock import MockEngine
from tradewind.errors import UserError
from tradewind.evaluation.speed import FORMULAS, SpeedPlan, measure, run_round
from tradewind.host import peak_rss

PLAN = SpeedPlan(
    engine="mock",
    slots=2,
    max_len=64,
    threads=1,
    prefill_tokens=20,
    ttft_tokens=10,
    decode_tokens=8,
    batch_tokens=4,
    repeats=3,
    warm_up=1,
)


def test_rates_are_those_of_the_delays(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])
    monkeypatch.setattr(time, "sleep", lambda seconds: now.append(now.pop() + seconds))
    engine = MockEngine(slots=2, max_len=64, step_delay=0.01, prefill_delay=0.002)
    monkeypatch.setattr(time, "process_time", lambda: now[0] / 4)
    assert run_round(engine, PLAN, seed=0) == pytest.approx(
        {
            "prefill_tokens_per_s": 1 / 0.002,
            "ttft_ms": 10 * 2.0,
            "decode_tokens_per_s": 1 / 0.01,
            "decode_cpu_ms_per_token": 10 / 4,
            "decode_tokens_per_s_batch": 2 / 0.01,
        }
    )
    assert all(engine.length(slot) == 0 for slot in range(engine.slots))


def test_fresh_processes_take_turns_and_report_their_own_memory():
    measured = measure({"a": None, "b": None}, PLAN, seed=0)
    for found in measured.values():
        by_name = {m.name: m for m in found}
        assert set(by_name) == {*FORMULAS, "peak_rss_bytes", "load_s"}
        assert by_name["ttft_ms"].n == PLAN.repeats
        low, high = by_name["ttft_ms"].interval
        assert low <= by_name["ttft_ms"].value <= high
        assert "median of 3 interleaved repeats after 1 uncounted" in by_name["ttft_ms"].formula
        assert "{" not in by_name["decode_tokens_per_s_batch"].formula
        assert 5e6 < by_name["peak_rss_bytes"].value < 1e9


def test_this_process_has_a_peak():
    assert 1e7 < peak_rss() < 1e11


def test_a_variant_that_is_not_there_is_one_line(tmp_path):
    with pytest.raises(UserError, match="no variant at"):
        measure({"x": tmp_path / "x"}, SpeedPlan(**{**vars(PLAN), "engine": "ort"}), seed=0)
