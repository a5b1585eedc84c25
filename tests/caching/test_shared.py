"""The shared store over a real Redis: two processes' worth of caches, leases, and every way in which it can fail."""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import redis as redis_client

from tests.caching.lab import GREEDY, Asking, Lab
from tradewind.caching import response, shared
from tradewind.caching.call import CachedCall
from tradewind.caching.codec import Answer, pack
from tradewind.caching.node import RedisNode
from tradewind.caching.response import anchored
from tradewind.caching.shared import RedisShared
from tradewind.engine.requests import TERMINAL, Done, Failed, Request
from tradewind.errors import UserError

P = (1, 2, 3)
WAIT = 20.0
BUSY = 0.045
"""Seconds that a machine which does other things may add."""
SECRET = b"a secret that tests share"


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A busy machine is no outage."""
    monkeypatch.setattr(shared, "TIMEOUT_S", 5.0)
    monkeypatch.setattr(shared, "STORE_S", 5.0)


def run(check: Callable[[], Awaitable[None]]) -> None:
    asyncio.run(check())  # type: ignore[arg-type]


def lab(node: RedisNode, secret: bytes = SECRET, lease_s: float = 5.0, **rules: Any) -> Lab:
    """One process."""
    made = Lab(RedisShared(node.url, secret, lease_s), **rules)
    made.cache.clock = anchored()
    return made


async def until(condition: Callable[[], object]) -> None:
    latest = time.monotonic() + WAIT
    while not condition():
        assert time.monotonic() < latest, "waited too long"
        await asyncio.sleep(0.002)


async def answered(asking: Asking) -> None:
    await until(lambda: all(events and isinstance(events[-1], TERMINAL) for events in asking.events))


async def kept(one: Lab) -> None:
    """What is being written is there."""
    await asyncio.sleep(0.01)
    await until(lambda: not one.cache._writes)


async def made(one: Lab, asking: Asking, place: int = -1) -> None:
    await until(lambda: one.hand.running and not one.hand.running[place].ended)
    one.hand.running[place].finish()
    await answered(asking)


def values(node: RedisNode) -> list[bytes]:
    with redis_client.Redis.from_url(node.url) as client:
        return sorted(client.keys("tradewind:*:value"))  # type: ignore[type-var, arg-type, return-value]


def test_an_answer_of_one_process_is_given_by_the_other(redis_node: RedisNode) -> None:
    async def check() -> None:
        one, two = lab(redis_node), lab(redis_node)
        first = one.ask(P)
        await made(one, first)
        await kept(one)
        second = two.ask(P)
        await answered(second)
        assert second.events == first.events
        assert (first.outcomes, second.outcomes) == (["miss"], ["hit"])
        assert two.hand.running == []
        assert two.ask(P).told_at_once  # it is kept in this process too, from then on
        for each in (one, two):
            await each.cache.close()

    run(check)


def test_processes_that_ask_at_once_make_one_answer(redis_node: RedisNode) -> None:
    async def check() -> None:
        labs = [lab(redis_node) for _ in range(4)]
        asking = [each.ask(P) for each in labs for _ in range(25)]
        await until(lambda: any(each.hand.running for each in labs))
        await asyncio.sleep(0.1)  # the others have asked the store by then, and wait
        (running,) = [running for each in labs for running in each.hand.running]
        running.finish()
        for one in asking:
            await answered(one)
        assert all(one.events == asking[0].events for one in asking)
        assert sum(len(each.hand.running) for each in labs) == 1
        outcomes = [one.outcomes[0] for one in asking]
        assert (outcomes.count("miss"), outcomes.count("coalesced")) == (1, 99)
        for each in labs:
            await each.cache.close()

    run(check)


def test_a_process_that_dies_holds_nobody_up(redis_node: RedisNode) -> None:
    async def check() -> None:
        dead, alive = lab(redis_node, lease_s=0.2), lab(redis_node, lease_s=0.2)
        dead.ask(P)
        await until(lambda: dead.hand.running)
        for task in dead.cache._lookups:
            task.cancel()  # it renews its lease no more
        other = alive.ask(P)
        await made(alive, other)
        assert isinstance(other.events[0][-1], Done)
        await kept(alive)
        await alive.cache.close()

    run(check)


def test_a_long_answer_keeps_its_lease(redis_node: RedisNode) -> None:
    async def check() -> None:
        slow, other = lab(redis_node, lease_s=0.3), lab(redis_node, lease_s=0.3)
        first, second = slow.ask(P), None
        await until(lambda: slow.hand.running)
        second = other.ask(P)
        await asyncio.sleep(1.0)
        assert other.hand.running == []
        await made(slow, first)
        await answered(second)
        assert second.outcomes == ["coalesced"]
        for each in (slow, other):
            await each.cache.close()

    run(check)


@pytest.mark.parametrize("how", ["fail", "cancel"])
def test_a_leader_that_fails_or_leaves_passes_the_lead_on(redis_node: RedisNode, how: str) -> None:
    async def check() -> None:
        one, two = lab(redis_node), lab(redis_node)
        first = one.ask(P)
        await until(lambda: one.hand.running)
        second = two.ask(P)
        await asyncio.sleep(0.05)
        first.leave() if how == "cancel" else one.hand.running[0].fail()
        await made(two, second)
        assert isinstance(second.events[0][-1], Done)
        for each in (one, two):
            await each.cache.close()

    run(check)


def test_another_model_knows_nothing_of_it(redis_node: RedisNode) -> None:
    async def check() -> None:
        one = lab(redis_node)
        await made(one, one.ask(P))
        await kept(one)
        new = CachedCall(one.cache, one.hand, "another model", one.ask(P).call.directives)
        new.submit_all([(Request(P, 64, GREEDY), lambda event: None)])
        await until(lambda: len(one.hand.running) == 2)
        await one.cache.close()

    run(check)


def test_forged_altered_and_foreign_values_are_not_given(
    redis_node: RedisNode, caplog: pytest.LogCaptureFixture
) -> None:
    async def check() -> None:
        writer, forger = lab(redis_node), lab(redis_node, secret=b"another secret, as of someone else")
        truth = writer.ask(P)
        await made(writer, truth)
        await kept(writer)
        (name,) = values(redis_node)
        with redis_client.Redis.from_url(redis_node.url) as client:
            good = client.get(name)
            assert isinstance(good, bytes)
            forged = pack(Answer(writer.hand.running[0].truth[1:], 1.0, 1.0))
            others = [good[:-1], good[:-1] + b"x", b"", b"{}", forged, good.replace(b"1 ", b"7 ")]
            for value in others:
                client.set(name, value)
                reader = lab(redis_node)
                asking = reader.ask(P)
                await made(reader, asking)
                assert asking.events == truth.events
                assert (asking.outcomes, reader.cache.shared.faults.rejected) == (["miss"], 1)  # type: ignore[union-attr]
                await kept(reader)
                await reader.cache.close()
            client.set(name, good)
            stranger = forger.ask(P)
            await made(forger, stranger)
            assert stranger.outcomes == ["miss"]
        for each in (writer, forger):
            await each.cache.close()

    with caplog.at_level(logging.WARNING):
        run(check)
    assert len(caplog.messages) == 7  # one for each cache that met such a value


@pytest.mark.parametrize("kind", ["list", "hash", "lease is a list"])
def test_another_type_under_the_key_costs_nothing_but_the_hit(redis_node: RedisNode, kind: str) -> None:
    async def check() -> None:
        probe = lab(redis_node)
        key = probe.ask(P).call.asked[0].key.hex()
        await until(lambda: probe.hand.running)
        await probe.cache.close()
        with redis_client.Redis.from_url(redis_node.url) as client:
            client.flushall()
            if kind == "hash":
                client.hset(f"tradewind:{{{key}}}:value", "a", "b")
            else:
                client.lpush(f"tradewind:{{{key}}}:{'value' if kind == 'list' else 'lease'}", "x")
        one = lab(redis_node)
        asking = one.ask(P)
        await made(one, asking)
        assert asking.outcomes == ["miss"]
        assert not one.cache.shared.breaker.open  # type: ignore[union-attr]
        await one.cache.close()

    run(check)


def test_a_full_store_still_gives_what_it_has() -> None:
    node = RedisNode(memory=1 << 21, evict=False)
    node.start()

    async def check() -> None:
        one = lab(node)
        await made(one, one.ask(P))
        await kept(one)
        with redis_client.Redis.from_url(node.url) as client:
            for place in range(10_000):
                try:
                    client.set(f"filling{place}", b"x" * 10_000)
                except redis_client.ResponseError:
                    break
            else:
                raise AssertionError("the store took everything")
        two = lab(node)
        hit, miss = two.ask(P), two.ask((7, 8))
        await answered(hit)
        assert hit.outcomes == ["hit"]
        await made(two, miss)
        assert (miss.outcomes, values(node)) == (["miss"], values(node))
        await two.cache.close()
        await one.cache.close()

    try:
        run(check)
    finally:
        node.stop()


@pytest.mark.timing
@pytest.mark.parametrize("how", ["stop", "pause"])
def test_a_store_that_is_away_is_done_without_in_a_twentieth_of_a_second(
    redis_node: RedisNode, how: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.undo()  # of its patience

    async def check() -> None:
        one = lab(redis_node)
        await made(one, one.ask(P))
        await kept(one)
        getattr(redis_node, how)()
        waits = []
        for place in range(20):
            begun = time.monotonic()
            asking, count = one.ask((9, place)), len(one.hand.running)
            await until(lambda count=count: len(one.hand.running) > count)  # type: ignore[misc]
            waits.append(time.monotonic() - begun)
            one.hand.running[-1].finish()
            await answered(asking)
            assert isinstance(asking.events[0][-1], Done)
        assert sorted(waits)[-8] < BUSY  # but for those of the 0.3 s until the breaker opened, nobody waits
        assert max(waits) < 0.05 + BUSY
        assert one.cache.shared.breaker.open  # type: ignore[union-attr]
        assert one.ask(P).told_at_once
        if how == "stop":
            redis_node.start()
        else:
            redis_node.resume()
        latest = time.monotonic() + WAIT
        while one.cache.shared.breaker.open:  # type: ignore[union-attr]
            assert time.monotonic() < latest
            asking = one.ask((10, int(1e6 * time.monotonic())))
            await made(one, asking)
            await asyncio.sleep(0.05)
        await one.cache.close()

    with caplog.at_level(logging.WARNING):
        run(check)
    failed, again = [text for text in caplog.messages if "shared cache" in text]
    assert "answers are made without it" in failed
    assert again == "the shared cache answers again"


def test_a_value_past_its_end_is_not_given_though_the_store_has_it(redis_node: RedisNode) -> None:
    async def check() -> None:
        one, two = lab(redis_node, ttl_s=1.0), lab(redis_node)
        await made(one, one.ask(P))
        await kept(one)
        with redis_client.Redis.from_url(redis_node.url) as client:
            client.persist(values(redis_node)[0])
        await asyncio.sleep(1.1)
        late = two.ask(P)
        await made(two, late)
        assert late.outcomes == ["miss"]
        for each in (one, two):
            await each.cache.close()

    run(check)


def test_a_shared_answer_is_kept_here_no_longer_than_there(redis_node: RedisNode) -> None:
    async def check() -> None:
        one, two = lab(redis_node, ttl_s=30.0), lab(redis_node, ttl_s=3600.0)
        await made(one, one.ask(P))
        await kept(one)
        second = two.ask(P)
        await answered(second)
        entry = two.cache.local.get(second.call.asked[0].key)
        assert entry is not None
        assert entry.expires - entry.stored <= 30
        for each in (one, two):
            await each.cache.close()

    run(check)


def test_a_shared_answer_older_than_a_call_wants_is_made_anew(redis_node: RedisNode) -> None:
    async def check() -> None:
        one, two = lab(redis_node), lab(redis_node)
        await made(one, one.ask(P))
        await kept(one)
        await asyncio.sleep(1.1)
        fresh = two.ask(P, header="max-age=1")
        await made(two, fresh)
        assert fresh.outcomes == ["miss"]
        for each in (one, two):
            await each.cache.close()

    run(check)


def test_a_user_does_not_wait_for_a_warming_call_elsewhere(redis_node: RedisNode) -> None:
    async def check() -> None:
        warming, serving = lab(redis_node), lab(redis_node)
        first = warming.ask(P, priority=100)
        await until(lambda: warming.hand.running)
        second = serving.ask(P, priority=0)
        await made(serving, second)  # though the other still runs
        assert (second.outcomes, first.events[0]) == (["miss"], [])
        await kept(serving)
        await made(warming, first)
        await kept(warming)
        for each in (warming, serving):
            await each.cache.close()

    run(check)


def test_refused_work_is_told_as_its_end(redis_node: RedisNode) -> None:
    async def check() -> None:
        one, two = lab(redis_node), lab(redis_node)
        one.hand.room = 0
        asking = one.ask(P)
        await answered(asking)
        assert isinstance(asking.events[0][-1], Failed)
        other = two.ask(P)  # whose way is free
        await made(two, other)
        for each in (one, two):
            await each.cache.close()

    run(check)


@pytest.mark.parametrize("address", ["memcached://127.0.0.1", "redis", "redis://127.0.0.1:port"])
def test_an_address_that_is_none_is_one_line(address: str) -> None:
    with pytest.raises(UserError, match="cache"):
        RedisShared(address, SECRET)


def test_waiting_for_another_process_has_an_end(redis_node: RedisNode, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(response, "WAIT_S", 0.2)

    async def check() -> None:
        stuck, other = lab(redis_node), lab(redis_node)
        stuck.ask(P)
        await until(lambda: stuck.hand.running)
        await made(other, other.ask(P))
        for each in (stuck, other):
            await each.cache.close()

    run(check)
