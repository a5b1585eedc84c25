"""Of the shared store alone, over a real Redis: whose lease it is, and what is kept of values."""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import redis as redis_client

from tradewind.caching import shared
from tradewind.caching.codec import SEAL, seal
from tradewind.caching.node import RedisNode
from tradewind.caching.shared import Found, Lease, RedisShared

SECRET, KEY = b"a secret that tests share", b"k" * 32
VALUE, LEASE = (f"tradewind:{{{KEY.hex()}}}:{what}" for what in ("value", "lease"))


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A busy machine is no outage."""
    monkeypatch.setattr(shared, "TIMEOUT_S", 5.0)
    monkeypatch.setattr(shared, "STORE_S", 5.0)


def over(node: RedisNode, check: Callable[[RedisShared, Any], Awaitable[None]], **given: Any) -> None:
    """One process' store, and a client that sees what is in it."""

    async def run() -> None:
        store = RedisShared(node.url, SECRET, **given)
        await check(store, client)
        await store.close()

    with redis_client.Redis.from_url(node.url) as client:
        asyncio.run(run())


@pytest.mark.parametrize(("first", "second", "takes"), [(0, 0, False), (0, 1, False), (1, 0, True), (100, -3, True)])
def test_the_more_urgent_has_the_lease(redis_node: RedisNode, first: int, second: int, takes: bool) -> None:
    async def check(store: RedisShared, client: Any) -> None:
        one, two = Lease(KEY, "one"), Lease(KEY, "two")
        assert await store.fetch(KEY, "one", first) == Found(lease=one)
        assert await store.fetch(KEY, "two", second) == (Found(lease=two) if takes else Found(busy=True))
        holder, other = (two, one) if takes else (one, two)
        held = client.get(LEASE)
        client.pexpire(LEASE, 1000)
        await store.extend(other)
        assert client.pttl(LEASE) <= 1000
        await store.release(other)
        assert client.get(LEASE) == held
        await store.extend(holder)
        assert 1000 < client.pttl(LEASE) <= 3000
        await store.put(KEY, b"of the other", 9.0, other)  # which stores, and frees nothing that is not its own
        assert client.get(LEASE) == held
        await store.release(holder)
        assert client.get(LEASE) is None

    over(redis_node, check)


def test_a_lease_is_its_holders_again(redis_node: RedisNode) -> None:
    async def check(store: RedisShared, client: Any) -> None:
        for _ in range(2):
            assert (await store.fetch(KEY, "one")).lease == Lease(KEY, "one")
        assert (await store.fetch(KEY, "on")).busy  # the beginning of a token is another one
        await store.release(Lease(KEY, "on"))
        assert (await store.fetch(KEY, "two")).busy

    over(redis_node, check)


@pytest.mark.parametrize(
    ("text", "ms"),
    [("somebody 0", None), ("somebody 0", 10_000), ("somebody 0", 10**9), ("somebody", 2000), ("", 2000),
     ("x" * 100, 2000), ("somebody -9e99", 2000)],
)  # fmt: skip
def test_a_lease_that_nobody_can_have_set_holds_nobody_up(redis_node: RedisNode, ms: int | None, text: str) -> None:
    async def check(store: RedisShared, client: Any) -> None:
        client.set(LEASE, text, px=ms)
        assert (await store.fetch(KEY, "one")).lease == Lease(KEY, "one")
        assert 0 < client.pttl(LEASE) <= 3000

    over(redis_node, check)


def test_a_lease_of_another_type_is_taken_over_and_touched_by_none_else(redis_node: RedisNode) -> None:
    async def check(store: RedisShared, client: Any) -> None:
        client.hset(LEASE, "a", "b")
        await store.extend(Lease(KEY, "one"))
        await store.release(Lease(KEY, "one"))
        assert client.hgetall(LEASE) == {b"a": b"b"}
        assert (await store.fetch(KEY, "one")).lease == Lease(KEY, "one")
        assert store.faults.errors == 0

    over(redis_node, check)


def test_what_was_put_is_found_until_its_end_and_its_lease_is_free(redis_node: RedisNode) -> None:
    async def check(store: RedisShared, client: Any) -> None:
        lease = (await store.fetch(KEY, "one")).lease
        await store.put(KEY, b"answer", 1.0, lease)
        assert client.get(LEASE) is None
        assert 0 < client.pttl(VALUE) <= 1000
        found = await store.fetch(KEY, "two")
        assert (found.value, 0 < found.left_s <= 1.0, found.lease) == (b"answer", True, None)
        client.pexpire(VALUE, 100)
        assert (await store.fetch(KEY, "two")).left_s <= 0.1
        client.persist(VALUE)  # a store that keeps it too long
        await asyncio.sleep(1.0)
        assert (await store.fetch(KEY, "two")).lease == Lease(KEY, "two")

    over(redis_node, check)


@pytest.mark.parametrize("by_s", [-3600.0, 3600.0])
def test_the_clocks_of_machines_do_not_matter(
    redis_node: RedisNode, monkeypatch: pytest.MonkeyPatch, by_s: float
) -> None:
    async def check(store: RedisShared, client: Any) -> None:
        now = time.time
        monkeypatch.setattr(time, "time", lambda: now() + by_s)
        await store.put(KEY, b"answer", 60.0, None)
        monkeypatch.undo()
        found = await store.fetch(KEY, "one")
        assert (found.value, 50 < found.left_s <= 60) == (b"answer", True)

    over(redis_node, check)


def test_a_value_from_the_future_is_made_anew_by_one(redis_node: RedisNode, caplog: pytest.LogCaptureFixture) -> None:
    async def check(store: RedisShared, client: Any) -> None:
        later = time.time() + 60
        client.set(VALUE, seal(SECRET, KEY, b"of tomorrow", later, later + 60))
        assert (await store.fetch(KEY, "one")).lease == Lease(KEY, "one")
        assert (await store.fetch(KEY, "two")).busy
        assert (store.faults.skewed, store.faults.errors, store.faults.rejected) == (2, 0, 0)
        await store.put(KEY, b"of today", 60.0, Lease(KEY, "one"))
        assert (await store.fetch(KEY, "two")).value == b"of today"

    with caplog.at_level(logging.WARNING):
        over(redis_node, check)
    (said,) = caplog.messages
    assert "from now" in said


def test_a_value_that_is_not_ours_is_made_anew_by_one(redis_node: RedisNode) -> None:
    async def check(store: RedisShared, client: Any) -> None:
        client.set(VALUE, seal(b"another secret", KEY, b"forged", time.time(), time.time() + 60))
        assert (await store.fetch(KEY, "one")).lease == Lease(KEY, "one")
        assert (await store.fetch(KEY, "two")).busy
        assert store.faults.rejected == 2

    over(redis_node, check)


def test_a_value_beyond_the_limit_is_neither_put_nor_read(redis_node: RedisNode) -> None:
    async def check(store: RedisShared, client: Any) -> None:
        await store.put(KEY, b"x" * 1000, 60.0, None)
        assert (await store.fetch(KEY, "one")).value == b"x" * 1000
        client.delete(VALUE)
        lease = (await store.fetch(KEY, "one")).lease
        await store.put(KEY, b"x" * 1001, 60.0, lease)
        assert (client.get(VALUE), client.get(LEASE), store.faults.large) == (None, None, 1)
        client.set(VALUE, b"x" * (1001 + SEAL))
        assert (await store.fetch(KEY, "one")).lease == Lease(KEY, "one")
        assert (store.faults.large, store.faults.rejected, store.faults.errors) == (2, 0, 0)

    over(redis_node, check, max_value=1000)


def test_a_redis_that_forgot_the_scripts_is_told_them_again(redis_node: RedisNode) -> None:
    async def check(store: RedisShared, client: Any) -> None:
        for number in range(3):
            client.script_flush()
            keys = [b"%031d%d" % (place, number) for place in range(50)]
            found = await asyncio.gather(*(store.fetch(key, "one") for key in keys))
            assert [one.lease for one in found] == [Lease(key, "one") for key in keys]
            client.script_flush()
            await store.release(Lease(keys[0], "one"))
            assert (await store.fetch(keys[0], "two")).lease
        assert store.faults.errors == 0

    over(redis_node, check)
