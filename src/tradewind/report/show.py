"""What the notebooks show: sections of the reports as Markdown or pictures, and one variant measured again, live.

A notebook cell that shows a section carries the tag `measured:<section>`, by which `tradewind.notebooks` checks its
committed output. Where reports and variants lie is said by TRADEWIND_REPORTS and TRADEWIND_VARIANTS (default: this
repository's), and by TRADEWIND_ENGINE what runs a live measurement.
"""

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from IPython.display import Image, Markdown

from tradewind.errors import UserError
from tradewind.evaluation.results import read_results
from tradewind.evaluation.speed import FORMULAS, SpeedPlan, measure
from tradewind.report import caching, compression, hardware, serving, serving_pictures
from tradewind.report.readme import Reports
from tradewind.report.summary import in_order
from tradewind.report.table import differences_table, measured_table

LIVE = {"slots": 8, "max_len": 512, "threads": 2, "prefill_tokens": 256, "ttft_tokens": 128, "decode_tokens": 32}
"""A shorter plan than the benchmark stage's: a few seconds. Rates still compare, TTFT is of a shorter prompt."""


def folder(name: str) -> Path:
    """`reports` or `variants`, from the environment or this repository."""
    default = {"reports": "reports", "variants": "artifacts/variants"}[name]
    return Path(os.environ.get(f"TRADEWIND_{name.upper()}", default))


def section(name: str) -> Markdown:
    """A section of the reports: one of SECTIONS."""
    return Markdown(section_text(name, folder("reports")))


def picture(name: str) -> Image:
    """A picture under reports/plots."""
    return Image(data=picture_bytes(name, folder("reports")), format="png")


def study_picture(name: str) -> Image | Markdown:
    """A study's, by its path under reports/ without .png, or the line that says what makes it."""
    path = folder("reports") / f"{name}.png"
    if not path.is_file():
        return Markdown(serving.missing(name))
    return Image(data=path.read_bytes(), format="png")


def drawing(name: str) -> Image | Markdown:
    """A picture of `tradewind.report.serving_pictures`, or the line that says what makes its report."""
    drawn = serving_pictures.draw(name, Reports(folder("reports")))
    if drawn is None:
        return Markdown(serving.missing(serving_pictures.PICTURES[name][0]))
    return Image(data=drawn, format="png")


def picture_bytes(name: str, reports: Path) -> bytes:
    path = reports / "plots" / name
    if not path.is_file():
        raise UserError(f"{path}: no such picture (run `make repro`)")
    return path.read_bytes()


def section_text(name: str, reports: Path) -> str:
    if name not in SECTIONS:
        raise UserError(f"no section {name!r} (choices: {', '.join(SECTIONS)})")
    return SECTIONS[name](Reports(reports))


def _table(reports: Mapping[str, Any]) -> str:
    return measured_table(reports["summary"], reports["comparisons"])


def _differences(reports: Mapping[str, Any]) -> str:
    return differences_table(reports["comparisons"])


def _divergences(reports: Mapping[str, Any]) -> str:
    lines = [
        "| quantized variant | KL to its fp32 weights, nats | top-1 agreement | F1 lost, points |",
        "|---|---:|---:|---:|",
    ]
    lost = {row["ours"]: 0.0 - row["value"] for row in reports["comparisons"]["f1_differences"].values()
            if row["theirs"].endswith("-fp32") and not row["ours"].endswith("-fp32")}  # fmt: skip
    for name in in_order(reports["summary"]["variants"]):
        row = reports["summary"]["variants"][name]
        if row["kl_to_parent"] is not None:
            cells = f"{row['kl_to_parent']:.4f} | {100 * row['top1_agreement']:.1f} % | {100 * lost[name]:+.1f}"
            lines.append(f"| {name} | {cells} |")
    return "\n".join(lines) + "\n"


def _kinds(reports: Mapping[str, Any]) -> str:
    results = read_results("evaluate", reports.folder)  # type: ignore[attr-defined]
    names = [name for name in in_order(reports["summary"]["variants"]) if name in results]
    kinds = sorted({kind for name in names for kind in results[name]["kinds"]})
    lines = ["| kind (F1; refused for unanswerable) | " + " | ".join(names) + " |", "|---|" + "---:|" * len(names)]
    for kind in kinds:
        rows = [results[name]["kinds"][kind] for name in names]
        lines.append(f"| {kind} | " + " | ".join(f"{row.get('f1', row.get('refused')):.2f}" for row in rows) + " |")
    return "\n".join(lines) + "\n"


def _decision(reports: Mapping[str, Any]) -> str:
    gate = reports["gate"]
    head = f"Served by default: **{gate['champion']}**." if gate["champion"] else "**No variant passes the gate.**"
    return (
        "\n".join([head, "", *(f"- {name}: {'; '.join(why) or 'champion'}" for name, why in gate["reasons"].items())])
        + "\n"
    )


SECTIONS: dict[str, Callable[[Reports], str]] = {
    "table": _table,
    "differences": _differences,
    "divergences": _divergences,
    "kinds": _kinds,
    "decision": _decision,
    **serving.SECTIONS,
    **caching.SECTIONS,
    **compression.SECTIONS,
    **hardware.SECTIONS,
}


def remeasure(variant: str | None = None, repeats: int = 3, seed: int = 0) -> Markdown:
    """Measure `variant` (None: the gate's choice, else the first) now, in a fresh process, beside its recorded rates.
    Time to first token and memory are left out, as the recorded ones are of longer prompts and contexts."""
    reports = Reports(folder("reports"))
    name = variant or reports["gate"]["champion"] or in_order(reports["summary"]["variants"])[0]
    engine = os.environ.get("TRADEWIND_ENGINE", "ort")
    plan = SpeedPlan(engine=engine, batch_tokens=16, repeats=repeats, warm_up=1, **LIVE)
    path = None if engine == "mock" else folder("variants") / name
    live = {m.name: m for m in measure({name: path}, plan, seed)[name]}
    recorded = read_results("benchmark", folder("reports"))[name]["metrics"]
    lines = [f"`{name}`, engine `{engine}`, median of {repeats} now:", "", "| | recorded | now |", "|---|---:|---:|"]
    for key in FORMULAS:
        if key in recorded and key != "ttft_ms":
            lines.append(f"| {key} | {_plain(recorded[key])} | {_plain(live[key].value)} |")
    return Markdown("\n".join(lines))


def _plain(value: float | None) -> str:
    return "-" if value is None else f"{value:,.0f}"
