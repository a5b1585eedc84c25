"""Which entries a store of bounded bytes keeps: admission and eviction as small strategies with one signature.

A policy knows keys and sizes, no values and no time. The store tells it what happens: `used` (found), `missed` (asked for
and not there), `admit` (to be kept: gives the keys that go for it, the new one itself where it is refused) and `forget`
(gone for another reason: expired, dropped). All of them are deterministic: ties go to the least recently used.

Not covered: what an answer cost to make (every miss counts alike), several threads, counts that outlive the process.
"""

import heapq
from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from hashlib import blake2b
from typing import final

WINDOW_SHARE, PROTECTED_SHARE = 0.01, 0.8
"""Of W-TinyLFU: the window's share of the budget, and what of the rest is kept for entries used twice."""
SAMPLE = 10
"""Lookups for each entry held after which W-TinyLFU halves its counters."""
LEAST_ENTRIES = 64
"""Entries that this rule counts at least, so that a nearly empty store does not forget at once."""
COUNTER_LIMIT = 15
BYTES_PER_COUNTER, LEAST_COUNTERS = 256, 1024
"""Of the budget, for each counter of a row: several counters for each entry, so that collisions stay rare."""


class Policy(ABC):
    """Of a store with `budget` bytes. `admit` is told of sizes from 1 to the budget, of keys that are not held."""

    def __init__(self, budget: int) -> None:
        self.budget = budget
        self.nbytes = 0

    @abstractmethod
    def used(self, key: bytes) -> None: ...

    def missed(self, key: bytes) -> None:  # noqa: B027
        """Most policies do not care."""

    @abstractmethod
    def admit(self, key: bytes, size: int) -> list[bytes]: ...

    @abstractmethod
    def forget(self, key: bytes) -> None: ...


@final
class Lru(Policy):
    """The least recently used goes."""

    def __init__(self, budget: int) -> None:
        super().__init__(budget)
        self._sizes: OrderedDict[bytes, int] = OrderedDict()

    def used(self, key: bytes) -> None:
        self._sizes.move_to_end(key)

    def admit(self, key: bytes, size: int) -> list[bytes]:
        gone = []
        while self.nbytes + size > self.budget:
            victim, freed = self._sizes.popitem(last=False)
            self.nbytes -= freed
            gone.append(victim)
        self._sizes[key] = size
        self.nbytes += size
        return gone

    def forget(self, key: bytes) -> None:
        self.nbytes -= self._sizes.pop(key)


class Ranked(Policy):
    """The entry of the lowest rank goes. Ranks are told from uses while in the store, and from the size.

    A heap holds each rank that an entry ever had; those outdated are left out as they come up.
    """

    def __init__(self, budget: int) -> None:
        super().__init__(budget)
        self._entries: dict[bytes, tuple[int, int, int]] = {}  # size, uses, when it was last used
        self._heap: list[tuple[float, int, bytes]] = []  # rank, when it got that rank, key
        self._turn = 0

    @abstractmethod
    def rank(self, uses: int, size: int) -> float: ...

    def used(self, key: bytes) -> None:
        size, uses, _ = self._entries[key]
        self._place(key, size, uses + 1)

    def forget(self, key: bytes) -> None:
        self.nbytes -= self._entries.pop(key)[0]

    def _place(self, key: bytes, size: int, uses: int) -> None:
        self._turn += 1
        self._entries[key] = (size, uses, self._turn)
        heapq.heappush(self._heap, (self.rank(uses, size), self._turn, key))
        if len(self._heap) > 2 * len(self._entries) + LEAST_ENTRIES:
            self._heap = [one for one in self._heap if self._valid(one)]
            heapq.heapify(self._heap)

    def _valid(self, item: tuple[float, int, bytes]) -> bool:
        entry = self._entries.get(item[2])
        return entry is not None and entry[2] == item[1]

    def _lowest(self) -> tuple[float, int, bytes]:
        while not self._valid(item := heapq.heappop(self._heap)):
            pass
        return item


@final
class Lfu(Ranked):
    """The least often used goes, counted while in the store (in-cache LFU of Breslau et al., INFOCOM 1999)."""

    def rank(self, uses: int, size: int) -> float:
        return float(uses)

    def admit(self, key: bytes, size: int) -> list[bytes]:
        gone = []
        while self.nbytes + size > self.budget:
            gone.append(self._lowest()[2])
            self.forget(gone[-1])
        self.nbytes += size
        self._place(key, size, 1)
        return gone


@final
class SizeAware(Ranked):
    """GreedyDual-Size-Frequency (Cherkasova, HP Laboratories HPL-98-69R1, 1998), the cost of each miss 1.

    The rank is clock + uses / size; the clock rises to the highest rank that went. A new entry that would be among those
    that go is refused, and none goes.
    """

    def __init__(self, budget: int) -> None:
        super().__init__(budget)
        self._clock = 0.0

    def rank(self, uses: int, size: int) -> float:
        return self._clock + uses / size

    def admit(self, key: bytes, size: int) -> list[bytes]:
        victims: list[tuple[float, int, bytes]] = []
        freed, own = 0, self.rank(1, size)
        while self.nbytes - freed + size > self.budget:
            victims.append(self._lowest())
            freed += self._entries[victims[-1][2]][0]
            if victims[-1][0] > own:
                for one in victims:
                    heapq.heappush(self._heap, one)
                return [key]
        for one in victims:
            self.forget(one[2])
        self._clock = max((one[0] for one in victims), default=self._clock)
        self.nbytes += size
        self._place(key, size, 1)
        return [one[2] for one in victims]


class Sketch:
    """How often each key was asked for, roughly and never too low before aging: a count-min sketch (Cormode and
    Muthukrishnan 2005) of 4 rows, counters up to 15, conservative update, all of them halved by `age`.

    width: counters of a row, a power of two.
    """

    ROWS = 4
    HALVES = bytes(value // 2 for value in range(256))

    def __init__(self, width: int) -> None:
        self.width = width
        self._rows = [bytearray(width) for _ in range(self.ROWS)]

    def add(self, key: bytes) -> None:
        places = list(self._places(key))
        least = min(row[place] for row, place in places)
        if least < COUNTER_LIMIT:
            for row, place in places:
                if row[place] == least:
                    row[place] += 1

    def count(self, key: bytes) -> int:
        return min(row[place] for row, place in self._places(key))

    def age(self) -> None:
        self._rows = [row.translate(self.HALVES) for row in self._rows]

    def _places(self, key: bytes) -> Iterator[tuple[bytearray, int]]:
        digest = blake2b(key, digest_size=4 * self.ROWS).digest()
        for number, row in enumerate(self._rows):
            yield row, int.from_bytes(digest[4 * number : 4 * number + 4], "little") & (self.width - 1)


@final
class TinyLfu(Policy):
    """W-TinyLFU (Einziger, Friedman and Manes, ACM Transactions on Storage 13(4), 2017).

    1. A new entry goes into a small window, which is LRU.
    2. What the window pushes out is a candidate for the main part, which is segmented LRU: on probation, or protected
       once it was used there; what the protected part pushes out is on probation again.
    3. Where the main part is full, the candidate takes the place of the victims that it needs if it was asked for more
       often, by the sketch, than all of them together (aggregated victims: Einziger et al. 2021, for unlike sizes); else
       it is refused.

    Lookups that miss count too, so that what is asked for often gets in. The sketch has no doorkeeper; its bytes
    (4 x width: a sixty-fourth of the budget or little more) come beside it.
    """

    def __init__(self, budget: int) -> None:
        super().__init__(budget)
        self._window: OrderedDict[bytes, int] = OrderedDict()
        self._probation: OrderedDict[bytes, int] = OrderedDict()
        self._protected: OrderedDict[bytes, int] = OrderedDict()
        self._window_bytes = self._protected_bytes = 0
        self._window_limit = int(WINDOW_SHARE * budget)
        self._main_limit = budget - self._window_limit
        self.sketch = Sketch(1 << (max(LEAST_COUNTERS, budget // BYTES_PER_COUNTER) - 1).bit_length())
        self._asked = 0

    def __len__(self) -> int:
        return len(self._window) + len(self._probation) + len(self._protected)

    def used(self, key: bytes) -> None:
        self.missed(key)
        if key in self._window:
            self._window.move_to_end(key)
        elif key in self._protected:
            self._protected.move_to_end(key)
        else:
            self._protect(key)

    def missed(self, key: bytes) -> None:
        self.sketch.add(key)
        self._asked += 1
        if self._asked >= SAMPLE * max(LEAST_ENTRIES, len(self)):
            self.sketch.age()
            self._asked //= 2

    def admit(self, key: bytes, size: int) -> list[bytes]:
        if size > self._window_limit:
            return self._contest(key, size)
        self._window[key] = size
        self._window_bytes += size
        self.nbytes += size
        gone = []
        while self._window_bytes > self._window_limit:
            candidate, its = self._window.popitem(last=False)
            self._window_bytes -= its
            self.nbytes -= its
            gone += self._contest(candidate, its)
        return gone

    def forget(self, key: bytes) -> None:
        for part in (self._window, self._probation, self._protected):
            if (size := part.pop(key, None)) is not None:
                self.nbytes -= size
                self._window_bytes -= size if part is self._window else 0
                self._protected_bytes -= size if part is self._protected else 0
                return
        raise KeyError(key)

    def _protect(self, key: bytes) -> None:
        size = self._probation.pop(key)
        self._protected[key] = size
        self._protected_bytes += size
        while self._protected_bytes > PROTECTED_SHARE * self._main_limit:
            demoted, its = self._protected.popitem(last=False)
            self._protected_bytes -= its
            self._probation[demoted] = its

    def _contest(self, key: bytes, size: int) -> list[bytes]:
        """The keys that leave the store for it, or it alone."""
        victims = self._victims(size - (self._main_limit - (self.nbytes - self._window_bytes)))
        if victims is None or (victims and self.sketch.count(key) <= sum(map(self.sketch.count, victims))):
            return [key]
        for victim in victims:
            self.forget(victim)
        self._probation[key] = size
        self.nbytes += size
        return victims

    def _victims(self, needed: int) -> list[bytes] | None:
        """Those first to go that free `needed` bytes; None where all together do not."""
        victims: list[bytes] = []
        for part in (self._probation, self._protected):
            for key, size in part.items():
                if needed <= 0:
                    return victims
                victims.append(key)
                needed -= size
        return victims if needed <= 0 else None


POLICIES: Mapping[str, Callable[[int], Policy]] = {"lru": Lru, "lfu": Lfu, "size_aware": SizeAware, "tinylfu": TinyLfu}
