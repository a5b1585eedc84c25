"""The frontier on results that are made up: drift falls out, bounds are kept, sections say what the reports hold."""

from pathlib import Path

import pytest

from studies.compression import frontier
from studies.compression.places import VARIANTS, plan
from tradewind.files import write_json, write_jsonl, write_text
from tradewind.report.compression import SECTIONS
from tradewind.report.readme import Reports

REPORTS = Path("reports/studies/compression")
NAMES = {"teacher-fp32": (0.8, None, 100e6), "student-fp32": (0.6, None, 40e6), "student-int4": (0.55, 0.3, 8e6),
         "student-int4-qat": (0.59, 0.05, 8e6)}  # fmt: skip
"""Variant -> answer F1, KL to its parent, bytes."""


def results(name: str, drift: float) -> None:
    """Of one variant; `drift`: how much faster the machine was when it was measured."""
    model, _, recipe = name.partition("-")
    f1, kl, size = NAMES[name]
    parent = None if recipe == "fp32" else f"{model}-fp32"
    manifest = {"model": model, "precision": recipe.partition("-")[0], "parent": parent, "parameters": 1000}
    write_json(VARIANTS / name / "manifest.json", manifest | {"files": {"ort": ["model.onnx"]}})
    write_text(VARIANTS / name / "model.onnx", "x" * int(size / 1e6))
    metrics = {"answer_f1": f1, "bits_per_byte": 0.1, "perplexity": 1.1, "kl_to_parent": kl}
    metrics |= {"top1_agreement": None if kl is None else 0.9}
    intervals = {"answer_f1": [f1 - 0.05, f1 + 0.05]} | ({} if kl is None else {"kl_to_parent": [kl, kl]})
    write_json(REPORTS / "evaluate" / f"{name}.json", {name: {"metrics": metrics, "intervals": intervals}})
    rows = [{"label": name, "id": f"q{i}", "kind": "k", "answerable": True, "f1": f1} for i in range(20)]
    write_jsonl(REPORTS / "evaluate" / f"{name}.questions.jsonl", rows)
    rates = dict.fromkeys(frontier.RATES, 100.0 * drift) | dict.fromkeys(frontier.TIMES, 10.0 / drift)
    own = {key: value * (2.0 if key in frontier.RATES else 1.0) for key, value in rates.items()}
    speed = {"metrics": own | {"load_s": 1.0, "peak_rss_bytes": 1e8}, "anchor": {
        "variant": "a", "metrics": rates, "ratio": {key: own[key] / rates[key] for key in rates},
        "interval": {key: [0.9 * own[key] / rates[key], 1.1 * own[key] / rates[key]] for key in rates}}}  # fmt: skip
    write_json(REPORTS / "benchmark" / f"{name}.json", {name: speed})


@pytest.fixture
def measured(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for place, name in enumerate(NAMES):
        results(name, drift=1.0 + 0.1 * place)
    return frontier.variants(seed=0)


def test_the_machines_drift_falls_out(measured):
    rates = {row["decode_tokens_per_s"] for row in measured.values()}
    assert max(rates) == pytest.approx(min(rates))
    assert max(rates) == pytest.approx(2 * 115.0)  # twice the anchor's median over the stages


def test_a_variant_outside_its_bounds_is_not_recommended_and_says_why(measured):
    assert measured["student-int4-qat"]["recommended"]
    assert not measured["student-int4"]["recommended"]
    assert measured["student-int4"]["faults"] == ["KL 0.3000 (at most 0.1)", "F1 5.0 points lower (at most 3)"]
    assert (measured["student-int4-qat"]["method"], measured["student-int4"]["method"]) == ("qat", "rtn")


def test_the_study_writes_its_report_picture_and_runs(measured, monkeypatch):
    monkeypatch.setattr(frontier, "stage_params", lambda _: {"seed": 0})
    frontier.main()
    reports = Reports("reports")
    assert set(reports["compression"]["runs"]) == set(NAMES)
    assert reports["compression"]["fronts"]["disk_bytes"]["variants"] == [
        "student-int4-qat",
        "student-fp32",
        "teacher-fp32",
    ]
    assert (REPORTS / "frontier.png").read_bytes().startswith(b"\x89PNG")
    assert "student-int4-qat ▪" in SECTIONS["compression_frontier"](reports)
    assert "| student-int4-qat: at least 50 % of rounding's KL recovered | 83 %" in SECTIONS["compression_goals"](
        reports
    )
    assert "make study NAME=compression" in SECTIONS["compression_edge"](reports)


def test_every_part_of_the_plan_is_read():
    assert set(plan()) == {"anchor", "edge", "runtimes", "sensitivity", "strategies"}
