"""Each policy against a reference that is slow and plain."""

import random
from collections import OrderedDict
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tradewind.caching.policies import LEAST_ENTRIES, POLICIES, SAMPLE, Lfu, Lru, Policy, SizeAware, Sketch, TinyLfu

ASKED = st.lists(st.tuples(st.integers(0, 9).map(lambda n: b"%d" % n), st.integers(1, 9)), max_size=120)


def ask(policy: Policy, held: dict[bytes, int], key: bytes, size: int) -> list[bytes]:
    """As a store does. held: sizes by key. Gives what went."""
    if key in held:
        policy.used(key)
        return []
    policy.missed(key)
    gone = policy.admit(key, size)
    held[key] = size
    for one in gone:
        del held[one]
    assert policy.nbytes == sum(held.values()) <= policy.budget
    return gone


@settings(deadline=None)
@given(asked=ASKED)
def test_lru_against_an_ordered_dictionary(asked: list[tuple[bytes, int]]) -> None:
    policy, held, reference = Lru(20), {}, OrderedDict()
    for key, size in asked:
        ask(policy, held, key, size)
        if key in reference:
            reference.move_to_end(key)
            continue
        while reference and sum(reference.values()) + size > 20:
            reference.popitem(last=False)
        reference[key] = size
        assert held == dict(reference)


class Plain:
    """Looks at all entries each time: the lowest (rank, last use) goes."""

    def __init__(self, budget: int, rank: Callable[[float, int, int], float], refuses: bool) -> None:
        self.budget, self.rank, self.refuses = budget, rank, refuses
        self.entries: dict[bytes, list[float]] = {}  # rank, last use, size, uses
        self.clock, self.turn = 0.0, 0

    def ask(self, key: bytes, size: int) -> None:
        self.turn += 1
        uses = 1
        if key in self.entries:
            _, _, size, uses = self.entries[key]
            uses += 1
        else:
            order = sorted(self.entries, key=lambda one: self.entries[one][:2])
            total, victims = sum(one[2] for one in self.entries.values()), []
            while total + size > self.budget:
                victims.append(order.pop(0))
                total -= self.entries[victims[-1]][2]
            ranks = [self.entries[one][0] for one in victims]
            if self.refuses and ranks and max(ranks) > self.rank(self.clock, 1, size):
                return
            self.clock = max([self.clock, *ranks])
            for one in victims:
                del self.entries[one]
        self.entries[key] = [self.rank(self.clock, uses, size), self.turn, size, uses]


RANKED = [
    (Lfu, lambda clock, uses, size: uses, False),
    (SizeAware, lambda clock, uses, size: clock + uses / size, True),
]


@pytest.mark.parametrize(("made", "rank", "refuses"), RANKED)
@settings(deadline=None)
@given(asked=ASKED)
def test_ranked_policies_against_a_look_at_all_entries(made, rank, refuses, asked) -> None:
    policy, held, plain = made(20), {}, Plain(20, rank, refuses)
    for key, size in asked:
        ask(policy, held, key, size)
        plain.ask(key, size)
        assert set(held) == set(plain.entries)


def test_size_aware_prefers_many_small_ones_and_forgets_old_fame() -> None:
    policy, held = SizeAware(100), {}
    ask(policy, held, b"large", 90)
    for name in (b"a", b"b", b"c"):
        ask(policy, held, name, 10)
    assert set(held) == {b"a", b"b", b"c"}
    for _ in range(5):
        ask(policy, held, b"a", 10)
    for number in range(60):  # each asked for once: the clock rises past the fame of `a`
        ask(policy, held, b"%d" % number, 10)
    assert b"a" not in held


class PlainTiny:
    """W-TinyLFU of equal sizes, in entries, by the true counts."""

    def __init__(self, window: int, protected: int, main: int) -> None:
        self.limits = (window, protected, main)
        self.window, self.probation, self.protected = [], [], []
        self.counts: dict[bytes, int] = {}

    def ask(self, key: bytes) -> None:
        self.counts[key] = min(15, self.counts.get(key, 0) + 1)
        window, protected, main = self.limits
        for part in (self.window, self.protected):
            if key in part:
                part.remove(key)
                part.append(key)
                return
        if key in self.probation:
            self.probation.remove(key)
            self.protected.append(key)
            if len(self.protected) > protected:
                self.probation.append(self.protected.pop(0))
            return
        self.window.append(key)
        if len(self.window) <= window:
            return
        candidate = self.window.pop(0)
        if len(self.probation) + len(self.protected) < main:
            self.probation.append(candidate)
            return
        part = self.probation or self.protected
        if self.counts[candidate] > self.counts[part[0]]:
            part.pop(0)
            self.probation.append(candidate)


@settings(deadline=None)
@given(seed=st.integers(0, 2**32))
def test_tinylfu_of_equal_sizes_against_plain_lists(seed: int) -> None:
    """200 entries of 10,000 bytes: 2 in the window, 158 protected. Too few lookups for the counters to be halved."""
    policy, held, plain = TinyLfu(2_000_000), {}, PlainTiny(2, 158, 198)
    chance = random.Random(seed)
    for _ in range(600):
        key = b"%d" % int(300 * chance.random() ** 2)
        ask(policy, held, key, 10_000)
        plain.ask(key)
        assert set(held) == {*plain.window, *plain.probation, *plain.protected}


def test_tinylfu_lets_no_crowd_of_strangers_in() -> None:
    policy, held = TinyLfu(100_000), {}
    for _ in range(3):
        for number in range(90):
            ask(policy, held, b"known %d" % number, 1000)
    for number in range(500):
        ask(policy, held, b"stranger %d" % number, 1000)
    assert sum(key.startswith(b"known") for key in held) >= 88


def test_tinylfu_takes_a_large_one_only_for_what_it_is_worth() -> None:
    """Asked for twice, it does not take the places of five that were asked for once each; asked for six times, it does."""
    policy, held = TinyLfu(100_000), {}
    for number in range(99):
        ask(policy, held, b"%d" % number, 1000)
    for _ in range(2):
        assert ask(policy, held, b"large", 6000) == [b"large"]
    for _ in range(4):
        gone = ask(policy, held, b"large", 6000)
    assert len(gone) == 5 and b"large" not in gone


@settings(deadline=None)
@given(asked=st.lists(st.integers(0, 40).map(lambda n: b"%d" % n), max_size=200))
def test_a_sketch_never_counts_too_low(asked: list[bytes]) -> None:
    sketch = Sketch(64)
    for key in asked:
        sketch.add(key)
    assert all(sketch.count(key) >= min(15, asked.count(key)) for key in asked)


def test_counters_are_halved_after_so_many_lookups() -> None:
    policy = TinyLfu(100_000)
    for _ in range(SAMPLE * LEAST_ENTRIES - 1):
        policy.missed(b"key")
    assert policy.sketch.count(b"key") == 15
    policy.missed(b"key")
    assert policy.sketch.count(b"key") == 7


@pytest.mark.parametrize("name", POLICIES)
def test_what_is_forgotten_leaves_its_bytes_and_may_come_back(name: str) -> None:
    policy, held = POLICIES[name](100_000), {}
    for number in range(40):
        ask(policy, held, b"%d" % number, 2000)
        ask(policy, held, b"%d" % number, 2000)
    for key in list(held):
        policy.forget(key)
    assert policy.nbytes == 0
    assert policy.admit(b"1", 2000) == []
