"""The false-hit curve: what each threshold lets through, right pairs and wrong ones, with and without the guard."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from tradewind.files import atomic_path

RIGHT = {"paraphrase": "#1f77b4", "respelled": "#6baed6"}
WRONG = {
    "other_symbol": "#fdae6b", "other_parameter": "#e6550d", "other_kind": "#a63603", "polarity": "#d62728",
    "number": "#9467bd", "reversed": "#2ca02c", "and_or": "#98df8a", "question_word": "#17becf", "random": "#999999",
}  # fmt: skip
TITLES = {"none": "no guard", "rules": "numbers, negation, polarity, identifiers", "strict": "every word, in order"}


def draw(path: Path, classes: Mapping[str, Any], device: str) -> None:
    """classes: name -> pairs and, by guard, rows of threshold, share and interval."""
    figure = Figure(figsize=(12, 4.8), layout="constrained")
    FigureCanvasAgg(figure)
    for axes, (guard, title) in zip(figure.subplots(1, 3, sharey=True), TITLES.items(), strict=True):
        for names, style in ((RIGHT, "-"), (WRONG, "--")):
            for name, colour in names.items():
                _curve(axes, classes[name], guard, name, colour, style)
        axes.axhline(0.01, color="#444444", lw=0.8, ls=":")
        axes.set_title(f"guard: {title}", fontsize=9)
        axes.set_xlabel("similarity from which a hit counts")
        axes.grid(alpha=0.25)
    first = figure.axes[0]
    first.set_yscale("symlog", linthresh=0.01)
    first.set(
        ylabel="pairs that hit (bands: 95 %)",
        ylim=(0, 1.05),
        yticks=(0, 0.01, 0.1, 0.5, 1),
    )
    first.set_yticklabels(["0", "1 %", "10 %", "50 %", "100 %"])
    figure.axes[-1].legend(
        fontsize=7, loc="upper right", ncols=2, title="right: solid; wrong: dashed", title_fontsize=7
    )
    figure.suptitle(f"Semantic cache: what a threshold lets through\n{device}", fontsize=10)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", dpi=120, metadata={"Software": None})


def _curve(axes: Axes, found: Mapping[str, Any], guard: str, name: str, colour: str, style: str) -> None:
    rows = found["guards"][guard]
    at = [row["threshold"] for row in rows]
    axes.plot(at, [row["share"] for row in rows], style, color=colour, lw=1.4, label=f"{name} ({found['pairs']})")
    low, high = zip(*(row["interval"] for row in rows), strict=True)
    axes.fill_between(at, low, high, where=[row["hits"] > 0 for row in rows], color=colour, alpha=0.1, lw=0)
