"""The study's picture: answer F1 against size and against decode speed, every variant a point, the front a line, its knee a
ring. Only what is on a front is named; the tables name the rest."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from tradewind.files import atomic_path

COLOURS = ("#1f77b4", "#d95f02", "#1b9e77", "#7570b3", "#e7298a", "#66a61e", "#a6761d", "#7f7f7f")
MARKERS = {"fp32": "o", "int8": "s", "w8a8": "P", "mixed": "D", "int4": "^"}
PANELS = (
    ("disk_bytes", 1e-6, "on disk, MB (less is better)"),
    ("decode_tokens_per_s", 1.0, "decode, tokens/s, one stream (more is better)"),
)


def draw(rows: Mapping[str, Mapping[str, Any]], fronts: Mapping[str, Any], folder: Path, device: str) -> list[Path]:
    """frontier.png in `folder`."""
    figure = Figure(figsize=(13, 6), layout="constrained")
    FigureCanvasAgg(figure)
    models = list(dict.fromkeys(row["model"] for row in rows.values()))
    colours = dict(zip(models, COLOURS, strict=False))
    for axes, (cost, scale, label) in zip(figure.subplots(1, 2, sharey=True), PANELS, strict=True):
        _panel(axes, rows, fronts[cost], cost, scale, colours)
        axes.set_xlabel(label)
    figure.axes[0].set_ylabel("answer F1 (bars: 95 % interval)")
    _legend(figure, colours)
    figure.suptitle(
        f"Quality, size and speed of {len(rows)} variants; line: Pareto front, ring: its knee\n{device}", fontsize=10
    )
    path = folder / "frontier.png"
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", dpi=110, metadata={"Software": None})
    return [path]


def _panel(
    axes: Axes, rows: Mapping[str, Any], edge: Mapping[str, Any], cost: str, scale: float, colours: Mapping[str, str]
) -> None:
    axes.set_xscale("log")
    for row in rows.values():
        low, high = row["answer_f1_ci"]
        at, bar = (
            (row[cost] * scale, row["answer_f1"]),
            [[max(0, row["answer_f1"] - low)], [max(0, high - row["answer_f1"])]],
        )
        face = colours.get(row["model"], "#000000")
        axes.errorbar(*at, yerr=bar, fmt=MARKERS[row["precision"]], ms=7, color=face, elinewidth=0.6,
                      mfc="white" if row["recommended"] is False else face, alpha=0.9)  # fmt: skip
    on = [rows[name] for name in edge["variants"]]
    axes.plot([r[cost] * scale for r in on], [r["answer_f1"] for r in on], color="#bbbbbb", lw=6, alpha=0.5, zorder=0)
    for number, name in enumerate(edge["variants"]):
        at = (rows[name][cost] * scale, rows[name]["answer_f1"])
        axes.annotate(name, at, xytext=(6, 9 if number % 2 else -14), textcoords="offset points", fontsize=8)
    if edge["knee"]:
        bend = rows[edge["knee"]]
        axes.plot(bend[cost] * scale, bend["answer_f1"], "o", ms=17, mfc="none", mec="#222222", mew=1.2)
    axes.grid(alpha=0.25, which="both")
    axes.margins(x=0.15)


def _legend(figure: Figure, colours: Mapping[str, str]) -> None:
    shapes = [Line2D([], [], color=colour, marker="o", ls="", label=name) for name, colour in colours.items()]
    shapes += [Line2D([], [], color="#444444", marker=mark, ls="", label=name) for name, mark in MARKERS.items()]
    shapes.append(Line2D([], [], color="#444444", marker="o", mfc="white", ls="", label="outside its bounds"))
    figure.legend(handles=shapes, loc="outside right upper", fontsize=8)
