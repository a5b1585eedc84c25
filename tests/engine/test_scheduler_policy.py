"""What the scheduler decides: how much prefill a turn takes, who goes first, who is refused, who is too late."""

import threading
import time
from collections.abc import Iterator

import numpy as np
import pytest

from tests.engine.scheduling import GREEDY, WAIT, Inbox, Recorded, ask, by_hand, send, settled
from tradewind.engine.requests import (
    TERMINAL,
    BadRequest,
    Cancelled,
    DeadlineExceeded,
    Delta,
    Done,
    Event,
    Failed,
    QueueFull,
    Request,
)
from tradewind.engine.sampling import SamplingParams
from tradewind.engine.scheduler import IDLE_CHUNKS, MOST_TIMES, SCORED_CHUNK, Scheduler, SchedulerSettings, Ticket
from tradewind.engine.text import ByteTokenizer
from tradewind.engine.timings import RequestTimings

CHUNK = 16
NEVER = 10**6


class Server:
    """A scheduler over a recorded engine, and the timings it told of."""

    def __init__(self, slots: int = 4, max_len: int = 512, **settings: int) -> None:
        self.engine = Recorded(slots=slots, max_len=max_len)
        self.seen: list[RequestTimings] = []
        chosen = SchedulerSettings(**{"prefill_chunk": CHUNK, **settings})
        self.scheduler = Scheduler(self.engine, ByteTokenizer(), chosen, self.seen.append)

    def send(self, request: Request) -> tuple[Ticket, Inbox]:
        return send(self.scheduler, request)

    def running(self, count: int = 1, max_tokens: int = 400) -> list[tuple[Ticket, Inbox]]:
        """Long answers under way, the engine then held at its gate."""
        self.engine.hold = count
        made = [self.send(ask("runs", max_tokens)) for _ in range(count)]
        for _, inbox in made:
            assert inbox.started.wait(WAIT)
        while self.engine.gate.is_set():
            threading.Event().wait(0.001)
        return made

    def go_on(self) -> None:
        self.engine.gate.set()


@pytest.fixture
def server(request: pytest.FixtureRequest) -> Iterator[Server]:
    made = Server(**getattr(request, "param", {}))
    yield made
    made.go_on()
    assert settled(made.scheduler)
    made.scheduler.close()


def with_settings(**settings: int) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("server", [settings], indirect=True)


# The budget of a turn.


def test_a_long_prompt_costs_running_answers_a_chunk_a_turn(server: Server) -> None:
    ((running, _),) = server.running()
    before = len(server.engine.turns())
    _, long = server.send(ask("long prompt " * 20, 5))
    server.go_on()
    assert long.text() == by_hand("long prompt " * 20, 5)
    assert max(sum(turn) for turn in server.engine.turns()[before:]) == CHUNK
    running.cancel()


def test_short_prompts_share_a_turn(server: Server) -> None:
    ((running, _),) = server.running()
    before = len(server.engine.turns())
    short = [server.send(ask(f"abc {place}", 5))[1] for place in range(3)]
    server.go_on()
    assert [inbox.text() for inbox in short] == [by_hand(f"abc {place}", 5) for place in range(3)]
    assert [5, 5, 5] in server.engine.turns()[before - 1 :]
    running.cancel()


def test_an_idle_engine_takes_larger_chunks(server: Server) -> None:
    server.send(ask("x" * (3 * IDLE_CHUNKS * CHUNK), 5))[1].end()
    assert server.engine.turns()[0] == [IDLE_CHUNKS * CHUNK] * 3
    assert by_hand("x" * 9, 5) == server.send(ask("x" * 9, 5))[1].text()


# Who goes first.


def starts(inboxes: dict[str, Inbox]) -> list[str]:
    """Names in the order of their first events."""
    for inbox in inboxes.values():
        inbox.end()
    return sorted(inboxes, key=lambda name: inboxes[name].at)


class Stamped(Inbox):
    def __call__(self, event: Event) -> None:
        if not self.events:
            self.at = time.monotonic()
        super().__call__(event)


def submit(server: Server, **requests: Request) -> dict[str, Inbox]:
    """All of them while the only slot is taken."""
    ((running, _),) = server.running()
    inboxes = {name: Stamped() for name in requests}
    for name, request in requests.items():
        server.scheduler.submit(request, inboxes[name])
    running.cancel()
    server.go_on()
    return dict(inboxes)


@with_settings(slots=1)
def test_priorities(server: Server) -> None:
    inboxes = submit(server, low=ask("low", 3, priority=3), normal=ask("normal", 3), high=ask("high", 3, priority=-3))
    assert starts(inboxes) == ["high", "normal", "low"]


@with_settings(slots=1)
@pytest.mark.parametrize(
    "other", [{"tenant": "other"}, {"tenant": "many", "priority": -3}], ids=["another tenant", "an urgent one"]
)
def test_many_answers_to_one_prompt_hold_up_nobody_else(server: Server, other: dict[str, object]) -> None:
    ends: list[str] = []

    def noting(name: str) -> Inbox:
        class Noting(Inbox):
            def __call__(self, event: Event) -> None:
                if isinstance(event, Delta) and event.finish_reason is not None:
                    ends.append(name)
                super().__call__(event)

        return Noting()

    many, one = noting("many"), noting("one")
    server.engine.hold = 1
    server.scheduler.submit(ask("many", 5, n=20, tenant="many"), many)
    assert many.started.wait(WAIT)
    server.scheduler.submit(ask("one", 5, **other), one)
    server.go_on()
    many.end()
    assert ends.index("one") <= 2
    assert [many.text(index) for index in range(20)] == [by_hand("many", 5)] * 20
    assert one.text() == by_hand("one", 5)


@with_settings(slots=2)
def test_prompts_that_wait_for_a_slot_are_one_more_than_slots(server: Server) -> None:
    """Each of them holds keys and values."""
    held: list[int] = []

    class Counting(Inbox):
        def __call__(self, event: Event) -> None:
            held.append(sum(ticket.prefilled for ticket in server.scheduler._live))
            super().__call__(event)

    server.running(2)
    inboxes = [Counting() for _ in range(8)]
    for place, inbox in enumerate(inboxes):
        server.scheduler.submit(ask(f"tenant {place}", 3, n=3, tenant=f"{place}"), inbox)
    for ticket in list(server.scheduler._live)[:2]:
        ticket.cancel()
    server.go_on()
    assert all(isinstance(inbox.end(), Done) for inbox in inboxes)
    assert max(held) == 3


@with_settings(slots=1)
def test_a_tenant_with_many_requests_does_not_hold_up_another(server: Server) -> None:
    many = {f"many {place}": ask("many", 3, tenant="many") for place in range(6)}
    inboxes = submit(server, **many, other=ask("other", 3, tenant="other"))
    assert starts(inboxes).index("other") == 1


# Deadlines.


def test_a_deadline_ends_a_running_answer(server: Server) -> None:
    _, inbox = server.send(ask("slow", 400, deadline=time.monotonic() + NEVER))
    assert isinstance(inbox.end(), Done)
    server.engine.step_delay = 0.005
    _, inbox = server.send(ask("slow", 400, deadline=time.monotonic() + 0.1))
    event = inbox.end()
    assert isinstance(event, Failed) and isinstance(event.error, DeadlineExceeded)
    assert inbox.started.is_set() and sum(isinstance(one, Delta) for one in inbox.events) < 400


@with_settings(slots=1)
def test_a_deadline_ends_a_waiting_request_unseen_by_the_engine(server: Server) -> None:
    ((running, _),) = server.running()
    _, inbox = server.send(ask("too late", 3, deadline=time.monotonic()))
    calls = len(server.engine.calls)
    server.go_on()
    event = inbox.end()
    assert isinstance(event, Failed) and isinstance(event.error, DeadlineExceeded)
    assert len(inbox.events) == 1
    assert all(kind == "step" for kind, _, _ in server.engine.calls[calls:])
    running.cancel()


# Admission.


@pytest.mark.timing
@with_settings(slots=1, ttft_goal_ms=50)
def test_who_would_wait_longer_than_the_goal_is_refused_at_once(server: Server) -> None:
    server.engine.prefill_delay = 0.002
    server.send(ask("y" * 60, 5))[1].end()
    ((running, _),) = server.running()
    _, waiting = server.send(ask("z" * 100, 5))
    start = time.monotonic()
    with pytest.raises(QueueFull, match=r"more than the .* that its goal leaves") as refused:
        server.send(ask("no", 5))
    assert time.monotonic() - start < 0.05
    assert refused.value.retry_after >= 0.1
    running.cancel()
    server.go_on()
    assert isinstance(waiting.end(), Done)


@with_settings(slots=1, max_waiting=4)
def test_a_queue_full_of_others_turns_away_neither_the_urgent_nor_another_tenant(server: Server) -> None:
    ((running, _),) = server.running()
    held = [server.send(ask("batch", 5, tenant="flood", priority=20)) for _ in range(4)]
    with pytest.raises(QueueFull):
        server.send(ask("batch", 5, tenant="flood", priority=20))
    urgent = server.send(ask("urgent", 5, tenant="flood", priority=-5))[1]
    other = server.send(ask("other", 5, tenant="other", priority=20))[1]
    running.cancel()
    server.go_on()
    assert all(isinstance(inbox.end(), Done) for inbox in [urgent, other, *(inbox for _, inbox in held)])


@with_settings(slots=1, ttft_goal_ms=50)
def test_many_answers_to_one_prompt_refuse_its_own_tenant_only(server: Server) -> None:
    """The others wait for one of them at most."""
    server.engine.hold = 1
    server.scheduler._load.hold = 0.02
    ticket, inbox = server.send(ask("many", 5, n=20, tenant="many"))
    assert inbox.started.wait(WAIT)
    with pytest.raises(QueueFull):
        server.send(ask("more", 5, tenant="many"))
    other = server.send(ask("other", 5, tenant="other"))[1]
    server.go_on()
    assert isinstance(other.end(), Done)
    ticket.cancel()


@with_settings(slots=1, max_waiting=1)
def test_so_many_priorities_are_not_so_many_queues(server: Server) -> None:
    ((running, _),) = server.running()
    accepted = [server.send(ask("flood", 5, priority=-place))[1] for place in range(MOST_TIMES)]
    with pytest.raises(QueueFull):
        server.send(ask("flood", 5, priority=-MOST_TIMES))
    running.cancel()
    server.go_on()
    assert all(isinstance(inbox.end(), Done) for inbox in accepted)


@with_settings(slots=1, ttft_goal_ms=1, max_waiting=0)
def test_an_idle_server_refuses_nobody(server: Server) -> None:
    server.engine.prefill_delay = 0.001
    for _ in range(3):
        assert isinstance(server.send(ask("w" * 50, 5))[1].end(), Done)
        assert settled(server.scheduler)


def test_the_speed_is_measured_before_the_first_request() -> None:
    server = Server(ttft_goal_ms=1000)
    server.send(ask("any", 2))[1].end()
    assert server.engine.calls[0] == ("prefill", CHUNK, 0)
    assert (server.scheduler.snapshot().prefill_rate or 0) > 0
    server.scheduler.close()


# Scores of the prompt.


@pytest.mark.parametrize("count", [0, 2])
def test_prompt_scores_come_first_and_agree_with_the_engine(server: Server, count: int) -> None:
    prompt = "scored prompt, longer than a chunk is " * 3
    _, inbox = server.send(ask(prompt, 4, prompt_logprobs=count))
    entries = inbox.scores().entries
    assert inbox.events[0] is inbox.scores()
    assert inbox.text() == by_hand(prompt, 4)
    assert (len(entries), entries[0].logprob, entries[0].top) == (len(prompt), None, ())
    whole = Recorded().prefill(list(prompt.encode()), keep_logits=True).all_logits
    assert whole is not None
    for place, entry in enumerate(entries[1:], 1):
        line = whole[place - 1].astype(float)
        assert (entry.token, entry.piece, entry.offset) == (ord(prompt[place]), prompt[place].encode(), place)
        assert len(entry.top) == count
        assert entry.logprob == pytest.approx(line[entry.token] - np.logaddexp.reduce(line), abs=1e-4)
    assert {kept for kind, _, kept in server.engine.calls if kind == "prefill"} <= set(range(1, SCORED_CHUNK + 1))


def test_scoring_alone_makes_no_token(server: Server) -> None:
    _, inbox = server.send(ask("score me", 0, prompt_logprobs=1, n=2))
    assert inbox.end() == Done(8, 0)
    assert [(one.index, one.text, one.finish_reason) for one in inbox.events if isinstance(one, Delta)] == [
        (0, "", "length"),
        (1, "", "length"),
    ]
    assert len(inbox.scores().entries) == 8
    _, one = server.send(ask("s", 0, prompt_logprobs=1))
    assert [entry.logprob for entry in one.scores().entries] == [None]
    with pytest.raises(BadRequest):
        server.send(ask("score me", 4, prompt_logprobs=-1))


@with_settings(prefix_cache_bytes=NEVER)
def test_scored_prompts_are_run_whole(server: Server) -> None:
    prompt = "the same prompt, cached and then scored"
    server.send(ask(prompt, 4))[1].end()
    _, inbox = server.send(ask(prompt, 4, prompt_logprobs=0))
    assert inbox.end() == Done(len(prompt), 4, cached_tokens=0)
    assert len(inbox.scores().entries) == len(prompt)


# The prefix cache, seen from outside.


@with_settings(prefix_cache_bytes=NEVER)
def test_cached_tokens_are_told_and_not_run(server: Server) -> None:
    prompt = "a system prompt that everybody shares; question "
    server.send(ask(prompt + "1", 4))[1].end()
    calls = len(server.engine.calls)
    _, inbox = server.send(ask(prompt + "2", 4))
    assert inbox.text() == by_hand(prompt + "2", 4)
    assert inbox.end() == Done(len(prompt) + 1, 4, cached_tokens=len(prompt))
    assert server.engine.calls[calls] == ("prefill", 1, 0)
    state = server.scheduler.snapshot()
    assert (state.prefix_queries, state.prefix_hits) == (2 * len(prompt) + 2, len(prompt))
    assert 0 < state.prefix_bytes <= NEVER


@with_settings(prefix_cache_bytes=NEVER)
def test_the_next_turn_of_a_chat_finds_the_answer(server: Server) -> None:
    whole = by_hand("chat one", 57)
    _, inbox = server.send(ask("chat one", 100, stop=(whole[-3:],)))
    assert (inbox.text() + whole[-3:], inbox.finish()) == (whole, "stop")
    _, after = server.send(ask("chat one" + whole + " and the next", 4))
    event = after.end()
    assert isinstance(event, Done)
    assert event.cached_tokens == 8 + len(whole) - 1  # the last token was sampled and never fed


@with_settings(prefix_cache_bytes=NEVER)
def test_tenants_salts_and_adapters_share_nothing(server: Server) -> None:
    prompt = "one and the same prompt for all of them"
    server.send(ask(prompt, 2, tenant="a"))[1].end()
    for more in ({"tenant": "b"}, {"tenant": "a", "cache_salt": "x"}, {"tenant": "b", "cache_salt": "x"}):
        assert server.send(ask(prompt, 2, **more))[1].end() == Done(len(prompt), 2)
    assert server.send(ask(prompt, 2, tenant="a"))[1].end() == Done(len(prompt), 2, cached_tokens=len(prompt) - 1)


# What an observer is told.


def test_timings_of_a_finished_request(server: Server) -> None:
    server.engine.step_delay = 0.001
    server.send(ask("timed", 12, tenant="t", priority=2, n=2, sampling=SamplingParams(seed=1)))[1].end()
    assert settled(server.scheduler)
    (seen,) = server.seen
    assert (seen.tenant, seen.priority, seen.n, seen.max_tokens) == ("t", 2, 2, 12)
    assert (seen.prompt_tokens, seen.cached_tokens, seen.completion_tokens, seen.finish_reason) == (5, 0, 24, "length")
    assert seen.ttft_s is not None
    assert 0 <= seen.queued_s + seen.prefill_s <= seen.ttft_s <= seen.e2e_s
    assert seen.ttft_s + seen.decode_s <= seen.e2e_s
    assert len(seen.inter_token_s) == 22
    assert min(seen.inter_token_s) >= 0.001


@with_settings(slots=1)
def test_every_end_is_told_once(server: Server) -> None:
    ((running, inbox),) = server.running()
    late = server.send(ask("late", 3, deadline=time.monotonic()))[1]
    stopped = server.send(ask("stop", 40, stop=(by_hand("stop", 40)[4:7],)))[1]
    failed = server.send(ask("failing", 3, adapter="unknown"))[1]
    running.cancel()
    server.go_on()
    for one in (inbox, late, stopped, failed):
        one.end()
        assert sum(isinstance(event, TERMINAL) for event in one.events) == 1
    assert inbox.end() == Cancelled()
    assert settled(server.scheduler)
    server.scheduler.close()
    assert [seen.finish_reason for seen in server.seen] == ["cancelled", "deadline", "stop", "error"]
    assert [seen.ttft_s is None for seen in server.seen] == [False, True, False, True]


def test_an_observer_that_raises_harms_nobody() -> None:
    def broken(timings: RequestTimings) -> None:
        raise RuntimeError("no metrics today")

    scheduler = Scheduler(Recorded(), ByteTokenizer(), observer=broken)
    for _ in range(2):
        assert send(scheduler, Request((1, 2, 3), 4, GREEDY))[1].end()
    assert settled(scheduler)
    scheduler.close()


def test_kv_usage_is_the_share_of_positions_held(server: Server) -> None:
    ((running, _),) = server.running(1)
    state = server.scheduler.snapshot()
    assert 4 / (4 * 512) <= state.kv_usage <= 404 / (4 * 512)
    running.cancel()
    server.go_on()
    assert settled(server.scheduler)
    assert server.scheduler.snapshot().kv_usage == 0
