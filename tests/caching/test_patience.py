"""What the shared store promises of time, over a real Redis, as it is set: a burst, a large value, a slow store, a late
lease."""

import asyncio
import statistics
import time
from typing import Any

import pytest

from tests.caching.proxy import delaying
from tests.caching.test_leases import KEY, LEASE, SECRET, VALUE, over
from tradewind.caching import shared
from tradewind.caching.node import RedisNode
from tradewind.caching.shared import Found, RedisShared

pytestmark = pytest.mark.timing

BUSY = 0.045
"""Seconds that a machine which does other things may add."""


def test_a_value_of_24_mib_takes_no_time(redis_node: RedisNode) -> None:
    async def check(store: RedisShared, client: Any) -> None:
        await asyncio.wait_for(_warm(store), 20)
        client.set(VALUE, b"x" * (24 << 20))
        for place in range(5):
            await store.fetch(KEY, str(place))
        assert (store.breaker.open, store.faults.errors) == (False, 0)

    over(redis_node, check)


async def _warm(store: RedisShared) -> None:
    while not (await store.fetch(b"w" * 32, "warm")).lease:
        await asyncio.sleep(0.05)


@pytest.mark.parametrize("count", [50, 400])
def test_many_distinct_misses_at_once_are_no_fault_of_the_store(redis_node: RedisNode, count: int) -> None:
    async def check(store: RedisShared, client: Any) -> None:
        for number in range(3):
            begun = time.monotonic()
            keys = [b"%031d%d" % (place, number) for place in range(count)]
            found = await asyncio.gather(*(store.fetch(key, "one") for key in keys))
            assert time.monotonic() - begun < 1.0
            assert all(one.lease or one == Found() for one in found)
            assert (store.breaker.open, store.faults.errors, store.faults.skipped) == (False, 0, 0)

    over(redis_node, check)


@pytest.mark.parametrize("delay_s", [0.03, 0.2])
def test_a_slow_store_costs_a_request_a_twentieth_of_a_second(redis_node: RedisNode, delay_s: float) -> None:
    async def check() -> None:
        async with delaying(redis_node, delay_s) as proxy:
            store, waits = RedisShared(proxy.url, SECRET), list[float]()

            async def ask(place: int) -> None:
                begun = time.monotonic()
                await store.fetch(b"%032d" % place, "one")
                waits.append(time.monotonic() - begun)

            for place in range(10):
                await ask(place)
            for begin in range(100, 500, 100):
                await asyncio.gather(*(ask(begin + place) for place in range(50)))
                await asyncio.sleep(0.3)
            assert statistics.median(waits) < shared.TIMEOUT_S + BUSY / 3
            assert sorted(waits)[int(0.95 * len(waits))] < shared.TIMEOUT_S + BUSY
            if delay_s > shared.TIMEOUT_S:
                assert store.breaker.open
            proxy.delay_s = 0.0
            await store.close()

    asyncio.run(check())


def test_a_lease_that_came_too_late_is_given_back(redis_node: RedisNode) -> None:
    async def check(store: RedisShared, client: Any) -> None:
        await asyncio.wait_for(_warm(store), 20)
        redis_node.pause()
        begun = time.monotonic()
        assert await store.fetch(KEY, "one") == Found()
        assert time.monotonic() - begun < shared.TIMEOUT_S + BUSY
        redis_node.resume()
        latest = time.monotonic() + 2.0  # before it ends by itself
        while not store.faults.late or client.get(LEASE):
            assert time.monotonic() < latest
            await asyncio.sleep(0.01)

    over(redis_node, check)


def test_a_fetch_whose_caller_leaves_gives_its_lease_back(redis_node: RedisNode) -> None:
    async def check(store: RedisShared, client: Any) -> None:
        await asyncio.wait_for(_warm(store), 20)
        redis_node.pause()
        asking = asyncio.create_task(store.fetch(KEY, "one"))
        await asyncio.sleep(0.01)
        asking.cancel()
        redis_node.resume()
        await asyncio.gather(asking, return_exceptions=True)
        await store.close()
        assert client.get(LEASE) is None

    over(redis_node, check)


def test_requests_that_went_on_without_leave_no_leases(redis_node: RedisNode) -> None:
    async def check(store: RedisShared, client: Any) -> None:
        await asyncio.wait_for(_warm(store), 20)
        client.flushdb()
        redis_node.pause()
        found = await asyncio.gather(*(store.fetch(b"%032d" % place, "one") for place in range(200)))
        assert found == [Found()] * 200
        redis_node.resume()
        await store.close()  # when all that was under way has ended
        assert client.keys("tradewind:*:lease") == []

    over(redis_node, check)
