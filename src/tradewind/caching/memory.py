"""A store in the memory of this process: values by key under a budget of bytes, for a time.

1. `put` keeps a value until `ttl_s` seconds from now, where the policy admits it (tradewind.caching.policies); the budget
   counts the bytes of key and value and OVERHEAD for each entry, and is never exceeded.
2. `get` gives it. What has expired is no hit: it is dropped when it is asked for or when room is wanted.
3. It goes when it expires, is dropped or replaced, or when the policy prefers another.

The store's time goes on while the machine sleeps, where its system has such a clock. It never goes back: of a clock that
does, the latest moment counts until it is passed, so nothing that expired comes back. Used from one thread. Not covered:
the memory of the policy's own counters, persistence.
"""

import heapq
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from tradewind.caching.policies import POLICIES
from tradewind.errors import UserError

OVERHEAD = 512
"""Bytes that an entry takes besides its key and value, rounded up from what CPython was measured to take: 360 to 422 (lru,
tinylfu); `lfu` and `size_aware` keep old ranks too and take up to 705."""
DEFAULT_POLICY = "tinylfu"
"""Of the four, the highest mean hit ratio and byte hit ratio over exponents, churn and budgets (studies/caching/traces.py):
ahead where a budget holds a tenth or a quarter of all answers; where it holds half, `size_aware` is, by about 0.01."""
SLACK = 64
"""Outdated expiry times kept at least before they are cleared out."""


uptime: Callable[[], float] = (
    partial(time.clock_gettime, time.CLOCK_BOOTTIME) if hasattr(time, "CLOCK_BOOTTIME") else time.monotonic
)
"""Seconds since the machine started: on Linux also those that it was suspended, which `monotonic` leaves out."""


@dataclass(frozen=True, slots=True)
class Entry:
    """stored, expires: seconds on the store's clock."""

    value: bytes
    stored: float
    expires: float


@dataclass
class Counts:
    """Since the start: lookups found and not; entries that went for others, were refused (too large, no time to live, or
    by the policy), or went because their time was over. An expired one that is asked for is a miss too."""

    hits: int = 0
    misses: int = 0
    evicted: int = 0
    refused: int = 0
    expired: int = 0


class LocalStore:
    """budget: bytes. policy: a name of POLICIES. clock: seconds. Raises UserError for an unknown policy, or a budget below
    0."""

    def __init__(self, budget: int, policy: str = DEFAULT_POLICY, clock: Callable[[], float] = uptime) -> None:
        if policy not in POLICIES:
            raise UserError(f"unknown cache policy {policy!r} (choices: {', '.join(POLICIES)})")
        if budget < 0:
            raise UserError(f"a cache of {budget} bytes")
        self.budget, self.policy, self.counts = budget, policy, Counts()
        self._clock = clock
        self._latest = -math.inf
        self._entries: dict[bytes, Entry] = {}
        self._expiries: list[tuple[float, bytes]] = []
        self._policy = POLICIES[policy](budget)

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def nbytes(self) -> int:
        """Of all entries, expired ones that nobody asked for since included."""
        return self._policy.nbytes

    def now(self) -> float:
        """The store's time: the latest that its clock ever gave."""
        self._latest = max(self._latest, self._clock())
        return self._latest

    def get(self, key: bytes) -> Entry | None:
        """None where it is not there, or its time is over."""
        entry = self._entries.get(key)
        if entry is not None and entry.expires > self.now():
            self.counts.hits += 1
            self._policy.used(key)
            return entry
        if entry is not None:
            self._expire(key)
        self.counts.misses += 1
        self._policy.missed(key)
        return None

    def peek(self, key: bytes) -> Entry | None:
        """As `get`, but no use of it: nothing is counted, nothing goes."""
        entry = self._entries.get(key)
        return entry if entry is not None and entry.expires > self.now() else None

    def put(self, key: bytes, value: bytes, ttl_s: float) -> bool:
        """Whether it is kept. A value that was there goes in any case."""
        self.drop(key)
        size = len(key) + len(value) + OVERHEAD
        if size > self.budget or not ttl_s > 0:
            self.counts.refused += 1
            return False
        now = self.now()
        self._expire_all(now)
        gone = self._policy.admit(key, size)
        self._entries[key] = Entry(value, now, now + ttl_s)
        for one in gone:
            del self._entries[one]
        kept = key in self._entries
        self.counts.evicted += len(gone) - (not kept)
        self.counts.refused += not kept
        if kept:
            heapq.heappush(self._expiries, (now + ttl_s, key))
            self._tidy()
        return kept

    def drop(self, key: bytes) -> None:
        """Where it is there."""
        if self._entries.pop(key, None) is not None:
            self._policy.forget(key)

    def _expire(self, key: bytes) -> None:
        self.drop(key)
        self.counts.expired += 1

    def _expire_all(self, now: float) -> None:
        while self._expiries and self._expiries[0][0] <= now:
            moment, key = heapq.heappop(self._expiries)
            entry = self._entries.get(key)
            if entry is not None and entry.expires == moment:
                self._expire(key)

    def _tidy(self) -> None:
        """Expiry times of entries that went before."""
        if len(self._expiries) > 2 * len(self._entries) + SLACK:
            self._expiries = [(entry.expires, key) for key, entry in self._entries.items()]
            heapq.heapify(self._expiries)
