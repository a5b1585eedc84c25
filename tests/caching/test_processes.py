"""Several processes over one store, under random schedules: at most one generation for each key, and everybody who stays is
answered, whoever fails, is refused, leaves or dies. The store is a stand-in that keeps the contract of `caching.shared`; how
Redis keeps it is tested in test_shared.py."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any
from unittest import mock

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from tests.caching.lab import Asking, Lab
from tests.caching.test_response import P, in_loop
from tradewind.caching import response
from tradewind.caching.shared import Found, Lease
from tradewind.engine.requests import TERMINAL, Done, Event, Failed, Refused


@dataclass
class Store:
    """Values and leases by key. A lease ends with its holder's process."""

    values: dict[bytes, bytes] = field(default_factory=dict)
    leases: dict[bytes, tuple[int, str]] = field(default_factory=dict)


@dataclass
class View:
    """One process' side of the store. Every question takes a moment."""

    store: Store
    process: int
    lease_s: float = 1e6
    broken: bool = False
    left_s: float = 1000.0
    asked: int = 0

    async def fetch(self, key: bytes, token: str, priority: int = 0) -> Found:
        await asyncio.sleep(0)
        self.asked += 1
        if self.broken:
            raise RuntimeError("a store that raises, which none should")
        if key in self.store.values:
            return Found(self.store.values[key], self.left_s)
        holder = self.store.leases.setdefault(key, (self.process, token))
        return Found(lease=Lease(key, token)) if holder[1] == token else Found(busy=True)

    async def extend(self, lease: Lease) -> None:
        """It does not end by time."""

    async def release(self, lease: Lease) -> None:
        await asyncio.sleep(0)
        if self.store.leases.get(lease.key) == (self.process, lease.token):
            del self.store.leases[lease.key]

    async def put(self, key: bytes, value: bytes, ttl_s: float, lease: Lease | None) -> None:
        await asyncio.sleep(0)
        self.store.values[key] = value
        if lease is not None:
            await self.release(lease)

    async def close(self) -> None:
        """Nothing."""


async def settled() -> None:
    for _ in range(12):
        await asyncio.sleep(0)


async def answered(lab: Lab, **given: Any) -> Asking:
    """Of prompt P, made where it is not found."""
    asking = lab.ask(P, **given)
    await settled()
    for one in lab.hand.running:
        one.finish()
    await settled()
    return asking


@in_loop
async def test_an_answer_of_another_process_is_kept_here_as_long_as_there() -> None:
    store = Store()
    first, second = (Lab(View(store, number, left_s=20.0)) for number in range(2))
    assert (await answered(first)).outcomes == ["miss"]
    second.clock.now += 5
    found = await answered(second)
    assert (found.outcomes, found.call.asked[0].age_s) == (["hit"], 5.0)
    store.values.clear()
    second.clock.now += 19
    assert (await answered(second)).outcomes == ["hit"]
    second.clock.now += 2
    assert (await answered(second)).outcomes == ["miss"]


@in_loop
async def test_what_is_wanted_fresh_is_not_looked_for() -> None:
    store = Store()
    first, second = (Lab(View(store, number)) for number in range(2))
    await answered(first)
    second.clock.now += 30
    for header, outcome in (("max-age=29", "miss"), ("no-cache", "miss"), ("max-age=29", "hit")):
        assert (await answered(second, header=header)).outcomes == [outcome], header
    assert isinstance(second.cache.shared, View)
    assert second.cache.shared.asked == 1


@in_loop
async def test_what_is_to_be_made_anew_is_drawn_once() -> None:
    """The shared store, which has the same answer, is not asked whether it would give it."""
    lab = Lab(View(Store(), 0), refresh=1e9)
    asking = lab.ask(P)
    await settled()
    lab.clock.now += 1  # what took no time is never made anew
    lab.hand.running[0].finish()
    await settled()
    assert isinstance(lab.cache.shared, View)
    assert (asking.outcomes, lab.cache.shared.asked) == (["miss"], 1)
    assert (await answered(lab)).outcomes == ["miss"]
    assert lab.cache.shared.asked == 1


@dataclass
class Question:
    asking: Asking
    process: int
    tenant: str
    prompt: tuple[int, ...]
    left: bool = False

    @property
    def events(self) -> list[Event]:
        (events,) = self.asking.events
        return events


class Processes(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.patch = mock.patch.object(response, "POLL_S", 0.0)
        self.patch.start()
        self.loop = asyncio.new_event_loop()
        self.store, self.questions = Store(), list[Question]()
        self.labs = {number: Lab(View(self.store, number), budget=3000) for number in range(3)}
        self.born = 3

    def run(self, what: Callable[[], object] = lambda: None) -> None:
        async def inside() -> None:
            what()
            for _ in range(12 + 4 * len(self.questions)):
                await asyncio.sleep(0)

        self.loop.run_until_complete(inside())

    def teardown(self) -> None:
        try:
            for _ in range(2 + len(self.questions)):
                for lab in self.labs.values():
                    for one in lab.hand.running:
                        self.run(one.finish)
            for one in self.questions:
                self.check(one)
            assert not self.store.leases
            assert not any(lab.cache._flights for lab in self.labs.values())
        finally:
            self.loop.run_until_complete(self.close())
            self.loop.close()
            self.patch.stop()

    async def close(self) -> None:
        for lab in self.labs.values():
            await lab.cache.close()

    def check(self, one: Question) -> None:
        """Of a process that lives: one end, and the very answer or a failure that it was told."""
        if one.process not in self.labs:
            return
        assert sum(isinstance(event, TERMINAL) for event in one.events) == 1
        end = one.events[-1]
        if isinstance(end, Done):
            assert [event.text for event in one.events[:-1]] == [f"{one.tenant}{token} " for token in one.prompt]  # type: ignore[union-attr]
        else:
            assert one.left or isinstance(end, Failed)
            if isinstance(end, Failed):
                assert isinstance(end.error, Refused | RuntimeError)

    def running(self) -> list[Any]:
        return [one for lab in self.labs.values() for one in lab.hand.running if not one.ended]

    @rule(data=st.data(), key=st.integers(0, 1), tenant=st.sampled_from("ab"))
    def ask(self, data: st.DataObject, key: int, tenant: str) -> None:
        process = data.draw(st.sampled_from(sorted(self.labs)))
        prompt = (key, key, 9)
        self.run(
            lambda: self.questions.append(
                Question(self.labs[process].ask(prompt, tenant=tenant), process, tenant, prompt)
            )
        )

    @precondition(lambda self: self.questions)
    @rule(data=st.data())
    def leave(self, data: st.DataObject) -> None:
        one = data.draw(st.sampled_from(self.questions))
        one.left = True
        if one.process in self.labs:
            self.run(one.asking.leave)

    @precondition(lambda self: self.running())
    @rule(data=st.data(), how=st.sampled_from(["step", "step", "finish", "fail"]))
    def engine(self, data: st.DataObject, how: str) -> None:
        self.run(getattr(data.draw(st.sampled_from(self.running())), how))

    @rule(data=st.data(), how=st.sampled_from(["full", "broken", "store", "well", "well"]))
    def trouble(self, data: st.DataObject, how: str) -> None:
        lab = self.labs[data.draw(st.sampled_from(sorted(self.labs)))]
        lab.hand.room, lab.hand.broken = 0 if how == "full" else 10_000, how == "broken"
        assert isinstance(lab.cache.shared, View)
        lab.cache.shared.broken = how == "store"

    @rule(data=st.data())
    def crash(self, data: st.DataObject) -> None:
        """Another process is started in its place, which knows nothing."""
        process = data.draw(st.sampled_from(sorted(self.labs)))
        lab = self.labs.pop(process)
        for task in (*lab.cache._lookups, *lab.cache._writes):
            task.cancel()
        for key in [key for key, (holder, _) in self.store.leases.items() if holder == process]:
            del self.store.leases[key]
        self.labs[self.born] = Lab(View(self.store, self.born), budget=3000)
        self.born += 1
        self.run()

    @invariant()
    def one_generation_for_each_key(self) -> None:
        """In all processes together, while the store answers."""
        keys = [(one.request.tenant, one.request.prompt) for one in self.running()]
        assert len(keys) == len(set(keys))


TestProcesses = Processes.TestCase
TestProcesses.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
