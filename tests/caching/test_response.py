"""The response cache over a backend that is driven by hand, and under random schedules."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from tests.caching.lab import Asking, Lab, truth
from tradewind.caching.call import CachedCall
from tradewind.caching.response import LONG_BYTES, READ_BYTES
from tradewind.engine.requests import TERMINAL, Cancelled, Done, Failed, QueueFull, Refused
from tradewind.engine.sampling import SamplingParams

P, Q = (1, 2, 3), (4, 5)


def in_loop(test: Callable[..., Awaitable[None]]) -> Callable[..., None]:
    def run(*args: Any, **given: Any) -> None:
        asyncio.run(test(*args, **given))

    run.__name__ = test.__name__
    return run


async def settled() -> None:
    """What the ends of flights have to do is done."""
    for _ in range(3):
        await asyncio.sleep(0)


@in_loop
async def test_an_answer_is_given_again_event_for_event() -> None:
    lab = Lab()
    first = lab.ask(P)
    lab.hand.running[0].finish()
    await settled()
    lab.clock.now += 7
    again = lab.ask(P)
    assert again.events == first.events == [list(truth(lab.hand.running[0].request))]
    assert (first.outcomes, again.outcomes, again.call.asked[0].age_s) == (["miss"], ["hit"], 7.0)
    assert len(lab.hand.running) == 1


@in_loop
async def test_a_hundred_at_once_are_one_generation() -> None:
    lab = Lab()
    asking = [lab.ask(P) for _ in range(50)]
    lab.hand.running[0].step()
    asking += [lab.ask(P) for _ in range(50)]  # these are given first what there was
    lab.hand.running[0].finish()
    assert len(lab.hand.running) == 1
    assert all(one.events == asking[0].events for one in asking)
    assert [one.outcomes for one in asking] == [["miss"]] + 99 * [["coalesced"]]


@in_loop
async def test_a_leader_that_leaves_does_not_end_the_answer_of_others() -> None:
    lab = Lab()
    leader, other = lab.ask(P), lab.ask(P)
    leader.leave()
    assert isinstance(leader.events[0][-1], Cancelled)
    lab.hand.running[0].finish()
    assert other.events == [list(truth(lab.hand.running[0].request))]
    await settled()
    assert lab.ask(P).outcomes == ["hit"]


@in_loop
async def test_the_last_to_leave_cancels_the_work_and_nothing_is_kept() -> None:
    lab = Lab()
    asking = [lab.ask(P), lab.ask(P)]
    lab.hand.running[0].step()
    asking[0].leave()
    assert not lab.hand.running[0].ended
    asking[1].leave()
    assert lab.hand.running[0].ended
    assert lab.ask(P).outcomes == ["miss"]
    await settled()
    assert lab.ask(P).outcomes == ["coalesced"]  # of the second, which is not forgotten with the first's end
    assert len(lab.hand.running) == 2


@in_loop
async def test_a_failure_is_the_leaders_and_the_others_ask_again() -> None:
    lab = Lab()
    leader, one, two = (lab.ask(P) for _ in range(3))
    lab.hand.running[0].fail()
    await settled()
    assert isinstance(leader.events[0][-1], Failed)
    assert (one.events, two.events) == ([[]], [[]])
    assert len(lab.hand.running) == 2
    lab.hand.running[1].finish()
    assert one.events == two.events == [list(truth(lab.hand.running[1].request))]


@in_loop
async def test_who_had_a_part_of_a_failed_answer_is_told() -> None:
    lab = Lab()
    asking = [lab.ask(P), lab.ask(P)]
    lab.hand.running[0].step()
    lab.hand.running[0].fail()
    await settled()
    assert all(isinstance(one.events[0][-1], Failed) for one in asking)
    assert len(lab.hand.running) == 1
    assert lab.ask(P).outcomes == ["miss"]


@in_loop
async def test_a_refused_call_leaves_nothing() -> None:
    lab = Lab()
    lab.hand.room = 0
    with pytest.raises(QueueFull):
        lab.ask(P, Q)
    lab.hand.room = 2
    assert lab.ask(P, Q).outcomes == ["miss", "miss"]


@in_loop
async def test_a_second_try_that_is_refused_is_told_so() -> None:
    lab = Lab()
    lab.ask(P)
    other = lab.ask(P)
    lab.hand.room = 0
    lab.hand.running[0].fail()
    await settled()
    (end,) = other.events[0]
    assert isinstance(end, Failed)
    assert isinstance(end.error, Refused)


@in_loop
async def test_tenants_and_salts_are_apart_unless_tenants_share() -> None:
    lab, shared = Lab(), Lab(shared_by_tenants=True)
    for one in (lab, shared):
        one.ask(P, tenant="a")
        one.hand.running[0].finish()
        await settled()
    assert lab.ask(P, tenant="b").outcomes == ["miss"]
    assert lab.ask(P, tenant="a", cache_salt="x").outcomes == ["miss"]
    assert shared.ask(P, tenant="b").outcomes == ["hit"]
    assert shared.ask(P, tenant="b", cache_salt="x").outcomes == ["miss"]
    assert lab.hand.running[1].request.tenant == "b"  # whose share of the engine it is stays as it was


@in_loop
async def test_what_is_not_reproducible_passes_through() -> None:
    lab = Lab()
    for header, sampling in (("", SamplingParams(temperature=1.0)), ("no-store", SamplingParams(temperature=0))):
        for _ in range(2):
            asking = lab.ask(P, sampling=sampling, header=header)
            lab.hand.running[-1].finish()
            assert asking.outcomes == ["bypass"]
            await settled()
    assert len(lab.hand.running) == 4
    assert len(lab.cache.local) == 0
    assert lab.told.outcomes == 2 * [("bypass", "sampled")] + 2 * [("bypass", "no-store")]


@in_loop
async def test_a_fresh_answer_can_be_asked_for_and_replaces_the_kept_one() -> None:
    lab = Lab(ttl_s=100.0)
    for at, header, outcome in (
        (0, "", "miss"), (60, "max-age=50", "miss"), (80, "max-age=50", "hit"), (90, "no-cache", "miss"),
        (180, "max-age=95", "hit"), (191, "", "miss"),
    ):  # fmt: skip
        lab.clock.now = 1000.0 + at
        asking = lab.ask(P, header=header)
        if asking.outcomes == ["miss"]:
            lab.hand.running[-1].finish()
        await settled()
        assert asking.outcomes == [outcome], at


@in_loop
async def test_a_clock_that_is_set_back_revives_nothing() -> None:
    lab = Lab(ttl_s=100.0)
    lab.ask(P)
    lab.hand.running[0].finish()
    await settled()
    lab.clock.now += 150
    assert lab.cache.local.now() == lab.clock.now
    lab.clock.now -= 120
    assert lab.ask(P).outcomes == ["miss"]


@in_loop
async def test_near_its_end_an_answer_is_made_anew_now_and_then() -> None:
    """At `left` seconds from the end with a share of exp(-left / seconds to make it) (XFetch with beta 1)."""
    lab = Lab(ttl_s=100.0, refresh=1.0)
    key = lab.ask(P).call.asked[0].key
    lab.clock.now += 10
    lab.hand.running[0].finish()
    await settled()
    for left, share in ((50.0, 0.007), (10.0, 0.368), (2.0, 0.819)):
        lab.clock.now = 1110.0 - left
        anew = [lab.cache.find(key, None)[0] is None for _ in range(2000)]
        assert sum(anew) / 2000 == pytest.approx(share, abs=0.04)


@in_loop
async def test_an_urgent_request_does_not_wait_for_a_patient_one() -> None:
    lab = Lab()
    lab.ask(P, priority=5)
    assert lab.ask(P, priority=5).outcomes == ["coalesced"]
    assert lab.ask(P, priority=0).outcomes == ["miss"]
    assert lab.ask(P, priority=5).outcomes == ["coalesced"]
    assert [one.request.priority for one in lab.hand.running] == [5, 0]


@in_loop
async def test_a_seat_whose_sink_breaks_takes_nothing_from_the_others() -> None:
    lab = Lab()
    leader = lab.ask(P)
    call = CachedCall(lab.cache, lab.hand, "model", leader.call.directives)

    def broken(event: object) -> None:
        raise ValueError("its own fault")

    call.submit_all([(lab.hand.running[0].request, broken)])
    lab.hand.running[0].finish()
    assert isinstance(leader.events[0][-1], Done)


@in_loop
async def test_identical_prompts_of_one_call_are_one_generation() -> None:
    lab = Lab()
    asking = lab.ask(P, P, Q)
    assert asking.outcomes == ["miss", "coalesced", "miss"]
    for running in lab.hand.running:
        running.finish()
    assert asking.events[0] == asking.events[1] != asking.events[2]


@in_loop
async def test_a_backend_that_breaks_at_the_door_leaves_nothing() -> None:
    lab = Lab()
    lab.hand.broken = True
    with pytest.raises(RuntimeError, match="the backend"):
        lab.ask(P, Q)
    lab.hand.broken = False
    asking = lab.ask(P, Q)
    assert asking.outcomes == ["miss", "miss"]
    for running in lab.hand.running:
        running.finish()
    assert all(isinstance(events[-1], Done) for events in asking.events)


@in_loop
async def test_a_request_without_a_key_leaves_nothing_of_the_others() -> None:
    lab = Lab()
    with pytest.raises(TypeError):
        lab.ask(P, (10**30,))
    assert not lab.hand.running
    assert lab.ask(P).outcomes == ["miss"]


@in_loop
async def test_a_backend_that_breaks_when_it_is_asked_again_ends_who_waits() -> None:
    lab = Lab()
    asking = [lab.ask(P) for _ in range(4)]
    lab.hand.broken = True
    lab.hand.running[0].fail()
    for _ in range(4):
        await settled()
    assert all(isinstance(one.events[0][-1], Failed) for one in asking)
    assert not lab.cache._flights


@in_loop
async def test_what_is_held_ready_is_bounded_in_bytes() -> None:
    lab = Lab(budget=64 << 20)
    for number in range(900):
        length = 3000 if number % 10 == 0 else 60
        lab.ask((number, *range(length)))
        lab.hand.running[-1].finish()
        await settled()
        assert lab.ask((number, *range(length))).outcomes == ["hit"]
    cache = lab.cache
    assert cache._read_bytes == sum(len(value) for value, _ in cache._read.values()) <= READ_BYTES
    assert max(len(value) for value, _ in cache._read.values()) <= LONG_BYTES
    assert len(cache._read) > 50


@in_loop
async def test_looking_whether_an_answer_is_there_is_no_use_of_it() -> None:
    lab = Lab(refresh=1e9)  # each use would have it made anew
    asking = lab.ask(P)
    request = lab.hand.running[0].request
    lab.clock.now += 1
    lab.hand.running[0].finish()
    await settled()
    before = replace(lab.cache.local.counts)
    assert asking.call.knows(request)
    assert lab.cache.local.counts == before
    lab.clock.now += 4000
    assert not asking.call.knows(request)


class Schedules(RuleBasedStateMachine):
    """Any order of asking, leaving, steps, failures, refusals, faults of the backend, time. Tenants ask the same."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.lab = Lab(ttl_s=50.0, budget=4000)
        self.asking: list[tuple[Asking, str, tuple[int, ...]]] = []
        self.left: set[int] = set()

    def teardown(self) -> None:
        for one in self.lab.hand.running:
            one.finish()
        self.run()
        for place, (asking, tenant, prompt) in enumerate(self.asking):
            (events,) = asking.events
            assert sum(isinstance(event, TERMINAL) for event in events) == 1
            assert isinstance(events[-1], TERMINAL)
            if isinstance(events[-1], Cancelled):
                assert place in self.left
            if isinstance(events[-1], Done):
                assert tuple(event.text for event in events[:-1]) == tuple(f"{tenant}{token} " for token in prompt)
        self.loop.close()

    def run(self, what: Callable[[], object] = lambda: None) -> None:
        async def inside() -> None:
            what()
            for _ in range(1 + len(self.asking)):  # each failure may have the next one ask again
                await settled()

        self.loop.run_until_complete(inside())

    @rule(
        key=st.integers(0, 2), tenant=st.sampled_from("ab"), header=st.sampled_from(["", "", "no-cache", "max-age=20"])
    )
    def ask(self, key: int, tenant: str, header: str) -> None:
        """Who asks for no fresh answer has none made that is being made."""
        prompt = (key, key, 9)
        before = self.under_way()

        def inside() -> None:
            try:
                self.asking.append((self.lab.ask(prompt, header=header, tenant=tenant), tenant, prompt))
            except QueueFull:
                assert self.lab.hand.room == 0
            except RuntimeError:
                assert self.lab.hand.broken

        self.run(inside)
        if header != "no-cache" and (tenant, prompt) in before:
            assert len(self.under_way()) == len(before)

    def under_way(self) -> list[tuple[str, tuple[int, ...]]]:
        return [(one.request.tenant, one.request.prompt) for one in self.lab.hand.running if not one.ended]

    @precondition(lambda self: self.asking)
    @rule(data=st.data())
    def leave(self, data: st.DataObject) -> None:
        place = data.draw(st.integers(0, len(self.asking) - 1))
        self.left.add(place)
        self.run(self.asking[place][0].leave)

    @precondition(lambda self: self.lab.hand.running)
    @rule(data=st.data(), how=st.sampled_from(["step", "step", "finish", "fail"]))
    def engine(self, data: st.DataObject, how: str) -> None:
        running = data.draw(st.sampled_from(self.lab.hand.running))
        self.run(getattr(running, how))

    @rule(room=st.sampled_from([0, 10_000]))
    def full(self, room: int) -> None:
        self.lab.hand.room = room

    @rule(seconds=st.integers(1, 60))
    def wait(self, seconds: int) -> None:
        self.lab.clock.now += seconds

    @rule(broken=st.booleans())
    def breaks(self, broken: bool) -> None:
        self.lab.hand.broken = broken

    @invariant()
    def nothing_is_left_over(self) -> None:
        if all(one.ended for one in self.lab.hand.running):
            assert not self.lab.cache._flights


TestSchedules = Schedules.TestCase
TestSchedules.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
