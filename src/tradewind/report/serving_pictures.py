"""Notebook 1's pictures, of the reports that `report.serving` tells in words. Each names the data that it shows."""

import hashlib
import io
import json
from collections.abc import Callable
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

from tradewind.report.readme import Reports
from tradewind.report.serving import PEERS, found

DIGEST = "Data"
OURS, PEER, GREY = "#1f77b4", "#d95f02", "#7f7f7f"


def draw(name: str, reports: Reports) -> bytes | None:
    """The PNG of that name in PICTURES, None where its report is not there. It names the data that it shows."""
    report, drawn = PICTURES[name]
    data = found(reports, report)
    if data is None:
        return None
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    FigureCanvasAgg(figure)
    drawn(figure, data)
    for axes in figure.axes:
        axes.grid(alpha=0.25)
        axes.title.set_fontsize(10)
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=110, metadata={"Software": None, DIGEST: digest(data)})
    return file.getvalue()


def digest(data: Any) -> str:
    """Of a report: two pictures with the same one show the same figures, whatever machine drew them."""
    return hashlib.sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()


def drawn_from(png: bytes) -> str | None:
    """The digest that a picture of `draw` names."""
    with Image.open(io.BytesIO(png)) as image:
        return image.info.get(DIGEST)


def _draw_overload(figure: Figure, data: Any) -> None:
    left, right = figure.subplots(1, 2)
    factors = sorted(data["factors"], key=float)
    rows, places = [data["factors"][factor] for factor in factors], range(len(factors))
    seconds = data["work"]["seconds"]
    bottom = [0.0] * len(rows)
    for key, colour, words in (("accepted", OURS, "answered"), ("refused", GREY, "refused at once")):
        heights = [row[key] / seconds for row in rows]
        left.bar(places, heights, bottom=bottom, color=colour, label=words)
        bottom = [low + height for low, height in zip(bottom, heights, strict=True)]
    left.axhline(data["capacity_per_s"], color=PEER, ls="--", lw=1, label="capacity, closed loop")
    left.set(title="What became of the arrivals", ylabel="requests/s", xlabel="arrivals, times the capacity")
    for share, colour in (("p50", OURS), ("p99", PEER)):
        right.plot(
            places, [row["ttft_ms"][share] for row in rows], "o-", color=colour, label=f"TTFT of answered, {share}"
        )
        right.plot(
            places, [row["refused_ms"][share] for row in rows], "s--", color=colour, label=f"429 of refused, {share}"
        )
    right.axhline(data["work"]["ttft_goal_ms"], color=GREY, lw=1, ls=":", label="TTFT goal")
    right.set(title="How long it took", ylabel="ms", xlabel="arrivals, times the capacity", yscale="log")
    for axes in (left, right):
        axes.set_xticks(places, [f"{factor}x" for factor in factors])
    left.legend(fontsize=8)
    right.legend(fontsize=8, loc="center left", bbox_to_anchor=(1.0, 0.5))


def _draw_peer(figure: Figure, data: Any) -> None:
    axes = figure.subplots()
    keys, names = list(PEERS), list(data["variants"])
    for number, (name, colour) in enumerate(zip(names, (OURS, PEER), strict=False)):
        seen = [data["variants"][name][key] for key in keys]
        places = [place + 0.2 * (number - 0.5) for place in range(len(keys))]
        ratios = [one["ratio"] for one in seen]
        error = [[max(0.0, one["ratio"] - one["interval"][0]) for one in seen],
                 [max(0.0, one["interval"][1] - one["ratio"]) for one in seen]]  # fmt: skip
        axes.errorbar(ratios, places, xerr=error, fmt="o", color=colour, capsize=3, label=name)
    axes.axvline(1.0, color=GREY, lw=1)
    axes.set_yticks(range(len(keys)), list(PEERS.values()))
    axes.invert_yaxis()
    axes.set(title="Ours / llama.cpp's server, better to the right (bars: 95 % interval)", xlabel="times as good")
    axes.legend(fontsize=8)


def _draw_ramp(figure: Figure, data: Any) -> None:
    axes = figure.subplots(1, 3)
    for replicas, colour in zip(sorted(data), (OURS, PEER), strict=False):
        for axis, (name, words) in zip(
            axes, (("requests_per_s", "requests/s"), ("ttft_p50_ms", "TTFT p50, ms"), ("ttft_p95_ms", "TTFT p95, ms")),
            strict=True,
        ):  # fmt: skip
            axis.set(title=words, xlabel="users", xscale="log")
            _curve(axis, data[replicas], name, colour, replicas)
    for axis in axes:
        axis.set_ylim(bottom=0)  # when all is drawn: it keeps the top as it is then
    figure.legend(*axes[0].get_legend_handles_labels(), fontsize=8, loc="outside lower center", ncols=4)


def _curve(axes: Axes, one: Any, name: str, colour: str, replicas: str) -> None:
    for side, style in (("measured", "o-"), ("predicted", "x--")):
        seen = one[side]["ramp"]
        steps = sorted(int(key.split()[0]) for key in seen if key.endswith(f" users/{name}"))
        words = f"{side}, {replicas} replica{'s' if replicas != '1' else ''}"
        axes.plot(steps, [seen[f"{step} users/{name}"] for step in steps], style, color=colour, label=words)
        axes.set_xticks(steps, [str(step) for step in steps])
        axes.minorticks_off()


def _draw_crowds(figure: Figure, data: Any) -> None:
    left, right = figure.subplots(1, 2)
    rows = data["1"]["paper"]
    users = [row["users"] for row in rows]
    for axes, key, words in ((left, "replicas", "replicas"), (right, "cost_per_month", "USD a month")):
        values, between = [row[key] for row in rows], [row[f"{key}_range"] for row in rows]
        axes.fill_between(users, [low for low, _ in between], [high for _, high in between], color=OURS, alpha=0.25,
                          label="range of the measured error")  # fmt: skip
        axes.plot(users, values, "o-", color=OURS, label="predicted")
        axes.set(title=words, xlabel="users", xscale="log", yscale="log")
    left.legend(fontsize=8)


PICTURES: dict[str, tuple[str, Callable[[Figure, Any], None]]] = {
    "overload.png": ("benchmarks/overload", _draw_overload),
    "llama_cpp.png": ("benchmarks/llama_cpp", _draw_peer),
    "ramp.png": ("benchmarks/planning", _draw_ramp),
    "crowds.png": ("benchmarks/planning", _draw_crowds),
}
