"""The `report` stage: everything under reports/ that shows variants side by side, their runs, the registry and the
champion.

1. Rows from the results of `evaluate` and `benchmark`; comparisons, paired; the gate's decision.
2. Files: summary.json, comparisons.json, gate.json, table.md, model_card.md, plots/.
3. A run record for each variant with all its numbers together; every record imported into MLflow.
4. Fine-tuned variants registered, the alias `champion` moved to the gate's choice.
"""

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tradewind import host, tracking
from tradewind.evaluation.results import QUESTION, read_results
from tradewind.files import read_json, write_json, write_text
from tradewind.report.card import model_card
from tradewind.report.gate import Decision, GateRules, decide
from tradewind.report.plots import write_plots
from tradewind.report.summary import baseline_rows, comparisons, in_order, manifests, variant_rows, write_summary
from tradewind.report.table import differences_table, measured_table
from tradewind.tracking import Measurement

UNITS = {
    "parameters": "1",
    "bytes": "B",
    "answer_f1": "1",
    "bits_per_byte": "bit/B",
    "kl_to_parent": "nat",
    "top1_agreement": "1",
    "prefill_tokens_per_s": "token/s",
    "decode_tokens_per_s": "token/s",
    "ttft_ms": "ms",
    "peak_rss_bytes": "B",
}


@dataclass(frozen=True)
class Folders:
    reports: Path = Path("reports")
    variants: Path = Path("artifacts/variants")
    corpus: Path = Path("artifacts/corpus")


@dataclass(frozen=True)
class Built:
    summary: dict[str, Any]
    comparisons: dict[str, Any]
    decision: Decision


def build_report(rules: GateRules, profile: str, seed: int, folders: Folders = Folders()) -> Built:
    """Steps 1 to 3, without MLflow."""
    known = manifests(folders.variants)
    parents = {name: manifest["parent"] for name, manifest in known.items()}
    rows = variant_rows(folders.reports, folders.variants, {})
    compared = _comparisons(folders.reports, parents, seed)
    decision = _decision(rows, parents, compared, rules)
    device, commit = _origin(folders.reports, rows)
    plots = write_plots(folders.reports / "plots", rows, compared["baselines"], device)
    for name, row in rows.items():
        row["run_id"] = _record(name, row, known[name], folders.reports, profile, seed, plots)
    summary = write_summary(folders.reports / "summary.json", rows, profile, device, commit)
    write_json(folders.reports / "comparisons.json", compared)
    write_json(
        folders.reports / "gate.json",
        {"champion": decision.champion, "reasons": decision.reasons, "rules": asdict(rules)},
    )
    write_text(folders.reports / "table.md", f"{measured_table(summary, compared)}\n{differences_table(compared)}")
    evaluated = read_results("evaluate", folders.reports)
    evaluated = {name: evaluated[name] for name in in_order(evaluated)}
    corpus = read_json(folders.corpus / "summary.json")
    card = model_card(summary, compared, evaluated, known, corpus, decision)
    write_text(folders.reports / "model_card.md", card)
    return Built(summary, compared, decision)


def publish(folders: Folders = Folders()) -> None:
    """Step 4 and the import of all runs, from the written reports; needs MLflow's store. Doing it again changes nothing,
    and brings back what a deleted store has lost."""
    summary, gate = (read_json(folders.reports / f"{name}.json") for name in ("summary", "gate"))
    tracking.import_runs(folders.reports / "runs")
    versions = {}
    for name, row in summary["variants"].items():
        if not name.startswith("base-"):
            tags = {"run_id": row["run_id"], "answer_f1": f"{row['answer_f1']}", "precision": name.rpartition("-")[2]}
            versions[name] = tracking.register_variant(name, folders.variants / name, summary["profile"], tags)
    if gate["champion"]:
        tracking.set_champion(versions[gate["champion"]], summary["profile"])


def _comparisons(reports: Path, parents: Mapping[str, str | None], seed: int) -> dict[str, Any]:
    baselines = {
        label: {
            "answer_f1": result["metrics"]["answer_f1"],
            "answer_f1_ci": result["intervals"].get("answer_f1"),
            "bits_per_byte": result["metrics"].get("bits_per_byte"),
            "run_id": result["run_id"],
        }
        for label, result in baseline_rows(reports, parents).items()
    }
    return {"baselines": baselines, "f1_differences": comparisons(reports, parents, seed)}


def _decision(
    rows: Mapping[str, Mapping[str, Any]],
    parents: Mapping[str, str | None],
    compared: Mapping[str, Any],
    rules: GateRules,
) -> Decision:
    against = {
        row["ours"]: row["value"]
        for row in compared["f1_differences"].values()
        if row["theirs"] == parents.get(row["ours"])
    }
    baselines = {label: row["answer_f1"] for label, row in compared["baselines"].items()}
    baselines |= {name: row["answer_f1"] for name, row in rows.items() if name.startswith("base-")}
    return decide(rows, parents, against, baselines, rules)


def _origin(reports: Path, names: Iterable[str]) -> tuple[str, str | None]:
    """Device and commit of the benchmarks that figures are of, which may be older than this report: DVC skips what did not
    change. Several are named all; without records, those of here and now."""
    paths = [reports / "runs" / f"benchmark-{name}.json" for name in names]
    records = [read_json(path) for path in paths if path.is_file()]
    devices, commits = (
        list(dict.fromkeys(row[key] for row in records if row.get(key))) for key in ("device", "git_commit")
    )
    return " and ".join(devices) or host.device(), " and ".join(commits) or tracking.git_commit()


def _record(
    name: str,
    row: Mapping[str, Any],
    manifest: Mapping[str, Any],
    reports: Path,
    profile: str,
    seed: int,
    plots: list[Path],
) -> str:
    """One run with quality, speed and size of the variant together; the id that the summary names."""
    stages = {stage: read_results(stage, reports)[name] for stage in ("evaluate", "benchmark")}
    sources = {f"{stage}_run": result["run_id"] for stage, result in stages.items()}
    formulas = {key: text for result in stages.values() for key, text in result["formulas"].items()}
    counts = {key: n for result in stages.values() for key, n in result["n"].items()}
    intervals = {key: tuple(ends) for result in stages.values() for key, ends in result["intervals"].items()}
    path = reports / "runs" / f"report-{name}.json"
    tags = {"precision": manifest["precision"], "model": manifest["model"], "profile": profile, **sources}
    params = {"weights_digest": manifest["weights_digest"], "seed": seed}
    with tracking.record_run(
        stage="report", question=QUESTION, variant=name, params=params, tags=tags, path=path
    ) as run:
        for key, unit in UNITS.items():
            run.log(
                Measurement(
                    key, row[key], unit, counts.get(key), intervals.get(key), formulas.get(key, "manifest"), seed
                )
            )
        for plot in plots:
            run.artifact(plot)
    return run.run_id
