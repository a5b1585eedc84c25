"""Continuous batching: one thread owns the engine, requests join and leave its slots at any step.

The life of a request here:
1. `submit` checks it in the caller's thread and puts it in the queue, or refuses it (`Refused`): too many are ahead of
   it, or longer than the goal allows (`tradewind.engine.admission`).
2. The queue says who starts next (`tradewind.engine.queue`). What the prefix cache knows of its prompt is not run.
3. Its prompt is prefilled in chunks, between two decode steps, under a budget of tokens a turn: several short prompts
   share a turn, and a long one delays running answers by a chunk at most. Where no answer runs, none is delayed, and the
   budget is `IDLE_CHUNKS` times as large: engines run longer chunks faster. Cancellations and deadlines wait for it.
4. Its first answer takes the slot that was free for it; for each further one it goes back to the queue, ahead of its
   tenant's others, so that many answers to one prompt hold up nobody else. All start from the one prefilled prefix.
5. Every turn of the loop feeds all running answers together: the last token and, where few answers run, drafted ones
   after it (`tradewind.engine.lookup`), if the engine gives the same logits then. An answer that ends frees its slot in
   that turn. Where all of them are greedy, nobody waits, and the engine is faster so, a turn is a burst of several steps.
6. A terminal event ends it: `Done`, `Failed` (an error of this request, which the loop survives, or its deadline,
   waiting or running) or `Cancelled`.

Not covered: preemption of running answers, more than one partial prefill at a time; no other answer starts meanwhile.
"""

import logging
import math
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

from tradewind.engine.admission import Ahead, Load, check
from tradewind.engine.answer import Answer
from tradewind.engine.contract import Engine, Logits, Prefix
from tradewind.engine.errands import Errands
from tradewind.engine.lookup import Lookup
from tradewind.engine.prefix_cache import PrefixCache, salt, worth_a_copy
from tradewind.engine.prefix_disk import open_disk
from tradewind.engine.queue import ANSWER_COST, PROMPT_COST, FairQueue
from tradewind.engine.requests import (
    Cancelled,
    Closed,
    DeadlineExceeded,
    Delta,
    Event,
    Failed,
    Request,
    Sink,
)
from tradewind.engine.row import Row
from tradewind.engine.sampling import NOT_FINITE
from tradewind.engine.scoring import PromptScorer
from tradewind.engine.settings import SchedulerSettings, Snapshot
from tradewind.engine.slots import Slots
from tradewind.engine.text import Tokenizer
from tradewind.engine.ticket import Ticket
from tradewind.engine.timings import Observer

__all__ = ["Scheduler", "SchedulerSettings", "Snapshot", "Ticket"]

log = logging.getLogger(__name__)
T = TypeVar("T")

IDLE_CHUNKS = 2
SCORED_CHUNK = 32
"""Prompt tokens whose logits are kept at once: of a vocabulary of 49,152 they take 6 MB, and their log-probabilities
some 20 ms."""
MOST_TIMES = 4
"""`max_waiting` counts those ahead of a request; so many times as many wait over all tenants and priorities at most."""
NEXT = Request((0,), 1)
"""What a snapshot's `wait_s` is of."""
RETRY = 0.5
"""Seconds between two attempts to take back a slot while nothing runs."""


class Scheduler:
    """Runs an engine for many callers. It owns the engine from here on: `close` ends every request, then the engine."""

    def __init__(
        self,
        engine: Engine,
        tokenizer: Tokenizer,
        settings: SchedulerSettings | None = None,
        observer: Observer | None = None,
    ) -> None:
        self.engine, self.tokenizer, self.observer = engine, tokenizer, observer
        self.settings = settings or SchedulerSettings()
        self._live: dict[Ticket, None] = {}  # accepted and not ended, as they came
        self._queue = FairQueue()
        self._errands = Errands()
        self._starting: Ticket | None = None  # a slot is free for it
        self._slots = Slots(engine)
        self._cache = PrefixCache(self.settings.prefix_cache_bytes)
        self._load = Load(engine.slots, self.settings.prefill_chunk)
        self._changed = threading.Condition()
        self._closing = False
        self._progress = -math.inf
        self._saved_s = 0.0  # of prefill
        self._prompt_tokens = self._completion_tokens = self._drafted = self._accepted = 0
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
        self._thread.start()

    # Called from any thread.

    def submit(self, request: Request, sink: Sink) -> Ticket:
        """Accept a request: `sink` gets its events in the scheduler's thread. Raises Refused."""
        return self.submit_all([(request, sink)])[0]

    def submit_all(self, calls: Sequence[tuple[Request, Sink]]) -> list[Ticket]:
        """Accept several requests, all or none: they are not ahead of each other. Raises Refused."""
        for request, _ in calls:
            check(request, self.engine)
        requests = [request for request, _ in calls]
        with self._changed:
            self._admit(requests)  # before the answers are made, as a refusal is to cost nothing
        tickets = [
            Ticket(request, sink, [Answer(request, index, self.tokenizer) for index in range(request.n)], self._wake)
            for request, sink in calls
        ]
        with self._changed:
            self._admit(requests)  # others may have come meanwhile
            for ticket in tickets:
                self._live[ticket] = None
                self._queue.add(ticket)
            self._changed.notify()
        return tickets

    def snapshot(self) -> Snapshot:
        with self._changed:
            rows = list(self._slots.rows.values())
            return Snapshot(
                running=len(rows),
                waiting=self._waiting,
                free_slots=len(self._slots.free),
                prompt_tokens=self._prompt_tokens,
                completion_tokens=self._completion_tokens,
                seconds_since_progress=time.monotonic() - self._progress,
                prefill_rate=self._load.prefill_rate,
                kv_usage=sum(row.length for row in rows) / (self.engine.slots * self.engine.max_len),
                drafted=self._drafted,
                accepted=self._accepted,
                wait_s=self._load.wait(self._ahead(self._queue.ahead("", 0, 1), NEXT)) if self._live else 0.0,
                prefix_saved_s=self._saved_s,
                **self._cache.counts,
            )

    def between_turns(self, work: Callable[[], T]) -> "Future[T]":
        """Have something done in the engine's thread, between two of its turns. Raises Closed."""
        with self._changed:
            if self._closing or not self._thread.is_alive():
                raise Closed("the server is shutting down")
            future = self._errands.add(work)
            self._changed.notify()
        return future

    def runs(self, adapter: str) -> bool:
        """Whether a request with this adapter waits or runs."""
        with self._changed:
            return any(ticket.request.adapter == adapter for ticket in self._live)

    @property
    def idle(self) -> bool:
        with self._changed:
            return not self._live

    def close(self, timeout: float = 10.0) -> None:
        """Cancel what is left, end the thread, close the engine. Callable more than once. What of the prefix cache is not on
        its disk after `timeout` seconds is lost with the process.
        """
        with self._changed:
            self._closing = True
            self._changed.notify()
        self._thread.join(timeout)

    def _wake(self) -> None:
        with self._changed:
            self._changed.notify()

    @property
    def _waiting(self) -> int:
        """Requests with an answer that has not started."""
        return len(self._queue) + (self._starting is not None)

    def _admit(self, requests: Sequence[Request]) -> None:
        """Whether requests of one tenant and priority may come in together. Raises Closed or QueueFull. An idle scheduler
        takes them."""
        if self._closing or not self._thread.is_alive():
            raise Closed("the server is shutting down")
        if not self._live or all(request.admitted for request in requests):
            return
        tokens = sum(request.length for request in requests)
        before = self._queue.ahead(requests[0].tenant, requests[0].priority, tokens)
        count, most = len(before) + (self._starting is not None), self.settings.max_waiting
        full = count + len(requests) > most or self._waiting + len(requests) > MOST_TIMES * most
        self._load.admit(self._ahead(before, requests[0]), tokens, self.settings.ttft_goal_ms / 1000, count, full)

    def _ahead(self, before: Sequence[Ticket], request: Request) -> Ahead:
        """Of a prompt in another tenant's line one answer starts, and then it is this request's turn."""
        tokens = answers = 0
        for ticket in before if self._starting is None else (*before, self._starting):
            tokens += ticket.to_run
            answers += ticket.unstarted if ticket.goes_first(request) else 1
        return Ahead(tokens, answers, len(self._slots.free), bool(self._slots.rows))

    # The engine's thread.

    def _run(self) -> None:
        if self.settings.ttft_goal_ms:
            self._load.measure(self.engine)
        if self.settings.prefix_cache_dir:
            self._cache.disk = open_disk(
                Path(self.settings.prefix_cache_dir), self.settings.prefix_cache_disk_bytes, self.engine
            )
        while self._wait_for_work():
            for part in (self._errands.run, self._sweep, self._start_waiting, self._decode):
                try:
                    part()
                except Exception:
                    # Each part answers for its own requests; what still comes here must not end the loop.
                    log.exception("the scheduler's %s raised", part.__name__)
        self._end_all()

    def _wait_for_work(self) -> bool:
        with self._changed:
            while not (self._closing or self._live or self._errands):
                self._changed.wait(RETRY if self._slots.stuck else None)
                if self._slots.stuck:
                    break
            return not self._closing

    def _sweep(self) -> None:
        """End what was cancelled or came too late, and take back slots that could not be freed before."""
        now = time.monotonic()
        with self._changed:
            over = [ticket for ticket in self._live if ticket.cancelled or ticket.late(now)]
        for ticket in over:
            late = DeadlineExceeded("the request's deadline passed before its last token")
            self._end(ticket, Cancelled() if ticket.cancelled else Failed(late))
        if self._slots.stuck:
            self._free_stuck()

    def _start_waiting(self) -> None:
        """Run waiting prompts, as far as the budget of a turn goes, and start answers while slots are free."""
        spent = 0
        while (ticket := self._next()) is not None:
            room = self._budget() - spent
            try:
                if ticket.prefilled:
                    self._start_answer(ticket)
                elif room > 0:
                    spent += self._run_chunk(ticket, room)
                else:
                    return
            except Exception as error:
                self._fail(ticket, error)

    def _budget(self) -> int:
        return self.settings.prefill_chunk * (1 if self._slots.rows else IDLE_CHUNKS)

    def _next(self) -> Ticket | None:
        """The one that has begun to start, else the queue's next where a slot is there for it."""
        with self._changed:
            if self._starting is None and len(self._queue) and self._slots.free:
                self._starting = self._take()
            return self._starting

    def _take(self) -> Ticket:
        """The queue's next; but of more prefilled prompts than slots, which all hold memory, the oldest."""
        held = [ticket for ticket in self._live if ticket.prefilled]
        if len(held) <= self.engine.slots:
            return self._queue.take()
        self._queue.remove(held[0])
        return held[0]

    def _run_chunk(self, ticket: Ticket, room: int) -> int:
        """Run at most `room` tokens of its prompt; gives how many."""
        request, past = ticket.request, ticket.prefix
        tokens: tuple[int, ...] = ()
        if past is None:
            past = self._begin(ticket)
            tokens = request.known[ticket.cached :]
        scorer = ticket.scorer
        start = time.monotonic()
        budget = room if scorer is None else min(room, SCORED_CHUNK)
        prefix = self.engine.prefill(tokens, past, request.adapter, budget, keep_logits=scorer is not None)
        self._progress = time.monotonic()
        ran = prefix.length - (past.length if past is not None else 0)
        with self._changed:
            ticket.prefix = replace(prefix, all_logits=None)
            self._load.prefilled(ran, self._progress - start)
            self._queue.charge(request.tenant, PROMPT_COST * ran)
        if scorer is not None and prefix.all_logits is not None:
            scorer.add(prefix.all_logits)
        if not prefix.pending:
            self._end_prompt(ticket)
        return ran

    def _begin(self, ticket: Ticket) -> Prefix | None:
        """What is known of the prompt. Where each of its tokens is to be scored, each has to be run."""
        request = ticket.request
        ticket.clock.prompt_begun()
        if request.prompt_logprobs is not None:
            ticket.scorer = PromptScorer(request.prompt, request.prompt_logprobs, self.tokenizer)
            return None
        known = self._cache.find(salt(request), request.known)
        ticket.cached = known.length if known is not None else 0
        with self._changed:
            self._load.found(ticket.cached, request.length)
            if self._load.prefill_rate:
                self._saved_s += ticket.cached / self._load.prefill_rate
        return known

    def _end_prompt(self, ticket: Ticket) -> None:
        request = ticket.request
        ticket.clock.prompt_done()
        assert ticket.prefix is not None
        self._cache.insert(salt(request), request.known, ticket.prefix)
        self._prompt_tokens += len(request.prompt)
        if ticket.scorer is not None:
            ticket.emit(ticket.scorer.event)
        if not request.max_tokens:
            for index in range(request.n):
                ticket.emit(Delta(index, "", 0, (), "length"))
            self._end(ticket, ticket.done)

    def _start_answer(self, ticket: Ticket) -> None:
        """The next one of a prefilled prompt: its first token needs no slot, the others do."""
        with self._changed:
            answer, prefix = ticket.take_answer()
        if prefix.logits is None:
            raise RuntimeError("the engine gave no logits")
        lookup = Lookup.of(ticket.request, self.settings) if self.engine.exact_feeds else None
        row = Row(ticket, answer, lookup)
        self._accept(row, prefix.logits[None], ())
        slot = None if row.finished else self._slots.take(prefix)
        with self._changed:  # at every moment the request counts as waiting or as running
            if slot is not None:
                self._slots.rows[slot] = row
            self._starting = None
            if ticket.unstarted:
                self._queue.put_back(ticket)
        if slot is None:
            self._end_answer(ticket)

    def _decode(self) -> None:
        """Feed every running answer its last token and its draft, all in one step, or have the engine take several."""
        if not self._slots.rows:
            return
        rows = dict(self._slots.rows)
        try:
            start = time.monotonic()
            steps = self.engine.burst if self._may_burst(rows) else 1
            take = self._burst(rows, steps) if steps > 1 else self._step(rows)
            self._load.stepped((time.monotonic() - start) / steps)
        except Exception as error:
            # Nobody can tell whose fault it was, nor what the rows hold now.
            for ticket in dict.fromkeys(row.ticket for row in rows.values()):
                self._fail(ticket, error)
            return
        failed: dict[Ticket, Exception] = {}
        for slot, row in rows.items():
            with _noting(failed, row.ticket):
                take(slot, row)
        for slot, row in rows.items():  # only now, as the engine's next call may end the life of a step's logits
            with _noting(failed, row.ticket):
                if row.ticket not in failed:
                    self._settle(slot, row)
        for ticket, fault in failed.items():
            self._fail(ticket, fault)

    def _may_burst(self, rows: Mapping[int, Row]) -> bool:
        """Where one may come who is served first, or all would end within it, steps are taken one by one."""
        burst = self.engine.burst
        with self._changed:
            waiting = self._waiting
        if burst < 2 or waiting or any(row.lookup is not None or not row.answer.predictable for row in rows.values()):
            return False
        room = min(self.engine.max_len - row.length for row in rows.values())
        return room >= burst and max(row.left for row in rows.values()) >= burst

    def _step(self, rows: Mapping[int, Row]) -> Callable[[int, Row], None]:
        """Gives what takes the outcome over into a slot's row."""
        drafts = self._drafts(rows)
        lines = self.engine.step({slot: (row.answer.last, *drafts[slot]) for slot, row in rows.items()})
        return lambda slot, row: self._accept(row, lines[slot], drafts[slot])

    def _burst(self, rows: Mapping[int, Row], steps: int) -> Callable[[int, Row], None]:
        feed = {slot: row.answer.last for slot, row in rows.items()}
        banned = {slot: row.answer.sampler.banned for slot, row in rows.items() if row.answer.sampler.banned}
        chosen = self.engine.greedy(feed, steps, banned)
        return lambda slot, row: self._take_burst(row, chosen[slot], steps)

    def _take_burst(self, row: Row, tokens: Sequence[int], steps: int) -> None:
        before = len(row.tokens)
        row.take(tokens)
        self._made(row, len(row.tokens) - before)
        if len(tokens) < steps and not row.finished:
            raise ValueError(NOT_FINITE)

    def _drafts(self, rows: Mapping[int, Row]) -> dict[int, tuple[int, ...]]:
        if not self.settings.lookup_tokens or len(rows) > self.settings.lookup_max_rows:
            return dict.fromkeys(rows, ())
        return {slot: row.draft(self.engine.max_feed(slot)) for slot, row in rows.items()}

    def _accept(self, row: Row, lines: Logits, draft: tuple[int, ...]) -> None:
        before = len(row.tokens)
        right = row.accept(lines, draft)
        self._drafted += len(draft)
        self._accepted += right
        self._made(row, len(row.tokens) - before)

    def _made(self, row: Row, count: int) -> None:
        """Note `count` new tokens."""
        self._progress = time.monotonic()
        self._completion_tokens += count
        with self._changed:
            self._queue.charge(row.ticket.request.tenant, ANSWER_COST * count)

    def _settle(self, slot: int, row: Row) -> None:
        """After a step: drop rejected drafts, and the row of an answer that ended."""
        if self.engine.length(slot) > row.length:
            self.engine.rewind(slot, row.length)
        if not row.finished:
            return
        self._keep_answer(slot, row)
        self._free_slot(slot)
        self._end_answer(row.ticket)

    def _keep_answer(self, slot: int, row: Row) -> None:
        """For the next turn of a chat, which begins with this one."""
        request = row.ticket.request
        if not self._cache.budget or request.n > 1 or row.answer.finish_reason != "stop":
            return
        if worth_a_copy(len(row.tokens), row.length):
            try:
                self._cache.insert(salt(request), (*request.prompt, *row.tokens)[: row.length], self.engine.fork(slot))
            except Exception:
                log.exception("an answer could not be kept")  # which is no fault of the request

    def _end_answer(self, ticket: Ticket) -> None:
        ticket.unfinished -= 1
        if not ticket.unfinished:
            self._end(ticket, ticket.done)

    def _fail(self, ticket: Ticket, error: Exception) -> None:
        """End one request with an error."""
        log.error("a request failed: %s: %s", type(error).__name__, error, exc_info=error)
        self._end(ticket, Failed(error))

    def _end(self, ticket: Ticket, event: Event) -> None:
        """Take a request out, wherever it is, free its slots, and tell its end: once."""
        with self._changed:
            if ticket not in self._live:
                return
            del self._live[ticket]
            self._queue.remove(ticket)
            if self._starting is ticket:
                self._starting = None
        for slot in [slot for slot, row in self._slots.rows.items() if row.ticket is ticket]:
            self._free_slot(slot)
        ticket.prefix = None
        ticket.emit(event)
        if self.observer is None:
            return
        try:
            self.observer(ticket.timings(event))
        except Exception:
            log.exception("the observer raised")

    def _free_slot(self, slot: int) -> None:
        self._load.held(time.monotonic() - self._slots.end(slot).since)

    def _free_stuck(self) -> None:
        self._slots.retry()
        if self._slots.lost:
            for ticket in list(self._live):
                self._fail(ticket, RuntimeError("the engine gives no slot back"))

    def _end_all(self) -> None:
        with self._changed:
            self._errands.close()
        for ticket in list(self._live):
            self._end(ticket, Cancelled())
        try:
            self._cache.to_disk()
        except Exception:
            log.exception("what the prefix cache holds could not be kept")
        self._cache.clear()
        self.engine.close()


@contextmanager
def _noting(failed: dict[Ticket, Exception], ticket: Ticket) -> Iterator[None]:
    """What goes wrong with one answer is its request's failure, and the other answers go on."""
    try:
        yield
    except Exception as error:
        failed.setdefault(ticket, error)
