"""What the simulation says of a load test, how far that is from what was measured, and what a crowd would then need.

A forecast plays the phases of a real run (users, rates, seconds, and the very moments of Poisson arrivals, which follow
from the seed), and goes through the same measurements.
"""

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from tradewind.cluster.routing import strategy
from tradewind.load.results import Slo, measure
from tradewind.planning.plan import Crowd, Lengths, Needed, replicas_for
from tradewind.planning.simulation import Limits, Phase, Replica, ServiceTimes, Simulation, after, ramp, recorded

QUANTITIES = ("requests_per_s", "goodput_per_s", "ttft_p50_ms", "ttft_p95_ms", "itl_p50_ms", "knee_users")
HOURS = 730
"""Of a month."""


@dataclass(frozen=True)
class System:
    """What is simulated. replicas: all on one machine. sharing: see `tradewind.planning.simulation`."""

    times: ServiceTimes
    limits: Limits
    lengths: Lengths
    slo: Slo
    replicas: int = 1
    sharing: float = 1.0
    routing: str = "power_of_two"
    seed: int = 0


Figures = dict[str, float]
"""Measurements by their name; a phase's as `phase/name`."""


def forecast(scenario: str, phases: Sequence[Mapping[str, Any]], system: System) -> Figures:
    """`phases` as loadtests/sse.py writes them."""
    replicas = [Replica(system.times, system.limits, str(number)) for number in range(system.replicas)]
    simulation = Simulation(replicas, strategy(system.routing, system.seed), system.sharing, system.replicas)
    sizes = system.lengths.draws(system.seed)
    played: list[Phase] = []
    if scenario == "ramp":
        played = ramp(simulation, [(round(one["load"]), one["end"] - one["start"]) for one in phases], sizes)
    else:
        for number, one in enumerate(phases, 1):
            seed = f"{system.seed} {one['name']} {number} arrivals"  # as loadtests/arrivals.py
            played.append(after(simulation, one["name"], one["load"], one["end"] - one["start"], sizes, seed))
    raw = recorded(simulation, played[-1].end, played)
    return figures(raw, system)


def figures(raw: Mapping[str, Any], system: System) -> Figures:
    """Those of QUANTITIES, and what was refused, of a run, simulated or real."""
    found = measure(raw, 0.0, system.seed, system.slo)
    wanted = (*QUANTITIES, "rejected", "requests")
    return {one.name: one.value for one in found if one.value is not None and one.name.rpartition("/")[2] in wanted}


def errors(predicted: Mapping[str, Figures], measured: Mapping[str, Figures]) -> dict[str, dict[str, float]]:
    """Run -> name -> predicted / measured - 1, where there is something measured to compare. Requests/s of Poisson runs
    below capacity are given, not predicted, and left out."""
    return {
        run: {
            name: found[name] / measured[run][name] - 1
            for name in found
            if measured[run].get(name)
            and name.rpartition("/")[2] in QUANTITIES
            and name not in ("poisson/requests_per_s", "poisson/goodput_per_s")
        }
        for run, found in predicted.items()
    }


def by_quantity(found: Mapping[str, Mapping[str, float]]) -> dict[str, dict[str, float]]:
    """Of each quantity: how many errors, their median, the one farthest from 0, the least and the greatest."""
    out = {}
    for quantity in QUANTITIES:
        values = [value for run in found.values() for name, value in run.items() if name.endswith(quantity)]
        if values:
            out[quantity] = {
                "n": len(values),
                "median": statistics.median(values),
                "median_size": statistics.median(map(abs, values)),
                "worst": max(values, key=abs),
                "low": min(values),
                "high": max(values),
            }
    return out


def true_range(predicted: float, error: Mapping[str, float]) -> tuple[float, float]:
    """Where the true value lies if the error is one of those that were measured."""
    return predicted / (1 + error["high"]), predicted / (1 + error["low"])


def paper(
    counts: Iterable[int], think_s: float, one: Needed, system: System, price: float, error: Mapping[str, Any]
) -> list[dict[str, Any]]:
    """Replicas, one a machine, for crowds of so many users; their cost a month at `price` an hour. error: by quantity, of a
    run that had a machine of its own too. Ranges follow from it: of requests/s for replicas and cost, of TTFT for TTFT."""
    rows = []
    for users in counts:
        rate = Crowd(users, think_s).most_per_s
        needed = replicas_for(rate, one, system.times, system.limits, system.lengths, system.slo, system.seed)
        low, high = true_range(one.rate, error["requests_per_s"])
        replicas = [max(1, math.ceil(rate / high)), max(1, math.ceil(rate / low))]
        row = asdict(needed) | {"users": users, "replicas_range": replicas}
        row |= {"cost_per_month": HOURS * price * needed.replicas}
        row |= {"cost_per_month_range": [HOURS * price * count for count in replicas]}
        for name in ("ttft_p50_ms", "ttft_p95_ms"):
            row[f"{name}_range"] = list(true_range(getattr(needed, name), error[name]))
        rows.append(row)
    return rows
