"""The scheduler's invariants: one terminal event each, slots come back, answers do not depend on their neighbours."""

import time
from collections.abc import Iterator

import pytest

from tests.engine.scheduling import WAIT, Faulty, Inbox, ask, by_hand, send, settled
from tradewind.engine.mock import IM_END, MockEngine, best_next
from tradewind.engine.requests import (
    TERMINAL,
    BadRequest,
    Cancelled,
    Closed,
    ContextTooLong,
    Delta,
    Done,
    Event,
    Failed,
    QueueFull,
    Request,
)
from tradewind.engine.sampling import SamplingParams
from tradewind.engine.scheduler import Scheduler, SchedulerSettings
from tradewind.engine.text import ByteTokenizer


@pytest.fixture
def scheduler() -> Iterator[Scheduler]:
    made = Scheduler(MockEngine(slots=3, max_len=256), ByteTokenizer(), SchedulerSettings(prefill_chunk=16))
    yield made
    assert settled(made)
    made.close()


@pytest.fixture
def slow() -> Iterator[Scheduler]:
    """Two slots, 5 ms a step."""
    engine = MockEngine(slots=2, max_len=4096, step_delay=0.005)
    made = Scheduler(engine, ByteTokenizer(), SchedulerSettings(max_waiting=3))
    yield made
    made.close()


def test_one_request_by_hand(scheduler: Scheduler) -> None:
    _, inbox = send(scheduler, ask("hello"))
    assert inbox.text() == by_hand("hello")
    assert inbox.end() == Done(5, 20)
    assert inbox.finish() == "length"
    assert sum(event.tokens for event in inbox.events if isinstance(event, Delta)) == 20


def test_a_request_counts_as_waiting_or_as_running_until_its_end(scheduler: Scheduler) -> None:
    counts: list[int] = []

    def note(event: Event) -> None:
        state = scheduler.snapshot()
        counts.append(state.running + state.waiting)
        inbox(event)

    inbox = Inbox()
    scheduler.submit(ask("hello"), note)
    inbox.end()
    assert counts[:-1] == [1] * 20
    assert counts[-1] == 0


def test_the_end_token_stops_and_shows_nothing(scheduler: Scheduler) -> None:
    tokens = list(b"hi")
    while tokens[-1] != IM_END:
        tokens.append(best_next(tokens))
    made = bytes(tokens[2:-1]).decode()
    _, inbox = send(scheduler, ask("hi", 200, ignore_eos=False))
    assert (inbox.text(), inbox.finish(), inbox.end()) == (made, "stop", Done(2, len(made) + 1))


def test_many_at_once_equal_each_alone(scheduler: Scheduler) -> None:
    prompts = [f"{'long ' * (place % 7)}question {place}" for place in range(24)]
    inboxes = [send(scheduler, ask(prompt, 10 + place))[1] for place, prompt in enumerate(prompts)]
    for place, (prompt, inbox) in enumerate(zip(prompts, inboxes, strict=True)):
        assert inbox.text() == by_hand(prompt, 10 + place)
        assert sum(isinstance(event, TERMINAL) for event in inbox.events) == 1


def test_sampled_answers_do_not_depend_on_neighbours(scheduler: Scheduler) -> None:
    request = ask("seeded", sampling=SamplingParams(temperature=1.5, top_p=0.9, seed=11))
    alone = send(scheduler, request)[1].text()
    crowd = [send(scheduler, ask(f"noise {place}"))[1] for place in range(4)]
    _, among = send(scheduler, request)
    assert among.text() == alone
    assert all(isinstance(inbox.end(), Done) for inbox in crowd)


def test_a_late_joiner_runs_beside_the_others(slow: Scheduler) -> None:
    early, first = send(slow, ask("early", 3000))
    assert first.started.wait(WAIT)
    _, late = send(slow, ask("late", 10))
    assert late.text() == by_hand("late", 10)
    assert not first.ended.is_set()
    early.cancel()
    assert first.end() == Cancelled()


def test_n_answers_share_one_prefill_and_outnumber_the_slots(scheduler: Scheduler) -> None:
    before = scheduler.snapshot().prompt_tokens
    request = ask("several", 6, n=7, sampling=SamplingParams(temperature=2.0, seed=3))
    _, inbox = send(scheduler, request)
    texts = [inbox.text(index) for index in range(7)]
    assert inbox.end() == Done(7, 42)
    assert len(set(texts)) > 1
    assert [inbox.finish(index) for index in range(7)] == ["length"] * 7
    assert scheduler.snapshot().prompt_tokens - before == 7
    alone = send(scheduler, ask("several", 6, sampling=SamplingParams(temperature=2.0, seed=3)))[1]
    assert alone.text() == texts[0]


def test_stop_strings_end_an_answer(scheduler: Scheduler) -> None:
    whole = by_hand("stop here", 40)
    stop = whole[10:13]
    _, inbox = send(scheduler, ask("stop here", 40, stop=(stop,)))
    assert inbox.text() == whole[: whole.index(stop)]
    assert inbox.finish() == "stop"
    assert inbox.end() == Done(9, whole.index(stop) + 3)


def test_logprobs_come_with_their_text(scheduler: Scheduler) -> None:
    whole = by_hand("stop here", 40)
    request = ask("stop here", 40, stop=(whole[10:13],), sampling=SamplingParams(temperature=0, logprobs=2))
    _, inbox = send(scheduler, request)
    text = inbox.text()
    entries = [entry for event in inbox.events if isinstance(event, Delta) for entry in event.logprobs]
    assert b"".join(entry.piece for entry in entries).decode() == text
    assert [entry.offset for entry in entries] == list(range(len(text)))
    assert all(len(entry.top) == 2 and entry.top[0][0] == entry.token for entry in entries if entry.top[0][0] != IM_END)


@pytest.mark.timing
@pytest.mark.parametrize("moment", ["waiting", "running"])
def test_cancelling_frees_the_slot_within_200_ms(slow: Scheduler, moment: str) -> None:
    others = [send(slow, ask("other", 3000)) for _ in range(2 if moment == "waiting" else 1)]
    for _, inbox in others:
        assert inbox.started.wait(WAIT)
    ticket, inbox = send(slow, ask("to be cancelled", 3000))
    if moment == "running":
        assert inbox.started.wait(WAIT)
    start = time.monotonic()
    ticket.cancel()
    assert inbox.end() == Cancelled()
    assert time.monotonic() - start < 0.2
    assert slow.snapshot().free_slots == (0 if moment == "waiting" else 1)
    ticket.cancel()
    for other, _ in others:
        other.cancel()
    assert settled(slow)
    assert sum(isinstance(event, TERMINAL) for event in inbox.events) == 1


def test_the_queue_is_bounded(slow: Scheduler) -> None:
    running = [send(slow, ask("runs", 3000)) for _ in range(2)]
    for _, inbox in running:
        assert inbox.started.wait(WAIT)
    waiting = [send(slow, ask("waits", 3)) for _ in range(3)]
    with pytest.raises(QueueFull):
        send(slow, ask("too many", 3))
    for ticket, _ in running:
        ticket.cancel()
    assert all(isinstance(inbox.end(), Done) for _, inbox in waiting)


def test_what_cannot_run_is_refused(scheduler: Scheduler) -> None:
    with pytest.raises(ContextTooLong, match="256 tokens, but 260"):
        send(scheduler, ask("x" * 250, 10))
    for bad in (Request((), 5), Request((300,), 5), Request((-1,), 5), Request((1,), -1), Request((1,), 5, n=0)):
        with pytest.raises(BadRequest):
            send(scheduler, bad)


@pytest.mark.parametrize("burst", [1, 4])
@pytest.mark.parametrize("call", ["prefill", "insert", "insert, late", "step", "nan"])
def test_a_fault_ends_its_request_and_not_the_loop(call: str, burst: int) -> None:
    engine = Faulty()
    engine.exact_feeds, engine.burst = burst == 1, burst
    scheduler = Scheduler(engine, ByteTokenizer())
    engine.broken.add(call)
    _, inbox = send(scheduler, ask("unlucky"))
    assert isinstance(inbox.end(), Failed)
    assert send(scheduler, ask("next"))[1].text() == by_hand("next")
    assert settled(scheduler)
    scheduler.close()


@pytest.mark.parametrize("call", ["fork", "release"])
def test_a_fault_after_the_answer_does_not_take_it_back(call: str) -> None:
    engine = Faulty()
    scheduler = Scheduler(engine, ByteTokenizer(), SchedulerSettings(prefix_cache_bytes=10**6))
    whole = by_hand("lucky", 40)
    engine.broken.add(call)
    for _ in range(3):
        _, inbox = send(scheduler, ask("lucky", 60, stop=(whole[-3:],)))
        assert inbox.text() == whole[:-3]
        assert isinstance(inbox.end(), Done)
    assert call not in engine.broken
    assert settled(scheduler)
    scheduler.close()


@pytest.mark.parametrize("call", ["max_feed", "rewind"])
def test_a_fault_in_speculation_ends_its_request_and_not_the_loop(call: str) -> None:
    engine = Faulty()
    scheduler = Scheduler(engine, ByteTokenizer(), SchedulerSettings(lookup_tokens=3, lookup_ngram=1))
    prompt = "aababcabcdabcde" * 4  # no draft from it can be right all along
    engine.broken.add(call)
    _, inbox = send(scheduler, ask(prompt, 60))
    assert isinstance(inbox.end(), Failed)
    assert send(scheduler, ask(prompt, 60))[1].text() == by_hand(prompt, 60)
    assert settled(scheduler)
    scheduler.close()


def test_a_slot_that_was_not_freed_comes_back_though_nobody_asks() -> None:
    engine = Faulty()
    scheduler = Scheduler(engine, ByteTokenizer())
    engine.broken.add("release")
    assert isinstance(send(scheduler, ask("last"))[1].end(), Done)
    assert settled(scheduler)
    scheduler.close()


def test_an_engine_that_gives_no_slot_back_fails_who_waits() -> None:
    engine = Faulty()
    scheduler = Scheduler(engine, ByteTokenizer())
    engine.lasting, engine.broken = True, {"release"}
    assert [type(send(scheduler, ask("last", 5))[1].end()) for _ in range(4)] == [Done, Done, Failed, Failed]
    engine.broken.clear()
    assert isinstance(send(scheduler, ask("next", 5))[1].end(), Done)
    assert settled(scheduler)
    scheduler.close()


def test_a_receiver_that_raises_loses_only_its_own_request(scheduler: Scheduler) -> None:
    def broken(event: Event) -> None:
        raise RuntimeError("cannot take events")

    scheduler.submit(ask("nobody listens", 200), broken)
    assert send(scheduler, ask("next"))[1].text() == by_hand("next")


def test_closing_ends_every_request() -> None:
    scheduler = Scheduler(MockEngine(slots=1, max_len=4096, step_delay=0.005), ByteTokenizer())
    inboxes = [send(scheduler, ask("left over", 3000))[1] for _ in range(3)]
    assert inboxes[0].started.wait(WAIT)
    scheduler.close()
    assert [inbox.end() for inbox in inboxes] == [Cancelled()] * 3
    with pytest.raises(Closed):
        send(scheduler, ask("late"))
    scheduler.close()


def test_progress_is_known(scheduler: Scheduler) -> None:
    send(scheduler, ask("token"))[1].end()
    state = scheduler.snapshot()
    assert state.seconds_since_progress < WAIT
    assert (state.completion_tokens, scheduler.idle) == (20, settled(scheduler))
