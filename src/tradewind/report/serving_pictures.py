"""Notebook 1's pictures, of the reports that `report.serving` tells in words. Each names the data that it shows."""

import hashlib
import io
import json
from collections.abc import Callable
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from PIL import Image

from tradewind.report.markdown import origin
from tradewind.report.readme import Reports
from tradewind.report.serving import PEERS, found
from tradewind.report.serving_planning import if_shared, replica_count

DIGEST = "Data"
OURS, PEER, GREY = "#1f77b4", "#d95f02", "#7f7f7f"


def draw(name: str, reports: Reports) -> bytes | None:
    """The PNG of that name in PICTURES, None where its report is not there. It names the data that it shows."""
    report, drawn = PICTURES[name]
    data = found(reports, report)
    if data is None:
        return None
    room = ConstrainedLayoutEngine(rect=(0, 0.06, 1, 0.94))  # the line below says what was measured on what
    figure = Figure(figsize=(9, 3.6), layout=room)
    FigureCanvasAgg(figure)
    drawn(figure, data)
    figure.text(0.995, 0.012, _origins(data), ha="right", fontsize=7, color="#555555")
    for axes in figure.axes:
        axes.grid(alpha=0.25)
        axes.title.set_fontsize(10)
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=110, metadata={"Software": None, DIGEST: digest(data)})
    return file.getvalue()


def _origins(data: Any) -> str:
    """What was measured on what: of the report, or of its parts."""
    if "device" in data:
        return origin({"variant": ", ".join(data.get("variants", ()))} | data)
    return "; ".join(f"{replica_count(name)}: {origin(data[name])}" for name in sorted(data, key=int))


def digest(data: Any) -> str:
    """Of a report: two pictures with the same one show the same figures, whatever machine drew them."""
    return hashlib.sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()


def drawn_from(png: bytes) -> str | None:
    """The digest that a picture of `draw` names."""
    with Image.open(io.BytesIO(png)) as image:
        return image.info.get(DIGEST)


def _draw_overload(figure: Figure, data: Any) -> None:
    left, middle, right = figure.subplots(1, 3)
    factors = sorted(data["factors"], key=float)
    rows, places = [data["factors"][factor] for factor in factors], range(len(factors))
    seconds = data["work"]["seconds"]
    bottom = [0.0] * len(rows)
    for key, colour, words in (("accepted", OURS, "answered"), ("refused", GREY, "refused at once")):
        heights = [row[key] / seconds for row in rows]
        left.bar(places, heights, bottom=bottom, color=colour, label=words)
        bottom = [low + height for low, height in zip(bottom, heights, strict=True)]
    left.axhline(data["capacity_per_s"], color=PEER, ls="--", lw=1, label="capacity, closed loop")
    left.set(title="What became of the arrivals", ylabel="requests/s")
    _against_goal(middle, [row["ttft_ms"] for row in rows], data["work"]["ttft_goal_ms"], "TTFT of the answered, ms")
    _against_goal(right, [row["refused_ms"] for row in rows], rows[0]["refused_goal_ms"], "429 of the refused, ms")
    for axes in (left, middle, right):
        axes.set_xticks(places, [f"{factor}x" for factor in factors])
        axes.set(xlabel="arrivals, times the capacity")
        axes.legend(fontsize=7)


def _against_goal(axes: Axes, seen: list[Any], goal: float, title: str) -> None:
    """p50 and p99, the latter with figures, and the line that they are to stay below."""
    for share, colour in (("p50", OURS), ("p99", PEER)):
        values = [one[share] if one else 0.0 for one in seen]
        axes.plot(range(len(values)), values, "o-", color=colour, label=share)
    for place, value in enumerate(values):  # of p99
        shift = (0, -12 if 0.7 * goal < value < goal else 6)  # away from the goal's line
        axes.annotate(f"{value:,.0f}", (place, value), shift, textcoords="offset points", ha="center", fontsize=7)
    axes.axhline(goal, color=GREY, lw=1.2, ls="--", label=f"goal: below {goal:,.0f}")
    axes.set(title=title)
    axes.set_xlim(-0.4, len(seen) - 0.6)
    axes.set_ylim(0, 1.35 * max(goal, axes.get_ylim()[1]))


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
    figure.legend(*axes[0].get_legend_handles_labels(), fontsize=8, loc="outside upper center", ncols=4)


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
                          label="if as far off as one replica alone")  # fmt: skip
        axes.plot(users, values, "o-", color=OURS, label="predicted, no reserve")
        needed = [if_shared(row, data) for row in rows]
        if all(needed):
            worst = [
                one[1] * value / row["replicas"] for one, value, row in zip(needed, values, rows, strict=True) if one
            ]
            axes.plot(users, worst, "--", color=PEER, lw=1, label="if as far off as several on one machine, worst")
        axes.set(title=words, xlabel="users", xscale="log", yscale="log")
    left.legend(fontsize=8)


PICTURES: dict[str, tuple[str, Callable[[Figure, Any], None]]] = {
    "overload.png": ("benchmarks/overload", _draw_overload),
    "llama_cpp.png": ("benchmarks/llama_cpp", _draw_peer),
    "ramp.png": ("benchmarks/planning", _draw_ramp),
    "crowds.png": ("benchmarks/planning", _draw_crowds),
}
