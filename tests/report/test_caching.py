"""Notebook 2's sections on figures made by hand."""

from pathlib import Path
from typing import Any

import pytest

from tradewind.files import write_json
from tradewind.report import caching
from tradewind.report.readme import Reports

STUDY = "studies/caching"
NAMES = ("memory hit", "redis fetched", "redis hit", "none", "memory", "redis")


def measured(**values: float) -> dict[str, Any]:
    return {name.replace("__", "/"): {"value": value, "n": 7} for name, value in values.items()}


LOAD: dict[str, Any] = {
    "device": "a machine", "git_commit": "abc",
    "memory": {
        "settings": {"model": "m", "rate": 50.0, "users": 4, "answer_tokens": 44, "caching": {
            "questions": 1000, "exponent": 1.0, "cache_mib": 1, "warm_requests": 5000, "burst": 100}},
        "measurements": measured(
            empty__empty__e2e_p50_ms=1.0, empty__empty__e2e_p95_ms=1.1, empty__empty__e2e_p99_ms=1.2,
            kept__hit__e2e_p50_ms=2.25, kept__hit__e2e_p95_ms=3.0, kept__hit__e2e_p99_ms=4.0,
            warm__hit_ratio=0.8, warm__predicted_hit_ratio=0.79, warm__coalesced_ratio=0.01, warm__ideal_hit_ratio=0.9,
            cold__hit_ratio=0.3, cold__predicted_hit_ratio=0.2, cold__coalesced_ratio=0.1, cold__ideal_hit_ratio=0.9,
            miss_cost_ms=-0.5, same_p95_gain=3.8, same_p95_goal=4.0, uncached_p95_ms=500.0, saved_tokens=12000.0,
            saved_s=60.0, burst__generations=1.0),
    },
}  # fmt: skip


@pytest.fixture
def reports(tmp_path: Path) -> Reports:
    write_json(tmp_path / STUDY / "load.json", LOAD)
    return Reports(tmp_path)


def test_hits_and_misses_are_rows_of_their_own(reports: Reports) -> None:
    text = caching.SECTIONS["caching_load"](reports)
    assert "| hit, no engine at work beside it | 7 | 2.2 | 3.0 | 4.0 |" in text
    assert "| warm | 0.800 | 0.790 | 0.010 | 0.900 |" in text
    assert "gives 3.8 times its requests/s; 0.8 / (1 - hit ratio) would be 4.0" in text
    assert "a machine, commit abc" in text


def test_what_a_miss_costs_is_told_by_kind_and_decides(reports: Reports) -> None:
    calls = ("empty", *(f"{name} {kind}" for name in NAMES for kind in ("whole", "stream")))
    made: dict[str, Any] = {f"{name}/p50_ms": {"value": 1.5, "interval": [1.25, 1.75]} for name in calls}
    made |= {f"{name}/p95_ms": {"value": 3.0, "interval": None} for name in calls}
    made |= {f"{name} {kind}/miss_cost_ms": {"value": 0.21, "interval": [0.1, 0.3]} for name in ("memory", "redis")
             for kind in ("whole", "stream")}  # fmt: skip
    facts = {"device": "a machine", "git_commit": "abc", "params": {"rounds": 9, "rate": 50.0, "tokens": 44}}
    write_json(reports.folder / STUDY / "cost.json", facts | {"measurements": made})
    text = caching.SECTIONS["caching_cost"](reports)
    assert "| hit, fetched from Redis | stream | 1.50 [1.25, 1.75] | 3.00 |" in text
    assert "with Redis behind it, whole: +0.21 ms [0.10, 0.30]" in text
    assert "a miss +0.2 ms beside no cache" in caching.decision(reports)


def test_the_sweep_stands_beside_its_prediction(reports: Reports) -> None:
    phase = {"measured": 0.5, "predicted": 0.48, "ideal": 0.9, "failures": 0}
    facts = {"device": "a machine", "git_commit": "abc", "settings": {"caching": LOAD["memory"]["settings"]["caching"]}}
    error = {name: {"median": 0.02, "largest": 0.02, "n": 1} for name in ("cold", "warm")}
    rows = [{"setting": "tenants", "value": 4, "cold": phase, "warm": phase}]
    write_json(reports.folder / STUDY / "sweep.json", facts | {"error": error, "rows": rows})
    text = caching.SECTIONS["caching_sweep"](reports)
    assert "| tenants 4 | 0.500 / 0.480 | 0.500 / 0.480 | 0.900 |" in text
    assert "warm: median 0.020, largest 0.020 of 1 runs" in text


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
