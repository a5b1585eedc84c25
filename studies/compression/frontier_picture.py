"""The study's picture: answer F1 against size, decode speed and memory. Colour: the model, marker: the precision, hollow:
outside its bounds; the front a line, its knee a ring, the knee of those within bounds a dashed one.

Named on a front: its ends, its knees, and what answers better for certain than the next cheaper member. Of the others,
colour and marker tell all but the method; the tables name them.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.legend import Legend
from matplotlib.lines import Line2D
from matplotlib.text import Annotation

from tradewind.files import atomic_path
from tradewind.report.labels import marks, place_labels, point_label
from tradewind.report.plots import MARKERS, plain_ticks
from tradewind.report.summary import in_order

COLOURS = ("#1f77b4", "#d95f02", "#1b9e77", "#7570b3", "#e7298a", "#66a61e", "#a6761d", "#17becf")
PANELS = (
    ("disk_bytes", 1e-6, "on disk, MB (less is better)"),
    ("decode_tokens_per_s", 1.0, "decode, tokens/s, one stream (more is better)"),
    ("peak_rss_bytes", 1e-6, "peak resident memory, MB (less is better)"),
)
RINGS: Mapping[str, Any] = {"knee": (18, "-"), "knee_within": (13, (0, (2, 2)))}
"""Diameter in points and line of a knee's ring: both are seen where they are one variant's."""


def draw(rows: Mapping[str, Mapping[str, Any]], fronts: Mapping[str, Any], folder: Path, device: str) -> list[Path]:
    """frontier.png in `folder`."""
    path = folder / "frontier.png"
    with atomic_path(path) as temporary:
        figure_of(rows, fronts, device).savefig(temporary, format="png", dpi=110, metadata={"Software": None})
    return [path]


def figure_of(rows: Mapping[str, Mapping[str, Any]], fronts: Mapping[str, Any], device: str) -> Figure:
    """A panel for each cost; the legend in the fourth place."""
    figure = Figure(figsize=(13, 10), layout="constrained")
    FigureCanvasAgg(figure)
    models = list(dict.fromkeys(rows[name]["model"] for name in in_order(rows)))
    colours = dict(zip(models, COLOURS, strict=False))
    *panels, last = figure.subplots(2, 2).flat
    drawn = []
    for axes, (cost, scale, label) in zip(panels, PANELS, strict=True):
        drawn.append(_panel(axes, rows, fronts[cost], cost, scale, colours))
        axes.set(xlabel=label, ylabel="answer F1 (bars: 95 % interval)")
    _legend(last, colours)
    figure.suptitle(f"Quality, size, speed and memory of {len(rows)} variants\n{device}", fontsize=11)
    figure.draw_without_rendering()  # places are known from here on
    for axes, (cost, scale, _), (line, labels) in zip(panels, PANELS, drawn, strict=True):
        points = ((row[cost] * scale, row["answer_f1"], *row["answer_f1_ci"]) for row in rows.values())
        place_labels(labels, line, marks(axes, points))
    return figure


def _panel(
    axes: Axes, rows: Mapping[str, Any], edge: Mapping[str, Any], cost: str, scale: float, colours: Mapping[str, str]
) -> tuple[Line2D, list[Annotation]]:
    """The front's line, and the labels that are yet to be placed."""
    axes.set_xscale("log")
    for row in rows.values():
        at, (low, high) = (row[cost] * scale, row["answer_f1"]), row["answer_f1_ci"]
        face = colours.get(row["model"], "#000000")
        axes.vlines(at[0], low, high, color=face, lw=0.8, alpha=0.4)
        axes.plot(
            *at, MARKERS[row["precision"]], ms=7, color=face, mfc="white" if row["recommended"] is False else face
        )
    on = [rows[name] for name in edge["variants"]]
    xy = [one[cost] * scale for one in on], [one["answer_f1"] for one in on]
    (line,) = axes.plot(*xy, color="#bbbbbb", lw=5, alpha=0.5, zorder=0)
    for key, (size, style) in RINGS.items():
        if edge[key]:
            bend = rows[edge[key]]
            axes.scatter(bend[cost] * scale, bend["answer_f1"], s=size**2, fc="none", ec="#222222", ls=style, lw=1.2)
    axes.grid(alpha=0.25, which="both")
    axes.margins(x=0.16, y=0.08)
    plain_ticks(axes)
    labels = [point_label(axes, name, (rows[name][cost] * scale, rows[name]["answer_f1"]), 9) for name in named(edge)]
    return line, labels


def named(edge: Mapping[str, Any]) -> list[str]:
    """Of a front: its ends, its knees, and who is better for certain than the next cheaper."""
    ends = {edge["variants"][0], edge["variants"][-1], edge["knee"], edge["knee_within"]}
    better = {name for name, step in edge["steps"].items() if step["interval"][0] > 0}
    return sorted((ends | better) - {None})


def _legend(axes: Axes, colours: Mapping[str, str]) -> None:
    """In a place of its own: models, precisions, and how to read the rest."""
    axes.axis("off")
    models = [Line2D([], [], color=colour, marker="o", ls="", label=name) for name, colour in colours.items()]
    shapes = [Line2D([], [], color="#444444", marker=mark, ls="", label=name) for name, mark in MARKERS.items()]
    signs = [
        Line2D([], [], color="#444444", marker="o", ls="", mfc="white", label="outside the bounds of its precision"),
        Line2D([], [], color="#bbbbbb", lw=5, alpha=0.5, label="Pareto front of all variants"),
        Line2D([], [], color="#222222", marker="o", ls="", ms=15, mfc="none", label="its knee"),
        Line2D([], [], color="#222222", marker="$\u25cc$", ls="", ms=15, label="knee of the front within bounds"),
    ]
    parts = ((models, "model", (0.0, 1.0)), (shapes, "precision", (0.3, 1.0)), (signs, None, (0.0, 0.4)))
    for handles, title, place in parts:
        axes.add_artist(Legend(axes, handles, [str(one.get_label()) for one in handles], title=title, loc="upper left",
                               bbox_to_anchor=place, frameon=False, alignment="left", labelspacing=0.7))  # fmt: skip
    note = "Named: the ends, the knees, and what answers\nbetter for certain than the next cheaper on the front."
    axes.text(0.02, 0.08, note, fontsize=10, va="top")
