"""Notebook 1's sections on replicas, and what is decided from them."""

import math
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from tradewind.cluster.routing import STRATEGIES
from tradewind.report.markdown import listed, source, table

SIDES = {"engine": "engine", "replica": "a replica", "server": "one server", "cluster": "the cluster"}
ANSWERING = ("server", "1 replica", "2 replicas")
LOADS = ("capacity", "2x", "5x", "10x")
GOAL_OF_PEAK, REFUSED_GOAL_MS = 0.85, 50.0
"""Goodput beyond capacity, of the closed loop's, and p99 of a refusal."""
FAULTS = {
    "calm": "none",
    "kills": "one of two killed, again and again",
    "hang": "one stopped (SIGSTOP)",
    "slow": "one slowed",
    "all_gone": "all killed",
    "ingress_gone": "the API killed",
    "proxy_gone": "the proxy killed",
}


def ordered(rows: Mapping[str, Any], order: Iterable[str]) -> dict[str, Any]:
    """Those of `order` first, in its order."""
    known = [name for name in order if name in rows]
    return {name: rows[name] for name in (*known, *(name for name in rows if name not in known))}


def _added(value: Mapping[str, Any], scale: float = 1.0) -> str:
    low, high = value["interval"]
    return f"{scale * value['median']:+.1f} [{scale * low:.1f}, {scale * high:.1f}]"


def cluster(data: Any) -> str:
    return "\n".join(
        [_hop(data), _path(data["path"]), _routing(data["routing"]), _beyond(data["overload"]), source(data)]
    )


def _hop(data: Any) -> str:
    hop = data["hop"]
    return (
        f"A first token of the mock engine takes {hop['engine']['p50']:.2f} ms in one process and "
        f"{hop['replica']['p50']:.2f} ms from a replica (p50): handle and router add {_added(hop['added_ms'])} ms. "
        f"The proxy adds {_added(data['path']['calls']['proxy_added_ms'])} ms to a call that asks no engine.\n"
    )


def _path(data: Any) -> str:
    rows = [
        [
            streams,
            *(f"{one['ttft_ms'][side]:.0f} / {one['tokens_per_s'][side]:.0f}" for side in SIDES),
            f"{_added(one['cluster_lost_share'], 100)} %",
        ]
        for streams, one in data["streams"].items()
    ]
    head = [
        "streams",
        *(f"{words}: TTFT ms / tokens/s" for words in SIDES.values()),
        "tokens/s the cluster loses to it",
    ]
    return table(head, rows)


def _routing(data: Any) -> str:
    rows = [
        [
            name.replace("_", " "),
            f"{one['requests_per_s']:.2f}",
            f"{one['ttft_ms']['p50']:.0f} / {one['ttft_ms']['p95']:.0f}",
            f"{one['cached_share']:.0%}",
            " : ".join(str(one["by_slots"][str(count)]) for count in data["work"]["slots"]),
            f"{one['imbalance']:.2f}",
        ]
        for name, one in ordered(data["strategies"], STRATEGIES).items()
    ]
    slots = " and ".join(map(str, data["work"]["slots"]))
    head = ["strategy", "requests/s", "TTFT ms, p50 / p95", "of prompts cached", "requests each", "fullest / mean"]
    top = f"Two replicas of {slots} slots, prompts of which several begin alike:\n\n"
    return top + table(head, rows) + f"\n{compared(data['strategies'])}\n"


def compared(strategies: Mapping[str, Any]) -> str:
    """Whether more was answered with one strategy than chance explains (two standard deviations of the difference of two
    counts), and what sets one apart."""
    counts = [one["requests"] for one in strategies.values()]
    chance = 2 * math.sqrt(max(counts) + min(counts))
    if max(counts) - min(counts) > chance:
        best = max(strategies, key=lambda name: strategies[name]["requests"])
        text = f"{_plain(best)} gave the most answers, {max(counts)} against {min(counts)} at least, beyond chance"
    else:
        text = (
            f"No strategy wins: {min(counts)} to {max(counts)} answers each, where chance alone differs by {chance:.0f}; "
            "nothing was repeated enough for intervals"
        )
    cached = [one["cached_share"] for one in strategies.values()]
    text = f"{text[0].upper()}{text[1:]}. Of the prompts {min(cached):.0%} to {max(cached):.0%} were cached with any of them."
    tails = sorted(strategies, key=lambda name: strategies[name]["ttft_ms"]["p95"])
    if len(tails) > 1:
        least, next_ = (strategies[name]["ttft_ms"]["p95"] for name in tails[:2])
        text += (
            f" What stands out is the TTFT p95 of {_plain(tails[0])}: {least:,.0f} ms, of the next one {next_:,.0f} ms."
        )
    return text


def _plain(name: str) -> str:
    return name.replace("_", " ")


def _beyond(data: Any) -> str:
    rows = [
        [
            target,
            phase,
            f"{one['goodput_per_s']:.2f}",
            f"{one['peak_share']:.0%}",
            f"{one['ttft_p99_ms']:,.0f}",
            f"{one['rejected']:.0f}",
            f"{one.get('refusal_p99_ms') or 0:.0f}",
            f"{one['failures']:.0f}",
        ]
        for target, phase, one in _phases(data)
    ]
    head = [
        "who answers",
        "load",
        "goodput/s",
        "of its closed loop's",
        "TTFT p99 ms",
        "refused",
        "429 p99 ms",
        "failed",
    ]
    slo = f"{data['settings']['slo_ttft_ms']:,.0f} ms to the first token, {data['settings']['slo_itl_ms']:.0f} ms between two"
    return (
        f"Goodput within {slo}. Capacity: eight callers that ask again at once (closed loop); 2x, 5x and 10x: so many times "
        f"as many arrivals, which wait for no answer:\n\n{table(head, rows)}\n"
        "Beyond 100 %: the closed loop is what its few callers get, not the most there is, and an answer counts to the phase "
        "in which it was asked for, though the queue gives it later.\n"
        f"\n{outside(data)}\n"
    )


def _phases(data: Any) -> Iterator[tuple[str, str, Any]]:
    """Who answers, load, figures: baselines first."""
    for target, phases in ordered(data["targets"], ANSWERING).items():
        for phase, one in ordered(phases, LOADS).items():
            if "goodput_per_s" in one:
                yield target, phase, one


def outside(data: Any) -> str:
    """Which goals were not kept, by whom and by how much; and what they share."""
    goal = data["settings"]["slo_ttft_ms"]
    missed: dict[str, list[str]] = {}
    for target, phase, one in _phases(data):
        refused = one.get("refusal_p99_ms") or 0.0
        told = [f"TTFT p99 {one['ttft_p99_ms']:,.0f} ms"] if one["ttft_p99_ms"] > goal else []
        told += [f"goodput {one['peak_share']:.0%}"] if one["peak_share"] < GOAL_OF_PEAK else []
        told += [f"429 p99 {refused:.0f} ms"] if refused > REFUSED_GOAL_MS else []
        if told:
            missed.setdefault(target, []).append(f"{phase}: {', '.join(told)}")
    goals = (
        f"TTFT p99 {goal:,.0f} ms, goodput {GOAL_OF_PEAK:.0%} of the closed loop's, 429 p99 {REFUSED_GOAL_MS:.0f} ms"
    )
    if not missed:
        return f"All within the goals ({goals})."
    lines = "; ".join(f"**{target}** at {'; at '.join(rows)}" for target, rows in missed.items())
    kept = [target for target in ordered(data["targets"], ANSWERING) if target not in missed]
    tail = f" All kept by: {listed(kept)}." if kept else ""
    return (
        f"Outside the goals ({goals}): {lines}.{tail} Replicas, the API that refuses, the proxy and the client share the "
        "cores of this one machine; replicas with a machine each were not measured."
    )


def chaos(data: Any) -> str:
    rows = []
    for name, one in ordered(data["parts"], FAULTS).items():
        gap, whole = one.get("gap_around_s") or one.get("gap_s"), one.get("whole_s")
        counts = [
            f"{one[key]:,.0f}" if key in one else "-"
            for key in ("requests", "refused", "failed", "altered", "failovers")
        ]
        spreads = [f"{spread['p50']:.2f} / {spread['max']:.2f}" if spread else "-" for spread in (gap, whole)]
        rows.append([FAULTS.get(name, name), *counts, *spreads])
    head = [
        "fault",
        "requests",
        "refused",
        "failed",
        "altered",
        "failovers",
        "longest gap s, p50 / max",
        "whole again s",
    ]
    return table(head, rows) + source(data)


def on_cluster(data: Any) -> str:
    added = data["hop"]["added_ms"]["median"]
    return (
        f"**Replicas for survival, not for speed on one machine.** Handle and router cost {added:.1f} ms. "
        f"{outside(data['overload'])}\n"
        f"- **Route by power of two**: it needs no memory and no capacities. {compared(data['routing']['strategies'])}"
    )


def on_chaos(data: Any) -> str:
    one = data["parts"]["kills"]
    return (
        f"**A replica may die at any time.** {one['kills']} were killed in {data['work']['seconds']:.0f} s under load: of "
        f"{one['requests']:,} requests {one['failed']} failed and {one['altered']} were altered; the longest gap in a stream "
        f"around a kill was {one['gap_around_s']['max']:.1f} s."
    )
