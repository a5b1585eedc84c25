"""Notebook 2's sections on figures made by hand."""

from pathlib import Path
from typing import Any

import pytest

from tradewind.files import write_json
from tradewind.report import caching
from tradewind.report.readme import Reports

STUDY = "studies/caching"
COST_PARAMS = {"rounds": 9, "block": 25, "known": 200, "rate": 50.0, "tokens": 44}
NAMES = ("memory hit", "redis fetched", "redis hit", "none", "memory", "redis")


def measured(**values: float | None) -> dict[str, Any]:
    return {name.replace("__", "/"): {"value": value, "n": 7} for name, value in values.items()}


LOAD: dict[str, Any] = {
    "device": "a machine", "git_commit": "abc",
    "memory": {
        "settings": {"model": "m", "rate": 50.0, "users": 4, "answer_tokens": 44, "caching": {
            "questions": 1000, "exponent": 1.0, "cache_mib": 1, "warm_requests": 5000, "burst": 100, "assumed_s": 0.5}},
        "measurements": measured(
            empty__empty__e2e_p50_ms=1.0, empty__empty__e2e_p95_ms=1.1, empty__empty__e2e_p99_ms=1.2,
            kept__hit__e2e_p50_ms=2.25, kept__hit__e2e_p95_ms=3.0, kept__hit__e2e_p99_ms=4.0, kept__generations=0.0,
            warm__hit_ratio=0.8, warm__replay_hit_ratio=0.79, warm__replay_error=-0.01, warm__forecast_hit_ratio=0.83,
            warm__forecast_spread=0.02, warm__forecast_error=0.03, warm__coalesced_ratio=0.01,
            warm__replay_coalesced_ratio=0.01, warm__ideal_hit_ratio=0.9, warm__requests=300.0, warm__rejected=0.0,
            cold__hit_ratio=0.3, cold__replay_hit_ratio=0.2, cold__replay_error=-0.1, cold__coalesced_ratio=0.3,
            cold__replay_coalesced_ratio=0.4, cold__miss__e2e_p50_ms=3900.0, cold__miss__e2e_p95_ms=5500.0,
            cold__requests=200.0, cold__rejected=50.0, cold__failures=0.0,
            miss_cost_ms=-0.5, same_p95_users=12.0, same_p95_gain=3.8, same_p95_goal=4.0, saved_tokens=12000.0,
            saved_engine_s=60.0, burst__generations=1.0),
    },
    "redis": {"measurements": measured(
        fresh__requests=60.0, paused__requests=60.0, paused__added_p50_ms=30.0, paused__added_p95_ms=130.0,
        lost__requests=60.0, lost__added_p50_ms=None, lost__added_p95_ms=None, lost__failures=60.0)},
}  # fmt: skip
LOAD["redis"]["measurements"]["paused/added_p95_ms"]["interval"] = [80.0, 190.0]


@pytest.fixture
def reports(tmp_path: Path) -> Reports:
    write_json(tmp_path / STUDY / "load.json", LOAD)
    return Reports(tmp_path)


def test_hits_and_misses_are_rows_of_their_own(reports: Reports) -> None:
    text = caching.SECTIONS["caching_load"](reports)
    assert "| hit, 0 answers made beside it | 7 | 2.2 | 3.0 | 4.0 |" in text
    assert "| warm | 0.800 | 0.790 (-0.010) | 0.830 ± 0.020 (+0.030) | 0.010 | 0.010 | 0.900 |" in text
    assert "fewer users: 12, with 3.8 times its requests/s; 0.8 / (1 - hit ratio) would be 4.0" in text
    assert "Saved: 12,000 tokens, 60 s of an engine kept busy" in text
    assert "a machine, commit abc" in text


def test_what_was_refused_is_told_by_phase(reports: Reports) -> None:
    text = caching.SECTIONS["caching_load"](reports)
    assert "| cold | 200 | 25.0% | 0 | - | - |" in text
    assert text.index("| cold | 200") < text.index("| warm | 300")  # in the order of the run


def test_where_the_simulator_is_off_it_is_said(reports: Reports) -> None:
    text = caching.SECTIONS["caching_load"](reports)
    assert "`cold` is off: the replay by -0.100, of hits and joined together by +0.000" in text
    assert "Misses took 3900 ms (p50) to 5500 ms (p95) there" in text
    assert "`warm` is off" not in text


def test_what_an_outage_adds_stands_beside_it(reports: Reports) -> None:
    text = caching.SECTIONS["caching_shared"](reports)
    assert "| new question, Redis stopped (SIGSTOP) | 60 | 0% | - | - | - | - | +30 | +130 [+80, +190] |" in text


def test_goals_are_judged_by_the_figures(reports: Reports) -> None:
    text = caching.goals(reports)
    assert "forecast 0.830 ± 0.020, replay 0.790 | yes |" in text
    assert "| 3.8 of 4.0, 12 users, 0.0% refused | no |" in text
    assert "| 100 identical at once: 1 generation | 1 | yes |" in text
    assert "| Redis stopped: p50 at most 100 ms more | +30 ms, - failed, 0% refused | yes |" in text
    assert "| +130 [+80, +190] ms, - failed, 0% refused | no, not for certain |" in text
    assert "| Redis killed: p95 at most 100 ms more | - ms, 60 failed, 0% refused | no |" in text  # it took for ever
    assert "`reports/studies/caching/cost.json`" in text


def test_a_goal_without_a_figure_is_not_measured(tmp_path: Path) -> None:
    write_json(tmp_path / STUDY / "load.json", LOAD | {"redis": {"measurements": {}}})
    assert caching.goals(Reports(tmp_path)).count("| not measured |") == 4


def test_what_a_miss_costs_is_told_by_kind_and_decides(reports: Reports) -> None:
    calls = ("empty", *(f"{name} {kind}" for name in NAMES for kind in ("whole", "stream")))
    made: dict[str, Any] = {f"{name}/p50_ms": {"value": 1.5, "interval": [1.25, 1.75]} for name in calls}
    made |= {f"{name}/p95_ms": {"value": 3.0, "interval": None} for name in calls}
    made |= {f"{name} {kind}/miss_cost_ms": {"value": 0.21, "interval": [0.1, 0.3]} for name in ("memory", "redis")
             for kind in ("whole", "stream")}  # fmt: skip
    facts = {"device": "a machine", "git_commit": "abc", "params": COST_PARAMS}
    write_json(reports.folder / STUDY / "cost.json", facts | {"measurements": made})
    text = caching.SECTIONS["caching_cost"](reports)
    assert "| hit, fetched from Redis | stream | 1.50 [1.25, 1.75] | 3.00 |" in text
    assert "with Redis behind it, whole: +0.21 ms [0.10, 0.30]" in text
    assert "a miss +0.2 ms beside no cache" in caching.decision(reports)
    goals = caching.goals(reports)
    assert "1.50 [1.25, 1.75] | yes, not for certain |" in goals
    assert "whole: +0.21 [+0.10, +0.30]; stream: +0.21 [+0.10, +0.30] | yes |" in goals


def test_the_sweep_stands_beside_both_predictions(reports: Reports) -> None:
    phase: dict[str, Any] = {"measured": 0.5, "interval": [0.45, 0.55], "replay": 0.48, "forecast": 0.53, "ideal": 0.9}
    phase |= {"forecast_spread": 0.01, "failures": 0, "rejected": 2, "requests": 580}
    phase |= {"replay_error": {"mean": -0.02}, "forecast_error": {"mean": 0.03}}
    facts = {"device": "a machine", "git_commit": "abc", "seeds": [0, 1, 2],
             "settings": {"caching": LOAD["memory"]["settings"]["caching"]}}  # fmt: skip
    error = {name: {"replay": {"median": 0.02, "largest": 0.02, "n": 1}} for name in ("cold", "warm")}
    rows = [{"setting": "tenants", "value": 4, "cold": phase, "warm": phase}]
    write_json(reports.folder / STUDY / "sweep.json", facts | {"error": error, "rows": rows})
    text = caching.SECTIONS["caching_sweep"](reports)
    assert "| tenants 4, cold | 0.500 [0.450, 0.550] | 0.480 | -0.020 | 0.530 ± 0.010 | +0.030 | 0.900 |" in text
    assert "warm, replay: median 0.020, largest 0.020 of 1 cells" in text
    assert "at least 580 requests a phase and seed" in text
    assert "Failed requests: 0, refused: 4" in text


def test_false_hits_stand_with_their_intervals_and_what_a_guard_excludes_is_said(reports: Reports) -> None:
    def rows(hits: int) -> list[dict[str, Any]]:
        return [{"threshold": at, "hits": hits, "share": hits / 10, "interval": [0.01, 0.5]} for at in caching.SHOWN]

    wrong = {"pairs": 10, "refused_by": {"none": 0, "rules": 0, "strict": 10},
             "guards": {"none": rows(7), "rules": rows(2), "strict": rows(0)}}  # fmt: skip
    right = wrong | {"refused_by": {"none": 0, "rules": 0, "strict": 9}}
    strict = {"threshold": 0.8, "wrong": {"hits": 0, "pairs": 60}, "classes": {"paraphrase": rows(1)[0]}}
    write_json(reports.folder / STUDY / "semantic.json", {
        "device": "a machine", "git_commit": "abc", "judged": "by hand", "choice": {"none": None, "strict": strict},
        "test": {name: right if name in caching.RIGHT else wrong for name in caching.CLASSES},
        "excluded_by_definition": {"strict": "it refuses all of them."}})  # fmt: skip
    text = caching.SECTIONS["caching_semantic"](reports)
    for words in ("two names in the other order", "and for or, or for and", "another question word"):
        assert f"| {words} (wrong) | 10 | 70.0% | 70.0% | 70.0% | 70.0% | 7 [1.0%, 50.0%] | 2 [1.0%, 50.0%] |" in text
    assert "by definition: 0 [1.0%, 50.0%]" in text
    assert "0 of 60 wrong pairs, but it refuses all of them. It serves 10.0% [1.0%, 50.0%]" in text


def test_the_decision_states_what_was_measured_and_nothing_else(reports: Reports) -> None:
    text = caching.decision(reports)
    assert "A hit takes 1.2 ms beside a route that does nothing" in text
    assert "semantic" not in text


def test_what_was_not_measured_names_its_command(tmp_path: Path) -> None:
    for name, section in caching.SECTIONS.items():
        text = section(Reports(tmp_path))
        assert "make study NAME=caching" in text, name
