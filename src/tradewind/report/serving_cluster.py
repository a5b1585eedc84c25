"""Notebook 1's sections on replicas, and what is decided from them."""

from collections.abc import Mapping
from typing import Any

from tradewind.report.markdown import source, table

SIDES = {"engine": "engine", "replica": "a replica", "server": "one server", "cluster": "the cluster"}
FAULTS = {
    "calm": "none",
    "kills": "one of two killed, again and again",
    "hang": "one stopped (SIGSTOP)",
    "slow": "one slowed",
    "all_gone": "all killed",
    "ingress_gone": "the API killed",
    "proxy_gone": "the proxy killed",
}


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
        for name, one in data["strategies"].items()
    ]
    slots = " and ".join(map(str, data["work"]["slots"]))
    head = ["strategy", "requests/s", "TTFT ms, p50 / p95", "of prompts cached", "requests each", "fullest / mean"]
    return f"Two replicas of {slots} slots, prompts of which several begin alike:\n\n" + table(head, rows)


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
        for target, phases in data["targets"].items()
        for phase, one in phases.items()
        if "goodput_per_s" in one
    ]
    head = ["who answers", "load", "goodput/s", "of the peak", "TTFT p99 ms", "refused", "429 p99 ms", "failed"]
    slo = f"{data['settings']['slo_ttft_ms']:,.0f} ms to the first token, {data['settings']['slo_itl_ms']:.0f} ms between two"
    return f"Goodput within {slo}; capacity is the closed loop:\n\n" + table(head, rows)


def chaos(data: Any) -> str:
    rows = []
    for name, one in data["parts"].items():
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
    strategies = data["routing"]["strategies"]
    most = max(strategies, key=lambda name: strategies[name]["requests_per_s"])
    even = min(strategies, key=lambda name: strategies[name]["imbalance"])
    return (
        f"**Replicas for survival, not for speed on one machine.** Handle and router cost {added:.1f} ms. Where prompts "
        f"begin alike, {most.replace('_', ' ')} gave the most answers; unlike replicas fill most evenly by "
        f"{even.replace('_', ' ')}. Power of two is the default: it needs no memory and no capacities."
    )


def on_chaos(data: Any) -> str:
    one = data["parts"]["kills"]
    return (
        f"**A replica may die at any time.** {one['kills']} were killed in {data['work']['seconds']:.0f} s under load: of "
        f"{one['requests']:,} requests {one['failed']} failed and {one['altered']} were altered; the longest gap in a stream "
        f"around a kill was {one['gap_around_s']['max']:.1f} s."
    )
