"""Notebook 1's sections on the plan: how far the simulation is off, what a crowd needs, and what is decided from them.

Two errors are told apart: of one replica that has a machine of its own, as in the plan, and of several that share one.
"""

import math
from typing import Any

from tradewind.report.markdown import source, sources, table

IF_SHARED = "replicas, if off as on a shared machine"
NO_PLAN = "*Not measured yet: `python -m benchmarks.planning` with one replica.*\n"
QUANTITIES = {
    "requests_per_s": "requests/s",
    "goodput_per_s": "goodput, requests/s",
    "ttft_p50_ms": "TTFT p50",
    "ttft_p95_ms": "TTFT p95",
    "itl_p50_ms": "ITL p50",
    "knee_users": "knee, users",
}


def errors(data: Any) -> str:
    rows = []
    for replicas, one in sorted(data.items(), key=lambda item: int(item[0])):
        for quantity in [name for name in QUANTITIES if name in one["errors_by_quantity"]]:
            error = one["errors_by_quantity"][quantity]
            cells = [f"{100 * error[key]:+.0f} %" for key in ("median", "worst")]
            rows.append([QUANTITIES[quantity], replicas, *cells, str(error["n"])])
    first = data[min(data, key=int)]
    times = first["service"]["times"]
    tail = (
        f"\nError: predicted / measured - 1. Fitted on the bare engine: {times['prefill_rate']:.0f} prompt tokens/s and "
        f"{1000 * times['call']:.1f} ms a chunk, {1000 * times['step']:.1f} ms a step and {1000 * times['row']:.2f} ms an "
        f"answer in it; {1000 * times['overhead']:.1f} ms a request outside the engine. The machine's own drift over the "
        f"run: {first['service']['drift']:.2f} times.\n"
    )
    if len(data) > 1:
        tail += (
            "\nSeveral replicas run on one machine here, and share its cores with API, proxy and client. The simulation "
            "knows how much two engines slow each other down, and nothing of the others: "
            "their error is that of a shared machine.\n"
        )
    head = ["figure", "replicas", "median error", "worst", "compared"]
    return table(head, rows) + tail + sources({replica_count(count): data[count] for count in sorted(data, key=int)})


def replica_count(count: str) -> str:
    return f"{count} replica{'' if count == '1' else 's'}"


def paper(data: Any) -> str:
    one = data.get("1")
    if one is None:
        return NO_PLAN
    best = one["capacity"]
    rows = []
    for row in one["paper"]:
        cells = [f"{row['rate']:.1f}", _range(row["replicas"], row["replicas_range"], ",.0f"), _if_shared(row, data)]
        cells += [_range(row[name], row[f"{name}_range"], ",.0f") for name in ("ttft_p50_ms", "ttft_p95_ms")]
        cells += [f"{100 * full(row, best):.0f} %", f"{100 * row['utilization']:.0f} %"]
        cells += [_range(row["cost_per_month"], row["cost_per_month_range"], ",.0f")]
        rows.append([f"{row['users']:,}", *cells])
    head = ["users", "requests/s", "replicas [range]", IF_SHARED, "TTFT p50, ms", "TTFT p95, ms"]
    head += ["of capacity", "busy", "USD a month"]
    work = one["work"]
    goals = f"TTFT {work['slo']['ttft_ms'] / 1000:g} s, mean gap {work['slo']['itl_ms']:g} ms"
    tail = (
        f"\nOne question per user each {work['think_s'] / 60:g} minutes, {one['lone']['prompt_tokens']} tokens in and "
        f"{work['answer_tokens']} out. One replica, alone on its machine, keeps the goals ({goals}) for 95 % of the answers "
        f"up to {best['rate']:.2f} requests/s. Price: {work['price_per_hour']} USD an hour; {work['price_of']}.\n\n"
        f"{_which_error(data)}\n\n{_reserve(one)}\n"
    )
    return table(head, rows) + tail + source(one)


def full(row: Any, best: Any) -> float:
    """The load of each replica as a share of what one takes within the goals."""
    return float(row["rate"] / row["replicas"] / best["rate"])


def shared(data: Any) -> tuple[str, Any] | None:
    """How many replicas were measured on one machine, and the error of their goodput."""
    counts = sorted((count for count in data if int(count) > 1), key=int)
    error = data[counts[-1]]["errors_by_quantity"].get("goodput_per_s") if counts else None
    return (counts[-1], error) if error else None


def if_shared(row: Any, data: Any) -> tuple[int, int] | None:
    """Replicas, were a replica's rate as far off as the goodput of several on one machine, at its least and at most."""
    found = shared(data)
    if found is None:
        return None
    needed = row["rate"] / data["1"]["capacity"]["rate"]
    low, high = (max(1, math.ceil(needed * (1 + found[1][end]))) for end in ("low", "high"))
    return low, high


def _if_shared(row: Any, data: Any) -> str:
    between = if_shared(row, data)
    return "-" if between is None else f"{between[0]:,} to {between[1]:,}"


def _percents(error: Any) -> str:
    return f"{100 * error['low']:+.0f} to {100 * error['high']:+.0f} %"


def _which_error(data: Any) -> str:
    error = data["1"]["errors_by_quantity"]
    text = (
        "**Which error the ranges use:** that of the run with one replica, which had the machine to itself but for the "
        f"load's client (requests/s {_percents(error['requests_per_s'])}, TTFT p95 {_percents(error['ttft_p95_ms'])}), "
        "for the plan gives each replica a machine of its own. They are where the true figure lies if its "
        "error is one of those."
    )
    found = shared(data)
    if found is None:
        return f"{text} No run with more replicas stands behind it."
    return (
        f"{text} With {found[0]} replicas on one machine goodput was predicted {_percents(found[1])} off; the column "
        f'"{IF_SHARED}" takes that error instead. No run with a machine for each replica says which of the two holds.'
    )


def _reserve(one: Any) -> str:
    """Why TTFT goes as it does over the rows."""
    rows, best = one["paper"], one["capacity"]
    left = ", ".join(f"{100 * (1 - full(row, best)):.0f} %" for row in rows)
    return (
        "**No reserve.** Replicas are rounded up to the next whole one; no spare is planned, and no peak above the mean. "
        f"So the part of the capacity that is left shrinks with the crowd ({left}), and waiting grows. Against that, at an "
        "equal load, several replicas keep a request waiting for less time than one, for it goes to the less loaded of two. "
        "TTFT over the rows is the sum of both. Busy is the share of time in which a replica does anything at all; its batch "
        "may have room. Do not buy this as it stands: it has no answer to a replica that fails or an hour above the mean."
    )


def _range(value: float, between: list[float], form: str) -> str:
    return f"{value:{form}} [{between[0]:{form}}, {between[1]:{form}}]"


def on_planning(data: Any) -> str:
    if "1" not in data:
        return NO_PLAN.strip()
    told = "; ".join(
        f"with {replica_count(count)} {place}, {_off(data[count])}"
        for count in sorted(data, key=int)
        for place in ["alone on its machine" if count == "1" else "that share one machine"]
    )
    needed = "; ".join(
        f"{row['users']:,} users: {_range(row['replicas'], row['replicas_range'], ',.0f')} replicas for "
        f"{row['cost_per_month']:,.0f} USD a month, {_if_shared(row, data)} if off as on a shared machine"
        for row in data["1"]["paper"]
    )
    return (
        f"**Buy by the plan, with its error as margin, and a reserve on top.** Its error (median / worst): {told}. Ranges in "
        f"brackets use the first, for each replica is to have a machine of its own, which no run has confirmed. {needed}."
    )


def _off(one: Any) -> str:
    """requests/s +0 % and +15 %, ..."""
    found = one["errors_by_quantity"]
    names = [name for name in ("requests_per_s", "goodput_per_s", "ttft_p95_ms") if name in found]
    told = [
        f"{QUANTITIES[name].split(',')[0]} {100 * found[name]['median']:+.0f} / {100 * found[name]['worst']:+.0f} %"
        for name in names
    ]
    return ", ".join(told)
