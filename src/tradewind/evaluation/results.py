"""Result files of the measuring stages: written by `evaluate` and `benchmark`, read by `report`, the README and the
notebooks.

`reports/<stage>/<name>.json` (of a study `reports/studies/<study>/<stage>/<name>.json`) holds {label: {"run_id",
"metrics": {name: value}, "intervals": {name: [low, high]}, ...}}; beside an evaluation, `<name>.questions.jsonl` holds one
row per question and label. It knows nothing of how they are shown.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tradewind.evaluation.scores import Row, kind_table
from tradewind.evaluation.variant import Result
from tradewind.files import read_json, read_jsonl, write_json, write_jsonl
from tradewind.tracking import Measurement, record_run

QUESTION = "compression"


def write_result(
    name: str,
    results: Mapping[str, Result],
    params: dict[str, Any],
    tags: dict[str, str],
    reports: str | Path = "reports",
    study: str | None = None,
) -> None:
    """Evaluation results by label (a variant has one, the baselines several) as files, and a run record for each."""
    folder = _folder(reports, study) / "evaluate"
    labels: dict[str, Any] = {}
    for label, result in results.items():
        run_id = _record("evaluate", label, result.measurements, params, tags, Path(reports), study)
        labels[label] = _plain(run_id, result.measurements) | {
            "kinds": kind_table(result.rows),
            "questions_digest": result.questions_digest,
        }
    write_jsonl(folder / f"{name}.questions.jsonl", [{"label": k, **row} for k, r in results.items() for row in r.rows])
    write_json(folder / f"{name}.json", labels)


def write_speed(
    name: str,
    measured: Sequence[Measurement],
    params: dict[str, Any],
    tags: dict[str, str],
    reports: str | Path = "reports",
    study: str | None = None,
    **more: Any,
) -> None:
    """Speed of one variant, and what `more` says of it, as a file and a run record."""
    run_id = _record("benchmark", name, measured, params, tags, Path(reports), study)
    write_json(_folder(reports, study) / "benchmark" / f"{name}.json", {name: _plain(run_id, measured) | more})


def read_results(stage: str, reports: str | Path = "reports") -> dict[str, dict[str, Any]]:
    """Label -> what the stage wrote for it, over all files of the stage."""
    out: dict[str, dict[str, Any]] = {}
    for path in sorted((Path(reports) / stage).glob("*.json")):
        out |= read_json(path)
    return out


def read_rows(reports: str | Path = "reports") -> dict[str, list[Row]]:
    """Label -> its rows, question by question."""
    out: dict[str, list[Row]] = {}
    for path in sorted((Path(reports) / "evaluate").glob("*.questions.jsonl")):
        for row in read_jsonl(path):
            out.setdefault(row["label"], []).append(row)
    return out


def _record(
    stage: str,
    label: str,
    measured: Sequence[Measurement],
    params: dict[str, Any],
    tags: dict[str, str],
    reports: Path,
    study: str | None,
) -> str:
    path = reports / "runs" / f"{f'{study}-' if study else ''}{stage}-{label}.json"
    tags = tags | ({"study": study} if study else {})
    with record_run(stage=stage, question=QUESTION, variant=label, params=params, tags=tags, path=path) as run:
        for measurement in measured:
            run.log(measurement)
    return run.run_id


def _folder(reports: str | Path, study: str | None) -> Path:
    return Path(reports) / "studies" / study if study else Path(reports)


def _plain(run_id: str, measured: Sequence[Measurement]) -> dict[str, Any]:
    return {
        "run_id": run_id,
        "metrics": {m.name: m.value for m in measured},
        "intervals": {m.name: list(m.interval) for m in measured if m.interval},
        "formulas": {m.name: m.formula for m in measured},
        "n": {m.name: m.n for m in measured},
    }
