"""Notebook 1's sections, from reports/benchmarks and reports/loadtest.

A report that is not there gives one line with the command that makes it. Not covered: runs, which `make mlflow` shows.
"""

import statistics
from collections.abc import Callable
from typing import Any

from tradewind.report.markdown import listed, source, sources, table
from tradewind.report.readme import Reports
from tradewind.report.serving_cluster import chaos, cluster, on_chaos, on_cluster
from tradewind.report.serving_planning import errors, on_planning, paper

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
    "compression": "make study NAME=compression",
}


def found(reports: Reports, name: str) -> Any:
    """The report, None where it is not there."""
    return reports[name] if (reports.folder / f"{name}.json").is_file() else None


def missing(name: str) -> str:
    command = f"make study NAME={name.split('/')[1]}" if name.startswith("studies/") else MADE_BY[name]
    return f"*Not measured yet: `{command}` writes `reports/{name}.json`.*\n"


def section(name: str, shown: Callable[[Any], str]) -> Callable[[Reports], str]:
    """`shown` of a report, where it is there."""

    def text(reports: Reports) -> str:
        data = found(reports, name)
        return missing(name) if data is None else shown(data)

    return text


def with_commit(reports: Reports, name: str, run: str) -> Any:
    """The report, with the commit of its run's record, where that is of the same run; None where there is no report."""
    data, record = found(reports, name), found(reports, f"runs/{run}")
    if data is None or record is None or record["run_id"] != data.get("run_id"):
        return data
    return data | {"git_commit": record["git_commit"]}


def _steady_section(reports: Reports) -> str:
    data = with_commit(reports, "loadtest/steady", "loadtest-steady")
    return missing("loadtest/steady") if data is None else _steady(data)


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
    ways = sorted({way for name in names for way in data[name]["ways"]}, key=lambda way: (_last(way), way))
    rows = []
    for way in ways:
        seen = [data[name]["ways"].get(way) for name in names]
        rows.append([way, *("-" if one is None else f"{one['differing']} of {one['answers']}" for one in seen)])
    head = ["way of running: answers that differ", *names]
    notes = [
        f"{name}: {one['tokens']} tokens each, {one['threads']} thread{'s' if one['threads'] != 1 else ''}"
        for name, one in data.items()
    ]
    moved = [
        f"{name}: {one['resumed']} of {one['answers']} answers went on at another replica ({way})"
        for name in names
        for way, one in data[name]["ways"].items()
        if one.get("resumed")
    ]
    text = f'\n{"; ".join(notes)}. {"".join(f"{one}. " for one in moved)}"-": not run.\n'
    return table(head, rows) + text + sources(data)


def _last(way: str) -> int:
    """Ways in one process, then those through a cluster."""
    return ("through the cluster", "after failover").index(way) + 1 if "cluster" in way or "failover" in way else 0


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
        + f"\n{_disagreement(data)}\n"
        + source(data)
    )


AGREED = 0.1


def _disagreement(data: Any) -> str:
    """Where two clients differ by more than AGREED, by how much, and what each repeat gave."""
    apart = []
    for streams, row in data["streams"].items():
        names = [name for name in PARTS if abs(row["ratios"][name] - 1) > AGREED]
        told = [
            f"{PARTS[name]} {100 * (row['ratios'][name] - 1):+.0f} % ({_repeats(row['repeats'], name)})"
            for name in names
        ]
        if told:
            apart.append(f"with {streams} streams by {listed(told)}")
    if not apart:
        return f"They agree within {AGREED:.0%} everywhere."
    repeats = data["load"]["repeats"]
    return (
        f"They agree within {AGREED:.0%} but for these: {'; '.join(apart)}. The ratio is the median of {repeats} repeats; in "
        "brackets what each gave, AIPerf's / ours. A figure on which they disagree is confirmed by neither."
    )


def _repeats(repeats: list[Any], name: str) -> str:
    return ", ".join(f"{one['aiperf'][name]:.3g} / {one['ours'][name]:.3g}" for one in repeats)


PARTS = {"ttft_ms": "TTFT", "itl_ms": "ITL", "requests_per_s": "requests/s", "prompt_tokens": "prompt tokens"}


def _decision(reports: Reports) -> str:
    decided = (
        ("benchmarks/overload", _on_overload, "overload"),
        ("benchmarks/llama_cpp", _on_peer, "one process"),
        ("benchmarks/equivalence", _on_equality, "batching"),
        ("benchmarks/planning", on_planning, "replica counts"),
        ("benchmarks/cluster", on_cluster, "routing"),
        ("benchmarks/chaos", on_chaos, "failover"),
    )
    lines = []
    for name, says, words in decided:
        data = found(reports, name)
        if data is None:
            lines.append(f"- Nothing is decided on {words}: {missing(name).strip().strip('*')}")
        else:
            lines.append(f"- {says(data)}")
    return "\n".join(lines) + "\n"


def _on_overload(data: Any) -> str:
    worst = max(data["factors"], key=float)
    row = data["factors"][worst]
    slowest = max(one["refused_ms"]["p99"] for one in data["factors"].values() if one["refused_ms"])
    return (
        f"**Refuse early.** At {worst} times its capacity one server process answers {row['accepted']} of {row['sent']} "
        f"requests, {100 * (row['ttft_within_goal'] or 0):.0f} % of those with a first token within the goal. The others "
        f"are told to come back, in at most {slowest:.0f} ms (p99, worst factor; goal {row['refused_goal_ms']:.0f} ms)."
    )


def _on_peer(data: Any) -> str:
    shown = ", ".join(f"{name} {one['tokens_per_s_at_8']['ratio']:.2f}" for name, one in data["variants"].items())
    slower = [(name, key, one[key]) for name, one in data["variants"].items() for key in PEERS if one[key]["ratio"] < 1]
    text = (
        "**One process batches before another is started.** With eight streams its tokens/s are, in times those of "
        f"llama.cpp's server: {shown}."
    )
    if not slower:
        return f"{text} It is slower in nothing that was measured."
    sure: list[str] = []
    unsure: list[str] = []
    for name, key, one in slower:
        (sure if one["interval"][1] < 1 else unsure).append(
            f"{name} in {PEERS[key]} {one['ratio']:.2f} [{one['interval'][0]:.2f}, {one['interval'][1]:.2f}]"
        )
    parts = [f"It is slower: {'; '.join(sure)}."] if sure else []
    parts += [f"Below 1, with 1 in the interval: {'; '.join(unsure)}."] if unsure else []
    return f"{text} {' '.join(parts)}"


def _on_equality(data: Any) -> str:
    ways = [way for one in data.values() for way in one["ways"].values()]
    differing, answers = sum(way["differing"] for way in ways), sum(way["answers"] for way in ways)
    return f"**Batching is always on.** Of {answers} greedy answers in all ways of running them, {differing} differ."


SECTIONS: dict[str, Callable[[Reports], str]] = {
    "serving_steady": _steady_section,
    "serving_overhead": section("benchmarks/overhead", _overhead),
    "serving_llama_cpp": section("benchmarks/llama_cpp", _llama_cpp),
    "serving_equivalence": section("benchmarks/equivalence", _equivalence),
    "serving_bandwidth": section("benchmarks/jax_bandwidth", _bandwidth),
    "serving_overload": section("benchmarks/overload", _overload),
    "serving_cluster": section("benchmarks/cluster", cluster),
    "serving_chaos": section("benchmarks/chaos", chaos),
    "serving_clients": section("benchmarks/outside_clients", _clients),
    "serving_errors": section("benchmarks/planning", errors),
    "serving_paper": section("benchmarks/planning", paper),
    "serving_decision": _decision,
}
