"""Requests of the load test `caching` by what became of them, and how long who sent them waited.

An outcome is what the server said in X-Cache (hit, miss, coalesced, bypass), `uncached` where it said nothing, `empty` of
a route that does nothing. Refused and failed requests have none: their answer never came, so their wait is infinite.
"""

import math
from collections.abc import Mapping, Sequence

from tradewind.load.results import Span, Timing

Phases = Mapping[str, tuple[Sequence[Span], Sequence[Timing]]]
"""Phase -> when it was on, and the requests that started in it."""


def ended(requests: Sequence[Timing]) -> list[Timing]:
    """Those that ended well."""
    return [one for one in requests if one["error"] is None and one["rejected"] is None and one["end"] is not None]


def outcome_of(one: Timing) -> str:
    return one["cache"] or "uncached"


def by_outcome(requests: Sequence[Timing]) -> dict[str, list[Timing]]:
    groups: dict[str, list[Timing]] = {}
    for one in ended(requests):
        groups.setdefault(outcome_of(one), []).append(one)
    return groups


def seconds(one: Timing) -> float:
    return float(one["end"] - one["start"])


def waits(requests: Sequence[Timing]) -> list[float]:
    """Seconds, one for each request that was sent."""
    return [seconds(one) if ended([one]) else math.inf for one in requests]
