"""reports/summary.json: one row per variant, made of what `evaluate` and `benchmark` wrote and of the manifests.

`git_commit` is the commit that the working tree stood on when the benchmarks ran (`-dirty` where it differed), `device`
where they ran: a report that is written again over the same measurements names the same.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from tradewind.compression.variant import MODELS, PRECISIONS, precision_of
from tradewind.errors import UserError
from tradewind.evaluation.results import read_results, read_rows
from tradewind.evaluation.scores import Row, difference
from tradewind.files import read_json, write_json

QUALITY = ("answer_f1", "bits_per_byte", "kl_to_parent", "top1_agreement")
SPEED = ("prefill_tokens_per_s", "decode_tokens_per_s", "ttft_ms", "peak_rss_bytes")
KEYS = ("parameters", "bytes", "answer_f1", "answer_f1_ci", *QUALITY[1:], *SPEED, "run_id")
"""The keys of one variant, in the order of the table. Null where a measure does not apply (an fp32 row has no
parent)."""


def variant_rows(reports: Path, variants: Path, run_ids: Mapping[str, str]) -> dict[str, dict[str, Any]]:
    """Name -> the keys of `KEYS`. Raises UserError for a variant that was not evaluated or not benchmarked."""
    evaluated, measured = read_results("evaluate", reports), read_results("benchmark", reports)
    rows = {}
    for name, manifest in manifests(variants).items():
        for stage, results in (("evaluate", evaluated), ("benchmark", measured)):
            if name not in results:
                raise UserError(f"{reports}/{stage}: no result for variant {name!r} (run `make repro`)")
        quality, speed = evaluated[name], measured[name]
        row = {key: manifest[key] for key in ("parameters", "bytes")}
        row |= {key: quality["metrics"].get(key) for key in QUALITY}
        row |= {key: speed["metrics"][key] for key in SPEED}
        row["answer_f1_ci"] = quality["intervals"].get("answer_f1")
        rows[name] = row | {"run_id": run_ids.get(name, quality["run_id"])}
    return rows


def manifests(variants: Path) -> dict[str, dict[str, Any]]:
    """Variant name -> manifest, base before teacher before student, and by falling precision."""
    found = {path.parent.name: read_json(path) for path in variants.glob("*/manifest.json")}
    if not found:
        raise UserError(f"{variants}: no variants (run `make repro`)")
    return {name: found[name] for name in in_order(found)}


def in_order(names: Iterable[str]) -> list[str]:
    """Variant names as tables show them; names of another form come last."""
    return sorted(names, key=_place)


def _place(name: str) -> tuple[int, int, str]:
    model, _, recipe = name.partition("-")
    return _rank(MODELS, model), _rank(PRECISIONS, precision_of(recipe)), name


def _rank(known: tuple[str, ...], word: str) -> int:
    return known.index(word) if word in known else len(known)


def comparisons(reports: Path, parents: Mapping[str, str | None], seed: int) -> dict[str, dict[str, Any]]:
    """ "A - B" -> paired difference in answer F1: each quantized variant against its parent, the teacher and the
    student against every baseline, the student against the teacher."""
    rows = read_rows(reports)
    pairs = [(name, parent) for name, parent in parents.items() if parent]
    baselines = [name for name in rows if name not in parents] + ["base-fp32"]
    pairs += [(model, other) for model in ("teacher-fp32", "student-fp32") for other in sorted(baselines)]
    pairs += [("student-fp32", "teacher-fp32")]
    return {f"{a} - {b}": _difference(rows, a, b, seed) for a, b in pairs if a in rows and b in rows}


def _difference(rows: Mapping[str, list[Row]], ours: str, theirs: str, seed: int) -> dict[str, Any]:
    return {"ours": ours, "theirs": theirs} | difference(rows[ours], rows[theirs], seed)


def baseline_rows(reports: Path, variants: Iterable[str]) -> dict[str, dict[str, Any]]:
    """Label -> its evaluation, of what was evaluated and is no variant; "base-fp32" stands among the variants."""
    known = set(variants)
    return {label: result for label, result in read_results("evaluate", reports).items() if label not in known}


def write_summary(
    path: Path, variants: Mapping[str, Any], profile: str, device: str, git_commit: str | None
) -> dict[str, Any]:
    summary = {"profile": profile, "device": device, "git_commit": git_commit, "variants": dict(variants)}
    write_json(path, summary)
    return summary
