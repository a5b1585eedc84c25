"""The local store under any order of calls: its budget, its clock, its counts."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tradewind.caching.memory import OVERHEAD, LocalStore
from tradewind.caching.policies import POLICIES
from tradewind.errors import UserError

BUDGET = 8 * (OVERHEAD + 20)
KEYS = st.integers(0, 11).map(lambda number: b"key %02d" % number)
CALLS = st.lists(
    st.one_of(
        st.tuples(st.just("get"), KEYS),
        st.tuples(st.just("put"), KEYS, st.integers(0, 2500), st.sampled_from([0.0, 1.0, 5.0, math.inf])),
        st.tuples(st.just("drop"), KEYS),
        st.tuples(st.just("wait"), st.floats(-3, 6)),
    ),
    max_size=80,
)


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def play(policy: str, calls: list[tuple]) -> list[object]:
    """What each call gave. Checks after each that the budget holds, exactly, and that no hit is stale or expired."""
    clock = Clock()
    store = LocalStore(BUDGET, policy, clock)
    put: dict[bytes, tuple[bytes, float]] = {}
    gave: list[object] = []
    for number, (name, *values) in enumerate(calls):
        now = store.now()
        if name == "get":
            entry = store.get(values[0])
            gave.append(entry)
            if entry is not None:
                assert (entry.value, entry.expires) == put[values[0]]
                assert entry.expires > now
        elif name == "put":
            key, length, ttl = values
            value = bytes([number % 256]) * length
            kept = store.put(key, value, ttl)
            put[key] = (value, now + ttl)
            assert kept == (store.get(key) is not None)
            gave.append(kept)
        elif name == "wait":
            clock.now += values[0]
        else:
            getattr(store, name)(*values)
        assert store.nbytes == sum(len(key) + len(one.value) + OVERHEAD for key, one in store._entries.items())
        assert store.nbytes <= BUDGET
        assert len(store) == len(store._entries)
    return [*gave, len(store), store.nbytes, vars(store.counts)]


@pytest.mark.parametrize("policy", POLICIES)
@settings(deadline=None)  # a busy machine fails no property
@given(calls=CALLS)
def test_the_budget_holds_and_hits_are_fresh_whatever_happens(policy: str, calls: list[tuple]) -> None:
    assert play(policy, calls) == play(policy, calls)


@pytest.mark.parametrize("policy", POLICIES)
def test_a_clock_that_jumps_back_revives_nothing(policy: str) -> None:
    clock = Clock()
    store = LocalStore(BUDGET, policy, clock)
    assert store.put(b"key", b"value", 10.0)
    assert store.get(b"key").stored == 100.0
    clock.now = 111.0
    store.put(b"other", b"value", 10.0)
    clock.now = 50.0
    assert store.get(b"key") is None
    assert store.get(b"other") is not None
    assert vars(store.counts) == {"hits": 2, "misses": 1, "evicted": 0, "refused": 0, "expired": 1}


def test_an_entry_expires_at_its_moment_and_leaves_its_bytes() -> None:
    clock = Clock()
    store = LocalStore(BUDGET, clock=clock)
    store.put(b"key", b"value", 10.0)
    clock.now = 109.999
    assert store.get(b"key") is not None
    clock.now = 110.0
    assert store.get(b"key") is None
    assert (len(store), store.nbytes) == (0, 0)


def test_expired_entries_go_before_live_ones() -> None:
    clock = Clock()
    store = LocalStore(2 * (OVERHEAD + 2), "lru", clock)
    store.put(b"a", b"1", 100.0)
    store.put(b"b", b"2", 1.0)
    clock.now += 2.0
    store.put(b"c", b"3", 100.0)
    assert store.get(b"a") is not None
    assert (store.counts.evicted, store.counts.expired) == (0, 1)


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize(("length", "ttl"), [(BUDGET, 10.0), (1, 0.0), (1, -1.0), (1, math.nan)])
def test_what_cannot_be_kept_replaces_nothing_but_its_own_old_value(policy: str, length: int, ttl: float) -> None:
    store = LocalStore(BUDGET, policy, Clock())
    store.put(b"key", b"old", 10.0)
    store.put(b"other", b"kept", 10.0)
    assert not store.put(b"key", b"x" * length, ttl)
    assert store.get(b"key") is None
    assert store.get(b"other") is not None
    assert store.counts.refused == 1


@pytest.mark.parametrize("policy", POLICIES)
def test_expiry_times_do_not_pile_up(policy: str) -> None:
    store = LocalStore(BUDGET, policy, Clock())
    for number in range(1000):
        store.put(b"key %d" % (number % 30), b"value", 1e6)
    assert len(store._expiries) <= 200


@pytest.mark.parametrize(("budget", "policy", "said"), [(-1, "lru", "-1 bytes"), (1, "best", "choices: lru, lfu")])
def test_mistakes_are_named(budget: int, policy: str, said: str) -> None:
    with pytest.raises(UserError, match=said):
        LocalStore(budget, policy)
