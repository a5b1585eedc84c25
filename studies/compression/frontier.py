"""All variants of the study side by side: distances from their parents, fronts of quality against size and speed, knees.

    python -m studies.compression.frontier

Rates are freed from the machine's drift: each is divided by the anchor's of the same round, and the median of these ratios
multiplied by the anchor's median over all stages. Variants with the same graph are the same program over other numbers,
whose speed does not depend on them: their rounds are put together, and an interval is over processes and their rounds; where
one process is all, it is over its rounds alone.

Results: reports/compression.json, pictures beside the study's reports, and a run for each variant that holds all its figures,
so that MLflow compares them by the tags model, precision, method, recommended, front; its parameters name the runs that they
come from. `recommended` means within the bounds
of its distance from its own fp32 weights, and nothing else.
"""

from collections.abc import Mapping
from itertools import chain, pairwise
from pathlib import Path
from statistics import median
from typing import Any

from studies.compression.frontier_picture import draw
from studies.compression.places import REPORTS, RUNS, STUDY, SUMMARY, VARIANTS, planned
from tradewind import host
from tradewind.compression.export_onnx import GRAPH_FILE
from tradewind.config import run, stage_params
from tradewind.errors import UserError
from tradewind.evaluation.bootstrap import cluster_median_interval
from tradewind.evaluation.results import read_results, read_rows
from tradewind.evaluation.scores import Row, difference
from tradewind.files import read_json, write_json
from tradewind.report.frontier import front, knee
from tradewind.report.recommended import faults, used
from tradewind.report.summary import in_order
from tradewind.tracking import Measurement, git_commit, record_run

QUALITY = ("answer_f1", "bits_per_byte", "perplexity", "kl_to_parent", "top1_agreement", "kl_to_teacher")
RATES = ("prefill_tokens_per_s", "decode_tokens_per_s", "decode_tokens_per_s_batch")
TIMES = ("ttft_ms", "decode_cpu_ms_per_token")
AS_MEASURED = ("load_s", "peak_rss_bytes")
COSTS = {"disk_bytes": False, "decode_tokens_per_s": True, "peak_rss_bytes": False}
"""Cost -> whether more of it is better."""
DISK = "bytes of model.onnx and the files that it points into"
DRIFT = (
    "divided by the anchor's of the same round, times the anchor's median over all stages; with those of the same graph"
)
TEACHER, UNCUT = "teacher-fp32", "vocabulary-fp32"
CUTS = ("depth-fp32", "width-fp32", "sparse-fp32")
"""Made of UNCUT's vocabulary by one more cut: what that costs is their distance from it."""


def main() -> None:
    seed = stage_params("evaluate")["seed"]
    rows, answers, told = variants(seed), read_rows(REPORTS), formulas()
    fronts = {cost: front_of(rows, cost, more, answers, seed) for cost, more in COSTS.items()}
    runs = {name: record(name, row, [cost for cost, one in fronts.items() if name in one["variants"]], told, seed)
            for name, row in rows.items()}  # fmt: skip
    pictures = draw(rows, fronts, REPORTS, host.device())
    cuts = {name: difference(answers[name], answers[UNCUT], seed) for name in CUTS if {name, UNCUT} <= set(rows)}
    head = {"device": host.device(), "git_commit": git_commit(), "seed": seed}
    parts = {path.stem: read_json(path) for path in sorted(REPORTS.glob("*.json"))}
    write_json(
        SUMMARY, {**head, "variants": rows, "fronts": fronts, "cuts": cuts, "runs": runs, "formulas": told, **parts}
    )
    kept = [name for name, row in rows.items() if row["recommended"]]
    print(f"frontier: {len(rows)} variants, within bounds: {', '.join(kept)}; {', '.join(map(str, pictures))}")


def variants(seed: int) -> dict[str, dict[str, Any]]:
    """Name -> all figures of each variant of the plan. Raises UserError where one was not evaluated or measured."""
    evaluated, measured, answers = (
        read_results("evaluate", REPORTS),
        read_results("benchmark", REPORTS),
        read_rows(REPORTS),
    )
    names = in_order(planned())
    if lacking := [name for name in names if name not in evaluated or name not in measured]:
        raise UserError(f"not evaluated or not measured: {', '.join(lacking)}")
    manifests = {name: read_json(VARIANTS / name / "manifest.json") for name in names}
    costs = pooled({name: manifests[name]["digests"][GRAPH_FILE]["sha256"] for name in names}, measured, seed)
    return {name: _variant(name, manifests[name], evaluated[name], costs[name], answers, seed) for name in names}


def pooled(graphs: Mapping[str, str], measured: Mapping[str, Any], seed: int) -> dict[str, dict[str, Any]]:
    """By variant its rates and times with their intervals (`_ci`), over the rounds of all variants with its graph (one
    process each); of these the largest peak and the median time to load; and their names. graphs: variant -> digest."""
    anchors = [measured[name]["anchor"] for name in graphs]
    usual = {key: median(one["metrics"][key] for one in anchors) for key in (*RATES, *TIMES)}
    out = {}
    for graph in set(graphs.values()):
        alike = [name for name in graphs if graphs[name] == graph]
        row: dict[str, Any] = {"timed_with": alike, "measured_in": [measured[name]["run_id"] for name in alike]}
        for key, scale in usual.items():
            processes = [[scale * ratio for ratio in measured[name]["anchor"]["rounds"][key]] for name in alike]
            row |= {key: median(chain(*processes)), f"{key}_ci": cluster_median_interval(processes, seed)}
        row["peak_rss_bytes"] = max(measured[name]["metrics"]["peak_rss_bytes"] for name in alike)
        row["load_s"] = median(measured[name]["metrics"]["load_s"] for name in alike)
        out |= dict.fromkeys(alike, row)
    return out


def _variant(
    name: str,
    manifest: Mapping[str, Any],
    quality: Mapping[str, Any],
    costs: Mapping[str, Any],
    answers: Mapping[str, list[Row]],
    seed: int,
) -> dict[str, Any]:
    row: dict[str, Any] = {key: manifest[key] for key in ("model", "precision", "parent", "parameters")}
    row |= {"method": manifest["rules"].get("method", "none"), "disk_bytes": disk_bytes(VARIANTS / name, manifest)}
    row |= {key: quality["metrics"].get(key) for key in QUALITY}
    row |= {f"{key}_ci": quality["intervals"].get(key) for key in QUALITY}
    row |= costs
    row["f1_to_teacher"] = difference(answers[name], answers[TEACHER], seed)
    row["f1_to_parent"] = difference(answers[name], answers[manifest["parent"]], seed) if manifest["parent"] else None
    row["faults"] = faults(used(row))
    recommended = not row["faults"] if manifest["parent"] else None  # fp32 is what others are held against
    return row | {"recommended": recommended, "evaluated_in": quality["run_id"]}


def disk_bytes(folder: Path, manifest: Mapping[str, Any]) -> int:
    return sum((folder / file).stat().st_size for file in manifest["files"]["ort"])


def front_of(
    rows: Mapping[str, Mapping[str, Any]], cost: str, more: bool, answers: Mapping[str, list[Row]], seed: int
) -> dict[str, Any]:
    """The front over every variant, whether it is within its bounds or not: F1 is what counts. Its knee; the knee of the
    front over those within; and each member's F1 beside the next cheaper member's, paired by question."""
    edge, bend = _edge(rows, cost, more)
    within = _edge({name: row for name, row in rows.items() if row["recommended"] is not False}, cost, more)[1]
    cheapest_first = edge[::-1] if more else edge
    steps = {
        dearer: {"than": cheaper, **difference(answers[dearer], answers[cheaper], seed)}
        for cheaper, dearer in pairwise(cheapest_first)
    }
    return {"variants": edge, "knee": bend, "knee_within": within, "steps": steps}


def _edge(rows: Mapping[str, Mapping[str, Any]], cost: str, more: bool) -> tuple[list[str], str | None]:
    """Names on the front by rising cost, and that of its knee."""
    edge = front([{**row, "variant": name} for name, row in rows.items()], cost, more)
    bend = knee(edge, cost)
    return [one["variant"] for one in edge], bend["variant"] if bend else None


def formulas() -> dict[str, str]:
    """By figure of a variant."""
    stages = (read_results(stage, REPORTS) for stage in ("evaluate", "benchmark"))
    texts = {key: text for stage in stages for one in stage.values() for key, text in one["formulas"].items()}
    texts |= {key: f"{texts[key]}; {DRIFT}" for key in (*RATES, *TIMES)} | {"disk_bytes": DISK}
    return {key: texts[key] for key in (*QUALITY, *RATES, *TIMES, *AS_MEASURED, "disk_bytes") if key in texts}


def record(name: str, row: Mapping[str, Any], on: list[str], told: Mapping[str, str], seed: int) -> str:
    """A run with all figures of one variant; its id."""
    tags = {key: row[key] for key in ("model", "precision", "method")} | {"study": STUDY, "engine": "ort"}
    tags |= {"recommended": str(row["recommended"]).lower(), "front": ",".join(on) or "none"}
    path = RUNS / f"{STUDY}-variant-{name}.json"
    sources = {key: row[key] for key in ("evaluated_in", "measured_in")}
    with record_run(
        stage="frontier", question="compression", variant=name, params=sources, tags=tags, path=path
    ) as made:
        for key, value in row.items():
            if isinstance(value, (int, float)) and not isinstance(value, bool):
                formula = told.get(key, "manifest")
                made.log(Measurement(key, value, UNITS.get(key, "1"), None, _interval(row, key), formula, seed))
    return made.run_id


def _interval(row: Mapping[str, Any], key: str) -> tuple[float, float] | None:
    found = row.get(f"{key}_ci")
    return (found[0], found[1]) if found else None


UNITS = {
    "disk_bytes": "B", "peak_rss_bytes": "B", "bits_per_byte": "bit/B", "kl_to_parent": "nat", "kl_to_teacher": "nat",
    "prefill_tokens_per_s": "token/s", "decode_tokens_per_s": "token/s", "decode_tokens_per_s_batch": "token/s",
    "ttft_ms": "ms", "decode_cpu_ms_per_token": "ms", "load_s": "s",
}  # fmt: skip


if __name__ == "__main__":
    run(main)
