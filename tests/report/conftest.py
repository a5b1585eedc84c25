"""A reports folder as the measuring stages leave it: three variants and a baseline, values chosen by hand."""

from pathlib import Path

import pytest

from tests.evaluation.conftest import sample
from tradewind.evaluation.results import write_result, write_speed
from tradewind.evaluation.scores import answer_measurements, answer_row, likelihood_measurements
from tradewind.evaluation.variant import Result
from tradewind.files import write_json
from tradewind.report.build import Folders
from tradewind.tracking import Measurement

PARENTS = {"base-fp32": None, "teacher-fp32": None, "teacher-int8": "teacher-fp32"}
RIGHT = {"base-fp32": 2, "teacher-fp32": 8, "teacher-int8": 8, "first-sentence": 1}
"""How many of the ten questions each answers in the gold words; its other answers are wrong."""
DECODE = {"base-fp32": 40.0, "teacher-fp32": 40.0, "teacher-int8": 150.0}


def result(label: str) -> Result:
    samples = [sample(n, kind, f"gold {n}") for kind in ("what", "default") for n in range(5)]
    rows = []
    for place, row in enumerate(samples):
        answer = row["answer"] if place % 2 * 5 + place // 2 < RIGHT[label] else "zzz"
        rows.append(answer_row(row, answer, nats=3.0, gold_bytes=6, gold_tokens=2))
    found = answer_measurements(rows, seed=0) + likelihood_measurements(rows, seed=0)
    if label == "teacher-int8":
        found += [Measurement("kl_to_parent", 0.006, "nat", 90, (0.005, 0.007), "KL", 0)]
        found += [Measurement("top1_agreement", 0.95, "1", 90, (0.94, 0.96), "top-1", 0)]
    return Result(rows, found, "digest")


def speed(label: str) -> list[Measurement]:
    values = {
        "prefill_tokens_per_s": 900.0,
        "decode_tokens_per_s": DECODE[label],
        "ttft_ms": 250.0,
        "decode_tokens_per_s_batch": 500.0,
    }
    timed = [Measurement(name, value, "u", 5, (value * 0.9, value * 1.1), "f", 0) for name, value in values.items()]
    return [*timed, Measurement("peak_rss_bytes", 5e8, "B", 1, None, "VmHWM")]


@pytest.fixture
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Folders:
    monkeypatch.setenv("TRADEWIND_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    made = Folders(tmp_path / "reports", tmp_path / "variants", tmp_path / "corpus")
    for name, parent in PARENTS.items():
        model, _, precision = name.rpartition("-")
        size = {"parameters": 134_515_008, "bytes": 538_000_000 if precision == "fp32" else 145_000_000}
        names = {"name": name, "model": model, "precision": precision, "parent": parent}
        manifest = names | size | {"weights_digest": name * 4}
        write_json(made.variants / name / "manifest.json", manifest)
        write_result(name, {name: result(name)}, {}, {"engine": "ort"}, made.reports)
        write_speed(name, speed(name), {}, {"engine": "ort"}, made.reports)
    write_result("baselines", {"first-sentence": result("first-sentence")}, {}, {}, made.reports)
    write_json(made.corpus / "summary.json", {"packages": {"numpy": {"objects": 3, "version": "2.4.6"}}})
    return made
