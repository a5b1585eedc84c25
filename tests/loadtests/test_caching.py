"""The load test `caching`: against a small server whose cache is known, and its measurements by hand."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.loadtests.cached_server import CachedServer, serving
from tests.loadtests.test_steady import ROOT, load
from tradewind.caching.memory import OVERHEAD
from tradewind.caching.simulate import entry_bytes
from tradewind.errors import UserError
from tradewind.load.caching import CachingSettings, measure_caching
from tradewind.load.scenario import LoadSettings, run_scenario

SHORT = ["--seconds", "10", "--rate", "40", "--users", "2", "--prompt-words", "6", "--answer-tokens", "3"]
TRACE = ["--questions", "60", "--tenants", "2", "--churn", "0.01", "--warm-requests", "150", "--burst", "30"]
PHASES = {
    "empty", "cold", "warm-up", "warm", "known", "kept", "no-cache", "burst",
    *(f"cached {2 * factor} users" for factor in (1, 2, 3, 4, 8, 16)),
}  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "loadtests").symlink_to(ROOT / "loadtests")
    return tmp_path


def values(folder: Path) -> dict[str, Any]:
    found = json.loads((folder / "reports/load/caching.json").read_text())["measurements"]
    return {name: one["value"] for name, one in found.items()}


def test_a_server_with_a_cache_is_measured_by_outcome(folder: Path) -> None:
    app = CachedServer(1 << 20)
    with serving(app) as url:
        ended = load(folder, "caching", "--url", url, *SHORT, *TRACE, "--cache-mib", "1")
    assert ended.returncode == 0, ended.stderr
    found = values(folder)
    assert {name.partition("/")[0] for name in found if "/" in name} == PHASES
    assert all(found[f"{phase}/failures"] == 0 < found[f"{phase}/requests"] for phase in PHASES)
    assert found["burst/generations"] == 1
    assert found["burst/requests"] == 30
    assert found["warm-up/requests"] == 150
    assert (found["no-cache/hit_ratio"], found["no-cache/miss_ratio"]) == (0, 1)
    assert found["cold/hit_ratio"] < found["warm/hit_ratio"]
    assert abs(found["warm/replay_error"]) < 0.05
    assert abs(found["warm/forecast_error"]) < 0.15
    assert (found["kept/generations"], found["kept/hit_ratio"]) == (0, 1)
    assert found["warm/hit/e2e_p50_ms"] < 50 <= found["warm/miss/e2e_p50_ms"]
    assert found["warm/hit/ttft_p50_ms"] <= found["warm/hit/ttft_p99_ms"]
    assert "empty/empty/ttft_p50_ms" not in found
    assert app.generations == sum(value for name, value in found.items() if name.endswith("/generations"))
    assert found["saved_tokens"] % 3 == 0 < found["saved_tokens"]
    assert not {"saved_engine_s", "same_p95_gain"} & found.keys()  # nothing without a cache to hold them against
    record = json.loads((folder / "reports/runs/load-caching.json").read_text())
    assert (record["question"], record["params"]["caching"]["questions"]) == ("caching", 60)


def test_servers_of_its_own_with_a_cache_and_without(folder: Path) -> None:
    few = ["--questions", "20", "--warm-requests", "30", "--burst", "10"]
    ended = load(folder, "caching", "--engine", "mock", "--model", "mock", *SHORT, *few)
    assert ended.returncode == 0, ended.stderr
    found = values(folder)
    assert found["burst/generations"] == 1
    assert found["uncached/requests"] > 0 == found["uncached/failures"]
    assert {name.split("/")[1] for name in found if name.startswith("uncached/") and name.endswith("p50_ms")} == {
        "uncached"
    }
    assert abs(found["warm/replay_error"]) < 0.1
    assert found["uncached/system_p95_ms"] > 0 < found["saved_engine_s"]


def test_a_run_ends_after_the_phase_that_it_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    chosen = CachingSettings(questions=20, warm_requests=30, until="warm")
    given = LoadSettings("caching", "mock", "mock", 2, 10, prompt_words=6, answer_tokens=3, rate=40.0, caching=chosen)
    found = {one.name: one.value for one in run_scenario(given, 0).measurements}
    assert {name.partition("/")[0] for name in found if "/" in name} == {"cold", "warm-up", "warm"}
    assert found["cold/failures"] == found["warm/failures"] == 0
    with pytest.raises(UserError, match="no phase 'hot'"):
        run_scenario(replace(given, caching=replace(chosen, until="hot")), 0)


def timing(start: float, end: float, cache: str | None, question: int = 0, **more: Any) -> dict[str, Any]:
    return {
        "start": start, "texts": [(start + end) / 2, end], "end": end, "error": None, "rejected": None, "due": None,
        "prompt_tokens": 5, "completion_tokens": 10, "cache": cache, "question": question, "tenant": 0,
        "streamed": True,
    } | more  # fmt: skip


def raw(phases: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    """Each phase lasts ten seconds."""
    spans = [{"name": name, "load": 1, "start": 10.0 * n, "end": 10.0 * n + 10} for n, name in enumerate(phases)]
    requests = [one for part in phases.values() for one in part]
    return {"requests": requests, "phases": spans, "ended": 10.0 * len(phases), "delays": [], "cpu_share": 0.1}


COLD = [timing(0, 2, "miss"), timing(1, 2, "coalesced"), timing(3, 3.1, "hit", streamed=False), timing(4, 5, "miss", 1)]


def test_outcomes_by_hand() -> None:
    found = {one.name: one.value for one in measure_caching(raw({"cold": COLD}), CachingSettings(), 0)}
    assert found["cold/miss/e2e_p50_ms"] == pytest.approx(1000)
    assert found["cold/miss/ttft_p95_ms"] == pytest.approx(1000)
    assert found["cold/hit/e2e_p99_ms"] == pytest.approx(100)
    assert "cold/hit/ttft_p50_ms" not in found  # it came in one piece
    assert not any(name.startswith("cold/e2e") for name in found)  # never blended
    assert [found[f"cold/{name}_ratio"] for name in ("hit", "miss", "coalesced", "bypass")] == [0.25, 0.5, 0.25, 0]
    assert (found["cold/generations"], found["cold/requests_per_s"]) == (2, 0.4)
    assert found["saved_tokens"] == 10
    assert not {"saved_engine_s", "saved_usd"} & found.keys()  # nobody knows what an engine would have needed
    # Misses take 1.5 s in the middle: at 1 s question 0 is being made, at 3 s it is there, at 4 s comes question 1.
    assert (found["cold/replay_hit_ratio"], found["cold/replay_error"]) == (0.25, 0)
    assert found["cold/replay_coalesced_ratio"] == 0.25


def test_refusals_and_failures_are_no_outcomes() -> None:
    wrong = [timing(5, 5.1, None, rejected=1.0), timing(6, 7, None, error="no")]
    found = {one.name: one.value for one in measure_caching(raw({"cold": [*COLD, *wrong]}), CachingSettings(), 0)}
    assert [found[f"cold/{name}"] for name in ("requests", "failures", "rejected")] == [6, 1, 1]
    assert found["cold/rejected_ratio"] == pytest.approx(1 / 6)
    assert found["cold/hit_ratio"] == 0.25


def test_the_cost_of_a_miss_by_hand() -> None:
    phases = {"uncached": [timing(0, 2, None), timing(3, 5, None)], "no-cache": [timing(10, 12.5, "miss")]}
    found = {one.name: one.value for one in measure_caching(raw(phases), CachingSettings(), 0)}
    assert found["miss_cost_ms"] == pytest.approx(500)


def test_what_hits_save_is_the_time_of_an_engine_kept_busy() -> None:
    """Two answers in ten seconds at 36 USD an hour: 5 s and 0.05 USD each, however long misses queue elsewhere."""
    queued = [timing(10, 19, "miss", 1), *(timing(10, 10.1, "hit") for _ in range(4))]
    phases = {"uncached": [timing(0, 2, None), timing(3, 5, None)], "warm": queued}
    found = {one.name: one.value for one in measure_caching(raw(phases), CachingSettings(price_per_hour=36), 0)}
    assert found["saved_engine_s"] == pytest.approx(20)
    assert found["uncached_usd_per_1000"] == pytest.approx(50)
    assert found["saved_usd"] == pytest.approx(0.2)


def test_the_interval_of_a_ratio_takes_a_second_as_one() -> None:
    """Seconds of ten hits and of ten misses in turn: that is five and five, not fifty of a hundred."""
    asked = [timing(n + k / 20, n + k / 20, "hit" if n % 2 else "miss", n) for n in range(10) for k in range(10)]
    found = {one.name: one for one in measure_caching(raw({"cold": asked}), CachingSettings(), 0)}
    low, high = found["cold/hit_ratio"].interval or (0.5, 0.5)
    assert found["cold/hit_ratio"].value == 0.5
    assert (low, high) == (pytest.approx(0.2, abs=0.1), pytest.approx(0.8, abs=0.1))  # binomial, 10 trials


def test_the_prediction_knows_the_budget() -> None:
    """Answers of half a MiB: of three asked in turn, one MiB holds none long enough, two hold all."""
    asked = [timing(n, n + 0.1, "miss", n % 3) for n in range(9)]
    size = float(entry_bytes(1 << 19) + OVERHEAD)
    found = [
        {one.name: one.value for one in measure_caching(raw({"warm": asked}), CachingSettings(cache_mib=mib), 0, size)}
        for mib in (1, 2)
    ]
    assert found[0]["warm/replay_hit_ratio"] < found[1]["warm/replay_hit_ratio"] == pytest.approx(6 / 9)


def test_a_run_in_which_nothing_ended_well_names_the_first_failure() -> None:
    with pytest.raises(UserError, match="no memory"):
        measure_caching(raw({"cold": [timing(0, 1, None, error="no memory")]}), CachingSettings(), 0)
