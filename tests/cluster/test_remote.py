"""Requests over replicas that die, hang, drain and refuse: the answers are those of one scheduler that nothing befell."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import replace

import pytest

from tests.engine.scheduling import Inbox, ask
from tests.engine.test_resume import REQUESTS, answered, sum_of
from tradewind.cluster.remote import Batch, Patience, Remote, ReplicaLost
from tradewind.engine.mock import MockEngine
from tradewind.engine.requests import (
    Cancelled,
    Closed,
    ContextTooLong,
    DeadlineExceeded,
    Delta,
    Done,
    Event,
    Failed,
    QueueFull,
    Request,
    Unavailable,
)
from tradewind.engine.scheduler import Scheduler, SchedulerSettings, Snapshot
from tradewind.engine.text import ByteTokenizer
from tradewind.engine.timings import RequestTimings

PULSE, STALL = 0.02, 0.3
Fault = Callable[[int], Exception | None]
"""Given how many events a replica has told of a request: what happens to it now, if anything."""


class Local:
    """Replicas in this process, chosen in turn; `fault` ends what one tells."""

    def __init__(self, schedulers: list[Scheduler], fault: Fault) -> None:
        self.schedulers, self.fault = schedulers, fault
        self.asked: list[tuple[str, Request]] = []
        self.gone: set[str] = set()

    def states(self) -> list[Snapshot]:
        return [scheduler.snapshot() for scheduler in self.schedulers]

    async def stream(self, request: Request, avoid: frozenset[str]) -> AsyncIterator[Batch]:
        names = [str(place) for place in range(len(self.schedulers)) if str(place) not in avoid | self.gone]
        if not names:
            raise Unavailable
        name = names[len(self.asked) % len(names)]
        self.asked.append((name, request))
        loop, events = asyncio.get_running_loop(), asyncio.Queue[Event]()
        ticket = self.schedulers[int(name)].submit(request, lambda e: loop.call_soon_threadsafe(events.put_nowait, e))
        told = 0
        try:
            while True:
                try:
                    event = await asyncio.wait_for(events.get(), PULSE)
                except TimeoutError:
                    yield Batch(name, [])
                    continue
                fault = self.fault(told)
                if isinstance(fault, TimeoutError):
                    await asyncio.sleep(10 * STALL)
                if isinstance(fault, ReplicaLost):
                    raise ReplicaLost(name, str(fault))
                told += 1
                yield Batch(name, [Cancelled()] if fault else [event])
        finally:
            ticket.cancel()


@pytest.fixture
def schedulers() -> Iterator[list[Scheduler]]:
    made = [
        Scheduler(MockEngine(slots=4, max_len=256, feed=8), ByteTokenizer(), SchedulerSettings(lookup_tokens=4))
        for _ in range(3)
    ]
    yield made
    for scheduler in made:
        scheduler.close()


def run(replicas: Local, *requests: Request, tries: int = 5, wait_s: float = 0.5) -> tuple[list[Inbox], Remote]:
    """One after the other."""
    inboxes = [Inbox() for _ in requests]

    async def main() -> Remote:
        remote = Remote(replicas, replicas.schedulers[0].engine, Patience(STALL, wait_s=wait_s, tries=tries))
        for request, inbox in zip(requests, inboxes, strict=True):
            remote.submit_all([(request, inbox)])
            await at_rest(remote)
        remote.close()
        return remote

    return inboxes, asyncio.run(main())


async def at_rest(remote: Remote) -> None:
    async with asyncio.timeout(20):
        while not remote.idle:
            await asyncio.sleep(0.005)


def once(after: int, fault: Exception) -> Fault:
    """The first replica to have told so many events."""
    left = [fault]
    return lambda told: left.pop() if told == after and left else None


FAULTS = {"killed": ReplicaLost("?", "killed"), "hung": TimeoutError(), "drained": RuntimeError()}


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS)
@pytest.mark.parametrize("name", REQUESTS)
def test_a_replica_lost_in_mid_answer_leaves_no_trace(schedulers: list[Scheduler], name: str, fault: Exception) -> None:
    want, done = answered(schedulers[0], REQUESTS[name])
    replicas = Local(schedulers, once(2, fault))
    (inbox,), remote = run(replicas, REQUESTS[name])
    made = [event for event in inbox.events if isinstance(event, Delta)]
    for part in ("text", "ids", "logprobs"):
        empty = "" if part == "text" else ()
        assert sum_of(made, part, empty) == sum_of(want, part, empty)
    end = inbox.end()
    assert isinstance(end, Done)
    assert (end.prompt_tokens, end.completion_tokens) == (done.prompt_tokens, done.completion_tokens)
    assert remote.failovers == 1
    (first, _), (second, rest) = replicas.asked
    assert first != second
    assert rest.resumed
    assert rest.admitted


def test_several_answers_and_their_echo_survive_replica_after_replica(schedulers: list[Scheduler]) -> None:
    request = ask("many answers", 12, n=3, sampling=REQUESTS["drawn"].sampling, prompt_logprobs=1)
    want, done = answered(schedulers[0], request)
    losses = [ReplicaLost("?", "killed"), ReplicaLost("?", "killed")]
    replicas = Local(schedulers, lambda told: losses.pop() if told == 6 and losses else None)
    (inbox,), remote = run(replicas, request)
    for index in range(3):
        assert inbox.text(index) == "".join(delta.text for delta in want if delta.index == index)
    assert len(inbox.scores().entries) == len(request.prompt)
    assert inbox.events.index(inbox.scores()) == 0
    assert inbox.end() == done
    assert remote.failovers >= 1


def test_a_request_of_no_seed_is_given_one_that_its_replicas_share(schedulers: list[Scheduler]) -> None:
    request = ask("draw", 20, sampling=REQUESTS["drawn"].sampling.__class__(temperature=1.5))
    replicas = Local(schedulers, once(5, ReplicaLost("?", "killed")))
    (inbox,), _ = run(replicas, request)
    assert isinstance(inbox.end(), Done)
    (_, first), (_, second) = replicas.asked
    assert first.sampling.seed == second.sampling.seed is not None


def test_when_too_many_are_lost_the_request_fails_once(schedulers: list[Scheduler]) -> None:
    for tries, error in ((1, ReplicaLost), (5, Unavailable)):
        replicas = Local(schedulers, lambda told: ReplicaLost("?", "killed") if told == 1 else None)
        (inbox,), _ = run(replicas, ask("count on"), tries=tries)
        end = inbox.end()
        assert isinstance(end, Failed)
        assert isinstance(end.error, error)


def test_a_refusal_is_the_end_of_its_request(schedulers: list[Scheduler]) -> None:
    class Full(Local):
        async def stream(self, request: Request, avoid: frozenset[str]) -> AsyncIterator[Batch]:
            raise QueueFull("no room", 3.0)
            yield

    (inbox,), _ = run(Full(schedulers, lambda _: None), ask("a"))
    end = inbox.end()
    assert isinstance(end, Failed)
    assert isinstance(end.error, QueueFull)
    assert end.error.retry_after == 3.0


def test_what_is_cancelled_ends_so_and_frees_its_slot() -> None:
    scheduler = Scheduler(MockEngine(slots=1, max_len=256, step_delay=0.01), ByteTokenizer())

    async def main() -> Inbox:
        remote, inbox = Remote(Local([scheduler], lambda _: None), scheduler.engine), Inbox()
        (ticket,) = remote.submit_all([(ask("a", 200), inbox)])
        while not inbox.events:
            await asyncio.sleep(0.001)
        ticket.cancel()
        while not (remote.idle and scheduler.idle):
            await asyncio.sleep(0.001)
        remote.close()
        with pytest.raises(Closed):
            remote.submit_all([(ask("a"), Inbox())])
        return inbox

    try:
        assert isinstance(asyncio.run(main()).end(), Cancelled)
        assert scheduler.snapshot().free_slots == 1
    finally:
        scheduler.close()


def test_what_no_replica_could_run_is_refused_before_it_is_sent(schedulers: list[Scheduler]) -> None:
    replicas = Local(schedulers, lambda _: None)
    with pytest.raises(ContextTooLong):
        run(replicas, ask("a", 10_000))
    assert not replicas.asked


def test_without_a_replica_a_new_request_is_refused_at_once_and_one_under_way_waits(
    schedulers: list[Scheduler],
) -> None:
    replicas = Local(schedulers[:1], lambda _: None)
    replicas.gone = {"0"}
    (inbox,), _ = run(replicas, ask("new"), wait_s=20)
    end = inbox.end()
    assert isinstance(end, Failed)
    assert isinstance(end.error, Unavailable)

    two = Local(schedulers[:2], once(2, ReplicaLost("?", "killed")))
    two.gone = {"1"}

    async def main() -> tuple[Inbox, Remote]:
        remote, inbox = Remote(two, schedulers[0].engine, Patience(STALL, wait_s=20)), Inbox()
        remote.submit_all([(ask("under way", 20), inbox)])
        while not remote.failovers:
            await asyncio.sleep(0.005)
        two.gone = {"0"}  # a new one has come
        await at_rest(remote)
        return inbox, remote

    inbox, remote = asyncio.run(main())
    assert isinstance(inbox.end(), Done)
    assert remote.failovers == 1


def test_others_avoid_a_replica_that_was_lost_while_there_are_more(schedulers: list[Scheduler]) -> None:
    """The suspect is taken again where it is the only one."""
    replicas = Local(schedulers, once(1, ReplicaLost("?", "killed")))
    run(replicas, *[ask("one", 4), ask("two", 4), ask("three", 4), ask("four", 4)])
    names = [name for name, _ in replicas.asked]
    assert names[0] not in names[1:]
    only = Local(schedulers[:2], once(1, ReplicaLost("?", "killed")))

    async def main() -> Inbox:
        remote, first, second = Remote(only, schedulers[0].engine), Inbox(), Inbox()
        remote.submit_all([(ask("one", 4), first)])
        await at_rest(remote)
        only.gone = {"1"}
        remote.submit_all([(ask("two", 4), second)])
        await at_rest(remote)
        return second

    assert isinstance(asyncio.run(main()).end(), Done)
    assert [name for name, _ in only.asked] == ["0", "1", "0"]


def test_counts_and_timings_are_of_whole_requests(schedulers: list[Scheduler]) -> None:
    told: list[RequestTimings] = []
    replicas = Local(schedulers, once(3, ReplicaLost("?", "killed")))

    async def main() -> Snapshot:
        remote = Remote(replicas, schedulers[0].engine, observer=told.append)
        remote.submit_all([(ask("count", 12), Inbox())])
        await asyncio.sleep(0)
        assert remote.snapshot().waiting == 1
        await at_rest(remote)
        return remote.snapshot()

    state = asyncio.run(main())
    assert (state.running, state.waiting, state.prompt_tokens, state.completion_tokens) == (0, 0, 5, 12)
    assert state.free_slots == 12
    (timings,) = told
    assert (timings.prompt_tokens, timings.completion_tokens, timings.finish_reason) == (5, 12, "length")
    assert timings.ttft_s is not None


def test_one_cancelled_at_once_is_told_so(schedulers: list[Scheduler]) -> None:
    told: list[RequestTimings] = []

    async def main() -> Inbox:
        remote, inbox = Remote(Local(schedulers, lambda _: None), schedulers[0].engine, observer=told.append), Inbox()
        (ticket,) = remote.submit_all([(ask("never begun"), inbox)])
        ticket.cancel()
        await at_rest(remote)
        return inbox

    assert isinstance(asyncio.run(main()).end(), Cancelled)
    assert [one.finish_reason for one in told] == ["cancelled"]


class Silent(Local):
    """Nobody is ever chosen."""

    async def stream(self, request: Request, avoid: frozenset[str]) -> AsyncIterator[Batch]:
        self.asked.append(("?", request))
        await asyncio.sleep(10)
        yield Batch("?", [])


def test_silence_before_a_replica_is_known_counts_as_a_loss(schedulers: list[Scheduler]) -> None:
    replicas = Silent(schedulers, lambda _: None)
    (inbox,), _ = run(replicas, ask("anybody"), tries=2)
    end = inbox.end()
    assert isinstance(end, Failed)
    assert isinstance(end.error, ReplicaLost)
    assert len(replicas.asked) == 3


def test_no_replica_is_waited_for_beyond_the_deadline(schedulers: list[Scheduler]) -> None:
    replicas = Local(schedulers[:1], once(2, ReplicaLost("?", "killed")))
    request = replace(ask("late", 20), deadline=time.monotonic() + 0.5)
    (inbox,), _ = run(replicas, request, wait_s=20)
    end = inbox.end()
    assert isinstance(end, Failed)
    assert isinstance(end.error, DeadlineExceeded)


def test_a_request_that_loses_everybody_after_tokens_is_counted_as_failed(schedulers: list[Scheduler]) -> None:
    told: list[RequestTimings] = []
    replicas = Local(schedulers[:1], once(2, ReplicaLost("?", "killed")))

    async def main() -> None:
        remote = Remote(replicas, schedulers[0].engine, Patience(STALL, wait_s=0.2), told.append)
        remote.submit_all([(ask("begun", 20), Inbox())])
        await at_rest(remote)

    asyncio.run(main())
    assert [one.finish_reason for one in told] == ["error"]
