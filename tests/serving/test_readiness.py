"""Readiness: holds under overload and adds nothing to it, waits for a first chunk, falls when the loop stands or drains."""

import asyncio
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.serving.conftest import WAIT, Served, serving, until
from tests.serving.test_robustness import CHAT, GOOD, Broken
from tradewind.engine.mock import MockEngine
from tradewind.engine.scheduler import Scheduler
from tradewind.engine.text import ByteTokenizer
from tradewind.serving import readiness
from tradewind.serving.readiness import Readiness
from tradewind.serving.settings import ServeSettings

CALLS, TOKENS = 8, 60


def test_ready_under_overload_without_a_token_of_its_own() -> None:
    """Every slot and waiting place is taken, and yet probes are answered with yes, from the tokens that callers get."""

    def one(served: Served) -> int:
        with served.http() as http:
            return http.post(CHAT, json=GOOD | {"max_tokens": TOKENS, "ignore_eos": True}).status_code

    engine = MockEngine(slots=1, max_len=512, step_delay=0.005)
    with (
        serving(engine, ServeSettings(max_waiting=1)) as served,
        ThreadPoolExecutor(CALLS) as pool,
        served.http() as http,
    ):
        calls = [pool.submit(one, served) for _ in range(CALLS)]
        until(lambda: served.scheduler.snapshot().completion_tokens > 0)
        probes = 0
        while not all(call.done() for call in calls):
            assert http.get("/ready").status_code == 200
            probes += 1
        statuses = [call.result() for call in calls]
        assert statuses.count(200) + statuses.count(429) == CALLS
        assert 429 in statuses
        assert probes > 1
        assert served.scheduler.snapshot().completion_tokens == TOKENS * statuses.count(200)


def test_the_first_chunk_after_a_pause_is_waited_for() -> None:
    """Not idle, and nothing made lately: no reason to say no before the chunk had its time, nor to ask for a token."""
    engine = Broken()
    with serving(engine, ServeSettings()) as served, ThreadPoolExecutor(2) as pool, served.http() as http:
        engine.gate.clear()
        call = pool.submit(http.post, CHAT, json=GOOD | {"ignore_eos": True})
        until(lambda: not served.scheduler.idle)

        def ready() -> int:
            with served.http() as other:
                return other.get("/ready").status_code

        probe = pool.submit(ready)
        until(lambda: len(served.server.server_state.tasks) == 2)  # the call and the probe
        engine.gate.set()
        assert probe.result(WAIT) == call.result(WAIT).status_code == 200
        assert served.scheduler.snapshot().completion_tokens == GOOD["max_tokens"]


def test_a_loop_that_stands_is_not_ready(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(readiness, "FRESH", 0.1)
    engine = Broken()
    scheduler = Scheduler(engine, ByteTokenizer())
    engine.gate.clear()
    assert not asyncio.run(Readiness(scheduler)())
    engine.gate.set()
    scheduler.close()


def test_a_draining_server_is_not_ready_though_it_makes_tokens() -> None:
    scheduler = Scheduler(MockEngine(), ByteTokenizer())
    ready = Readiness(scheduler)

    async def ask_twice() -> tuple[bool, bool]:
        before = await ready()
        ready.drain()
        return before, await ready()

    assert asyncio.run(ask_twice()) == (True, False)
    scheduler.close()
