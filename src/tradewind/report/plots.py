"""Pareto plots of quality against speed and against size, as PNG and as the CSV that `dvc plots` reads.

A variant is on the front where no other has at least its F1 at less cost. Drawn without pyplot: no state, no display.
"""

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Annotation

from tradewind.compression.variant import precision_of, split_name
from tradewind.files import atomic_path, write_text
from tradewind.report.frontier import front
from tradewind.report.labels import marks, place_labels, point_label

COLOURS = {"base": "#7f7f7f", "teacher": "#1f77b4", "student": "#d95f02"}
MARKERS = {"fp32": "o", "int8": "s", "w8a8": "P", "mixed": "D", "int4": "^"}
"""By precision."""
COLUMNS = ("variant", "answer_f1", "low", "high", "megabytes", "decode_tokens_per_s")


def points(variants: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """One row of `COLUMNS` for each variant that has answers."""
    rows = []
    for name, row in variants.items():
        if row["answer_f1"] is not None:
            low, high = row["answer_f1_ci"]
            values = (name, row["answer_f1"], low, high, row["bytes"] / 1e6, row["decode_tokens_per_s"])
            rows.append(dict(zip(COLUMNS, values, strict=True)))
    return rows


def write_plots(folder: Path, variants: Mapping[str, Any], baselines: Mapping[str, Any], device: str) -> list[Path]:
    """quality.csv, quality_speed.png and quality_bytes.png in `folder`."""
    rows = points(variants)
    write_text(folder / "quality.csv", _csv(rows))
    pictures = (
        ("quality_speed.png", "Quality and speed", "decode_tokens_per_s", True,
         "decode, tokens/s, one stream (more is better)"),
        ("quality_bytes.png", "Quality and size", "megabytes", False, "served weights, MB (less is better)"),
    )  # fmt: skip
    for name, title, cost, more, label in pictures:
        drawn = picture(rows, baselines, cost, more, label, f"{title} of each variant; grey: Pareto front\n{device}")
        with atomic_path(folder / name) as temporary:
            drawn.savefig(temporary, format="png", dpi=130, metadata={"Software": None})
    return [folder / name for name, *_ in pictures]


def _csv(rows: Sequence[Mapping[str, Any]]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def picture(
    rows: Sequence[Mapping[str, Any]], baselines: Mapping[str, Any], cost: str, more: bool, label: str, title: str
) -> Figure:
    """Rows of `COLUMNS` by `cost`, the front as a line beneath them, baselines as dotted lines."""
    figure = Figure(figsize=(8, 5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    axes.set_xscale("log")
    edge = front(rows, cost, more)
    line = axes.plot(
        [r[cost] for r in edge], [r["answer_f1"] for r in edge], color="#bbbbbb", lw=6, alpha=0.5, zorder=1
    )
    labels = [_point(axes, row, cost) for row in rows]
    for name, row in sorted(baselines.items()):
        axes.axhline(row["answer_f1"], color="#444444", lw=0.8, ls=":")
        at = (1.005, row["answer_f1"])  # beside the axes, where no point is
        named = axes.annotate(name, at, xycoords=("axes fraction", "data"), ha="left", va="center", fontsize=8)
        named.set_annotation_clip(False)
    axes.set(xlabel=label, ylabel="answer F1 (bars: 95 % interval)", ylim=(0, 1.02))
    axes.set_title(title, fontsize=9)
    axes.margins(x=0.2)
    plain_ticks(axes)
    axes.grid(alpha=0.25, which="both")
    figure.draw_without_rendering()  # places are known from here on
    place_labels(
        labels, line[0], marks(axes, ((row[cost], *(row[key] for key in ("answer_f1", "low", "high"))) for row in rows))
    )
    return figure


def plain_ticks(axes: Axes) -> None:
    """1, 2, 5, 10, ... on a logarithmic x axis."""
    from matplotlib.ticker import LogLocator, NullFormatter, ScalarFormatter

    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter(ScalarFormatter())
    axes.xaxis.set_minor_formatter(NullFormatter())


def _point(axes: Axes, row: Mapping[str, Any], cost: str) -> Annotation:
    """Drawn with its interval; returns its label."""
    model, recipe = split_name(row["variant"])
    colour = COLOURS.get(model, "#2ca02c")
    error = [[max(0.0, row["answer_f1"] - row["low"])], [max(0.0, row["high"] - row["answer_f1"])]]
    axes.errorbar(
        row[cost],
        row["answer_f1"],
        yerr=error,
        fmt=MARKERS[precision_of(recipe)],
        color=colour,
        ms=8,
        capsize=3,
        zorder=2,
    )
    return point_label(axes, row["variant"], (row[cost], row["answer_f1"]), 8)
