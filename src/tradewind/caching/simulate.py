"""A trace played to the local store on a clock of its own: what share it would have answered, in a second, not an hour.

1. A request finds its answer (hit), or finds it being made and waits for it (coalesced), or has it made (miss).
2. An answer that was made is put into the store at the end of its seconds.

`ideal` is what no policy exceeds for long while popularity stays as it is: a store that holds the most popular answers
from the start. Not covered: the time that hits take, engines that slow down under load (give the seconds that they take
then), answers that fail, several processes with stores of their own.
"""

import heapq
import math
from dataclasses import dataclass

import numpy as np

from tradewind.caching.memory import DEFAULT_POLICY, OVERHEAD, LocalStore
from tradewind.caching.traces import Floats, Integers, Trace

KEY_BYTES = 32
"""Of a key: a SHA-256 digest."""


@dataclass
class Replay:
    """Requests by outcome, and bytes of answers."""

    hits: int = 0
    coalesced: int = 0
    misses: int = 0
    hit_bytes: int = 0
    asked_bytes: int = 0

    @property
    def requests(self) -> int:
        return self.hits + self.coalesced + self.misses

    @property
    def hit_ratio(self) -> float:
        """hits / requests"""
        return self.hits / max(1, self.requests)

    @property
    def coalesced_ratio(self) -> float:
        """coalesced / requests"""
        return self.coalesced / max(1, self.requests)

    @property
    def byte_hit_ratio(self) -> float:
        """bytes of the answers that were hits / bytes of all answers"""
        return self.hit_bytes / max(1, self.asked_bytes)


class VirtualClock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def entry_bytes(nbytes: int) -> int:
    """What an answer of `nbytes` takes of a budget."""
    return KEY_BYTES + nbytes + OVERHEAD


def replay(
    trace: Trace, budget: int, policy: str = DEFAULT_POLICY, ttl_s: float = math.inf, warm_up: int = 0
) -> Replay:
    """budget: bytes, as the store counts them. The first `warm_up` requests are played and not counted."""
    clock, found = VirtualClock(), Replay()
    store = LocalStore(budget, policy, clock)
    making: dict[bytes, int] = {}
    ends: list[tuple[float, bytes]] = []
    rows = zip(*(column.tolist() for column in vars(trace).values()), strict=True)
    for number, (moment, question, tenant, nbytes, seconds) in enumerate(rows):
        while ends and ends[0][0] <= moment:
            clock.now, made = heapq.heappop(ends)
            store.put(made, bytes(making.pop(made)), ttl_s)
        clock.now = moment
        key = b"%016x%016x" % (tenant, question)
        hit, shared = store.get(key) is not None, key in making
        if not hit and not shared:
            making[key] = nbytes
            heapq.heappush(ends, (moment + seconds, key))
        if number >= warm_up:
            found.hits += hit
            found.coalesced += shared
            found.misses += not (hit or shared)
            found.hit_bytes += nbytes * hit
            found.asked_bytes += nbytes
    return found


def ideal(weights: Floats, nbytes: Integers, budget: int) -> float:
    """The hit ratio of a store that holds what brings most hits for its bytes. weights, nbytes: [answers]; the last
    answer that fits only partly counts by that part, so this is an upper bound (fractional knapsack, Dantzig 1957)."""
    taken = np.asarray(nbytes, np.float64) + (KEY_BYTES + OVERHEAD)
    order = np.argsort(-weights / taken, kind="stable")
    room = budget - (np.cumsum(taken[order]) - taken[order])
    return float(np.sum(weights[order] * np.clip(room / taken[order], 0.0, 1.0)))
