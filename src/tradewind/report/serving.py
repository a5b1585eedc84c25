"""Notebook 1's sections and pictures, from reports/benchmarks and reports/loadtest.

A report that is not there gives one line with the command that makes it. The files of the cluster's benchmarks are shown
as they are, whatever figures they hold. Not covered: runs, which `make mlflow` shows.
"""

import hashlib
import io
import json
import statistics
from collections.abc import Callable, Mapping
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

from tradewind.report.readme import Reports

MADE_BY = {
    "benchmarks/overhead": "python -m benchmarks.overhead",
    "benchmarks/llama_cpp": "python -m benchmarks.llama_cpp",
    "benchmarks/equivalence": "python -m benchmarks.equivalence",
    "benchmarks/jax_bandwidth": "python -m benchmarks.jax_bandwidth",
    "benchmarks/overload": "python -m benchmarks.overload",
    "benchmarks/outside_clients": "python -m benchmarks.outside_clients",
    "benchmarks/planning": "python -m benchmarks.planning",
    "benchmarks/cluster": "python -m benchmarks.cluster",
    "benchmarks/chaos": "python -m benchmarks.chaos",
    "loadtest/steady": "make repro",
}
DIGEST = "Data"
OURS, PEER, GREY = "#1f77b4", "#d95f02", "#7f7f7f"


def found(reports: Reports, name: str) -> Any:
    """The report, None where it is not there."""
    return reports[name] if (reports.folder / f"{name}.json").is_file() else None


def missing(name: str) -> str:
    return f"*Not measured yet: `{MADE_BY[name]}` writes `reports/{name}.json`.*\n"


def section(name: str, shown: Callable[[Any], str]) -> Callable[[Reports], str]:
    """`shown` of a report, where it is there."""

    def text(reports: Reports) -> str:
        data = found(reports, name)
        return missing(name) if data is None else shown(data)

    return text


def table(head: list[str], rows: list[list[str]]) -> str:
    lines = ["| " + " | ".join(head) + " |", "|---|" + "---:|" * (len(head) - 1)]
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in rows)]) + "\n"


def source(data: Mapping[str, Any]) -> str:
    """On what it was measured."""
    facts = [data.get("variant"), data.get("device"), f"commit {data['git_commit']}" if "git_commit" in data else None]
    return "\n" + ", ".join(str(fact) for fact in facts if fact) + ".\n"


def _steady(data: Any) -> str:
    measured, settings = data["measurements"], data["settings"]
    rows = [
        [words, *(f"{measured[f'{name}_{share}_ms']['value']:.0f}" for share in ("p50", "p95", "p99"))]
        for name, words in (("ttft", "TTFT, ms"), ("itl", "ITL, ms"), ("e2e", "E2E, ms"))
    ]
    rate, tokens = measured["requests_per_s"]["value"], measured["completion_tokens_per_s"]["value"]
    tail = (
        f"\n`{settings['model']}`, {settings['users']} users that ask again at once: {rate:.2f} requests/s, "
        f"{tokens:.0f} tokens/s, {measured['failures']['value']} failures of {measured['requests']['value']} requests.\n"
    )
    return table(["", "p50", "p95", "p99"], rows) + tail + source(data)


def _overhead(data: Any) -> str:
    rows = []
    for streams, row in data["streams"].items():
        lost, added = row["lost_share"], row["ttft_added_ms"]
        rates = {side: statistics.median(seen) for side, seen in row["repeats"]["tokens_per_s"].items()}
        low, high = lost["interval"]
        cells = [f"{rates['bare']:.0f}", f"{rates['http']:.0f}"]
        cells += [f"{100 * lost['median']:.1f} [{100 * low:.1f}, {100 * high:.1f}]"]
        cells += [f"{added['median']:.1f} [{added['interval'][0]:.1f}, {added['interval'][1]:.1f}]"]
        rows.append([streams, *cells])
    head = ["streams", "bare engine, tokens/s", "over HTTP, tokens/s", "lost, % [95 % interval]", "TTFT added, ms"]
    return table(head, rows) + source(data)


PEERS = {
    "decode_tokens_per_s": "decode, one stream",
    "tokens_per_s_at_1": "whole requests, 1 stream",
    "tokens_per_s_at_4": "whole requests, 4 streams",
    "tokens_per_s_at_8": "whole requests, 8 streams",
    "copying_tokens_per_s": "copying",
    "ttft_ms": "TTFT",
    "ttft_p95_ms_at_8": "TTFT p95, 8 streams",
}


def _llama_cpp(data: Any) -> str:
    names = list(data["variants"])
    rows = []
    for key, words in PEERS.items():
        seen = [data["variants"][name][key] for name in names]
        rows.append(
            [words, *(f"{one['ratio']:.2f} [{one['interval'][0]:.2f}, {one['interval'][1]:.2f}]" for one in seen)]
        )
    tail = "\nTimes as good as llama.cpp's server on the same integer codes, in turns: above 1 ours is better.\n"
    return table(["ratio [95 % interval]", *names], rows) + tail + source(data)


def _equivalence(data: Any) -> str:
    names = list(data)
    ways = list(dict.fromkeys(way for name in names for way in data[name]["ways"]))
    rows = []
    for way in ways:
        seen = [data[name]["ways"].get(way) for name in names]
        rows.append([way, *("-" if one is None else f"{one['differing']} of {one['answers']}" for one in seen)])
    tokens = ", ".join(f"{name}: {data[name]['tokens']} tokens each" for name in names)
    return table(["way of running: answers that differ", *names], rows) + f"\n{tokens}.\n" + source(data[names[0]])


def _bandwidth(data: Any) -> str:
    share, rate = data["measures"]["share_of_bandwidth"], data["measures"]["decode_tokens_per_s"]
    low, high = (100 * one for one in share["interval"])
    return (
        f"The engine that runs on accelerators, `jax`, decodes `{data['variant']}` on this processor at "
        f"{rate['median']:.0f} tokens/s, which is {100 * share['median']:.0f} % [{low:.0f}, {high:.0f}] of what its "
        f"memory gives a plain reading loop.\n{source(data)}"
    )


def _overload(data: Any) -> str:
    rows = []
    seconds = data["work"]["seconds"]
    for factor, row in data["factors"].items():
        first, refused = row["ttft_ms"] or {}, row["refused_ms"] or {}
        good = row["accepted"] * (row["ttft_within_goal"] or 0.0) / seconds
        cells = [f"{row['sent']}", f"{row['accepted']}", f"{row['refused']}", f"{sum(row['other'].values())}"]
        cells += [f"{good:.2f}", f"{first.get('p50', 0):.0f}", f"{first.get('p99', 0):.0f}"]
        cells += [f"{refused.get('p99', 0):.1f}", f"{row['ready']} of {row['ready_asked']}"]
        rows.append([f"{factor}x", *cells])
    head = ["arrivals", "sent", "answered", "refused", "other", "goodput, requests/s", "TTFT p50, ms", "TTFT p99, ms"]
    head += ["429 p99, ms", "ready"]
    tail = (
        f"\nCapacity, measured first: {data['capacity_per_s']:.2f} requests/s at {data['work']['slots']} at once. Goodput: "
        f"answered with a first token within {data['work']['ttft_goal_ms'] / 1000:g} s, over the {seconds:g} s of "
        "arrivals; answers that the queue holds at their end count too, so it may exceed the capacity.\n"
    )
    return table(head, sorted(rows, key=lambda row: float(row[0][:-1]))) + tail + source(data)


def _clients(data: Any) -> str:
    by = {name: [one for one in data["checks"] if one["client"] == name] for name in ("openai", "llm", "aiperf")}
    rows = [
        [name, str(data["versions"].get(name, "-")), f"{sum(one['passed'] for one in seen)} of {len(seen)}"]
        for name, seen in by.items()
        if seen
    ]
    ratios = list(PARTS)
    agree = [[streams, *(f"{row['ratios'][key]:.2f}" for key in ratios)] for streams, row in data["streams"].items()]
    return (
        table(["client", "version", "checks passed"], rows)
        + "\nThe same load by AIPerf and by this project's client, in turns: AIPerf's figure / ours.\n\n"
        + table(["streams", *PARTS.values()], agree)
        + source(data)
    )


PARTS = {"ttft_ms": "TTFT", "itl_ms": "ITL", "requests_per_s": "requests/s", "prompt_tokens": "prompt tokens"}


def tree(data: Any, name: str = "") -> str:
    """Any report: a dict of dicts is a table, one row each; what is nested deeper has its path as its column."""
    plain = {key: value for key, value in data.items() if not isinstance(value, dict)}
    lists = ("repeats", "requests", "checks")
    parts = [f"**{name}**\n"] if name else []
    shown = [f"{key}: {_cell(value)}" for key, value in plain.items() if key not in lists]
    parts += ["; ".join(shown) + ".\n"] if shown else []
    for key, value in data.items():
        if isinstance(value, dict) and value and all(isinstance(one, dict) for one in value.values()):
            rows = {row: _flat(one) for row, one in value.items()}
            columns = list(dict.fromkeys(column for one in rows.values() for column in one))
            body = [[row, *(_cell(one.get(column)) for column in columns)] for row, one in rows.items()]
            parts.append(f"**{key}**\n\n" + table(["", *columns], body))
        elif isinstance(value, dict):
            parts.append(tree(_flat(value), key))
    return "\n".join(parts)


def _flat(data: Mapping[str, Any], before: str = "") -> dict[str, Any]:
    out: dict[str, Any] = {}
    for key, value in data.items():
        if isinstance(value, Mapping):
            out |= _flat(value, f"{before}{key} ")
        elif not isinstance(value, list) or len(value) <= 2:  # intervals, not raw values
            out[f"{before}{key}"] = value
    return out


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, list):
        return f"[{', '.join(map(_cell, value))}]"
    return "-" if value is None else str(value)


QUANTITIES = {
    "requests_per_s": "requests/s",
    "goodput_per_s": "goodput, requests/s",
    "ttft_p50_ms": "TTFT p50",
    "ttft_p95_ms": "TTFT p95",
    "itl_p50_ms": "ITL p50",
    "knee_users": "knee, users",
}


def _errors(data: Any) -> str:
    rows = []
    for replicas, one in data.items():
        for quantity in [name for name in QUANTITIES if name in one["errors_by_quantity"]]:
            error = one["errors_by_quantity"][quantity]
            cells = [f"{100 * error[key]:+.0f} %" for key in ("median", "worst")]
            rows.append([QUANTITIES[quantity], replicas, *cells, str(error["n"])])
    first = next(iter(data.values()))
    times = first["service"]["times"]
    tail = (
        f"\nError: predicted / measured - 1. Fitted on the bare engine: {times['prefill_rate']:.0f} prompt tokens/s and "
        f"{1000 * times['call']:.1f} ms a chunk, {1000 * times['step']:.1f} ms a step and {1000 * times['row']:.2f} ms an "
        f"answer in it; {1000 * times['overhead']:.1f} ms a request outside the engine. The machine's own drift over the "
        f"run: {first['service']['drift']:.2f} times.\n"
    )
    return table(["figure", "replicas", "median error", "worst", "compared"], rows) + tail + source(first)


def _paper(data: Any) -> str:
    one = data.get("1")
    if one is None:
        return missing("benchmarks/planning")
    rows = []
    for row in one["paper"]:
        cells = [f"{row['rate']:.1f}", _range(row["replicas"], row["replicas_range"], ",.0f")]
        cells += [_range(row[name], row[f"{name}_range"], ",.0f") for name in ("ttft_p50_ms", "ttft_p95_ms")]
        cells += [
            f"{100 * row['utilization']:.0f} %",
            _range(row["cost_per_month"], row["cost_per_month_range"], ",.0f"),
        ]
        rows.append([f"{row['users']:,}", *cells])
    head = ["users", "requests/s", "replicas [range]", "TTFT p50, ms", "TTFT p95, ms", "busy", "USD a month"]
    work, best = one["work"], one["capacity"]
    goals = f"TTFT {work['slo']['ttft_ms'] / 1000:g} s, mean gap {work['slo']['itl_ms']:g} ms"
    tail = (
        f"\nOne question per user each {work['think_s'] / 60:g} minutes, {one['lone']['prompt_tokens']} tokens in and "
        f"{work['answer_tokens']} out. One replica, alone on its machine, keeps the goals ({goals}) for 95 % of the answers "
        f"up to {best['rate']:.2f} requests/s. Ranges: the true figure if the prediction's error is any of those measured. "
        f"No spare replicas, no peaks above the mean rate. Price: {work['price_per_hour']} USD an hour; {work['price_of']}.\n"
    )
    return table(head, rows) + tail


def _range(value: float, between: list[float], form: str) -> str:
    return f"{value:{form}} [{between[0]:{form}}, {between[1]:{form}}]"


def _decision(reports: Reports) -> str:
    decided = (
        ("benchmarks/overload", _on_overload, "overload"),
        ("benchmarks/llama_cpp", _on_peer, "one process"),
        ("benchmarks/equivalence", _on_equality, "batching"),
        ("benchmarks/planning", _on_replicas, "replica counts"),
        ("benchmarks/cluster", None, "routing"),
        ("benchmarks/chaos", None, "failover"),
    )
    lines = []
    for name, says, words in decided:
        data = found(reports, name)
        if data is None:
            lines.append(f"- Nothing is decided on {words}: {missing(name).strip().strip('*')}")
        elif says is not None:
            lines.append(f"- {says(data)}")
    return "\n".join(lines) + "\n"


def _on_overload(data: Any) -> str:
    worst = max(data["factors"], key=float)
    row = data["factors"][worst]
    slowest = max(one["refused_ms"]["p99"] for one in data["factors"].values() if one["refused_ms"])
    return (
        f"**Refuse early.** At {worst} times its capacity the server answers {row['accepted']} of {row['sent']} requests, "
        f"{100 * (row['ttft_within_goal'] or 0):.0f} % of those with a first token within the goal. The others are told to "
        f"come back, in at most {slowest:.0f} ms (p99, the worst of all factors; goal {row['refused_goal_ms']:.0f} ms)."
    )


def _on_peer(data: Any) -> str:
    shown = ", ".join(f"{name} {one['tokens_per_s_at_8']['ratio']:.2f}" for name, one in data["variants"].items())
    return (
        "**One process batches before another is started.** With eight streams its tokens/s are, in times those of "
        f"llama.cpp's server: {shown}."
    )


def _on_equality(data: Any) -> str:
    ways = [way for one in data.values() for way in one["ways"].values()]
    differing, answers = sum(way["differing"] for way in ways), sum(way["answers"] for way in ways)
    return f"**Batching is always on.** Of {answers} greedy answers in all ways of running them, {differing} differ."


def _on_replicas(data: Any) -> str:
    if "1" not in data:
        return missing("benchmarks/planning").strip()
    one = data["1"]
    rate, tail = (one["errors_by_quantity"][name] for name in ("requests_per_s", "ttft_p95_ms"))
    needed = "; ".join(
        f"{row['users']:,} users: {_range(row['replicas'], row['replicas_range'], ',.0f')} replicas for "
        f"{row['cost_per_month']:,.0f} USD a month"
        for row in one["paper"]
    )
    return (
        f"**Buy by the plan, with its error as margin.** In requests/s it is off by {100 * rate['median']:+.0f} % in the "
        f"median and {100 * rate['worst']:+.0f} % at worst; in TTFT p95 by {100 * tail['median']:+.0f} % and "
        f"{100 * tail['worst']:+.0f} %. {needed}."
    )


SECTIONS: dict[str, Callable[[Reports], str]] = {
    "serving_steady": section("loadtest/steady", _steady),
    "serving_overhead": section("benchmarks/overhead", _overhead),
    "serving_llama_cpp": section("benchmarks/llama_cpp", _llama_cpp),
    "serving_equivalence": section("benchmarks/equivalence", _equivalence),
    "serving_bandwidth": section("benchmarks/jax_bandwidth", _bandwidth),
    "serving_overload": section("benchmarks/overload", _overload),
    "serving_cluster": section("benchmarks/cluster", tree),
    "serving_chaos": section("benchmarks/chaos", tree),
    "serving_clients": section("benchmarks/outside_clients", _clients),
    "serving_errors": section("benchmarks/planning", _errors),
    "serving_paper": section("benchmarks/planning", _paper),
    "serving_decision": _decision,
}


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
            axis.set_ylim(bottom=0)
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
