"""The roofline's picture: operations a second of every measured point against its operations a byte, under the roofs of the
peaks that this host's engines were measured to reach. Colour: the variant, marker: prefill or decode.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from tradewind.files import atomic_path

MARKERS = {"prefill": "^", "decode": "o"}
STYLES = ("-", "--", ":", "-.")


def draw(found: Mapping[str, Any], path: Path) -> None:
    """A panel for each engine. found: of `tradewind.hardware.bench`."""
    with atomic_path(path) as temporary:
        figure_of(found).savefig(temporary, format="png", dpi=110, metadata={"Software": None})


def figure_of(found: Mapping[str, Any]) -> Figure:
    engines = found["engines"]
    figure = Figure(figsize=(7 * len(engines), 6), layout="constrained")
    FigureCanvasAgg(figure)
    for axes, (name, part) in zip(figure.subplots(1, len(engines), squeeze=False).flat, engines.items(), strict=True):
        _panel(axes, part)
        axes.set(
            title=f"engine {name} on {part['chip']}", xlabel="operations a byte read", ylabel="operations a second"
        )
        axes.legend(fontsize=7, loc="lower right")
    figure.suptitle(f"Measured points under the roofs of measured peaks\n{found['device']}", fontsize=11)
    return figure


def _panel(axes: Axes, part: Mapping[str, Any]) -> None:
    points, peaks = part["points"], part["peaks"]
    intensities = [row["flops_per_s"] / row["bytes_per_s"] for row in points]
    reach = np.geomspace(min(intensities) / 2, max(intensities) * 2, 200)
    dtypes = [name for name in peaks["flops"] if "." not in name and name in peaks["bandwidth"]]
    for dtype, style in zip(dtypes, STYLES, strict=False):
        roof = np.minimum(peaks["flops"][dtype], peaks["bandwidth"][dtype] * reach)
        axes.plot(reach, roof, style, color="0.4", lw=1, label=f"roof of {dtype} weights")
    variants = list(dict.fromkeys(row["variant"] for row in points))
    for number, variant in enumerate(variants):
        for program, marker in MARKERS.items():
            mine = [(x, row["flops_per_s"]) for x, row in zip(intensities, points, strict=True)
                    if row["variant"] == variant and row["program"] == program]  # fmt: skip
            label = variant if program == "decode" else None
            axes.scatter(*zip(*mine, strict=True), marker=marker, s=22, color=f"C{number}", label=label)
    axes.set(xscale="log", yscale="log")
    axes.grid(alpha=0.3, which="both")
