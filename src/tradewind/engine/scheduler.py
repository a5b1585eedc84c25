"""Continuous batching: one thread owns the engine, requests join and leave its slots at any step.

The life of a request here:
1. `submit` checks it in the caller's thread and puts it last in the queue, or refuses it (`Refused`).
2. When a slot is free, its prompt is prefilled in chunks, one chunk between two decode steps, so that a long prompt
   delays running answers by a chunk at most.
3. Each of its n answers takes a free slot as one comes, all from the one prefilled prefix.
4. Every turn of the loop feeds all running answers one token together. An answer that ends frees its slot in that turn.
5. A terminal event ends it: `Done`, `Failed` (an error of this request, which the loop survives) or `Cancelled`.

Not covered: priorities, fairness between tenants, deadlines, prefix reuse, speculation.
"""

import logging
import math
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from tradewind.engine.answer import Answer
from tradewind.engine.contract import Engine, Logits, Prefix
from tradewind.engine.requests import (
    TERMINAL,
    BadRequest,
    Cancelled,
    Closed,
    ContextTooLong,
    Done,
    Event,
    Failed,
    QueueFull,
    Request,
    Scored,
    Sink,
)
from tradewind.engine.scoring import PromptScores
from tradewind.engine.text import Tokenizer

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class SchedulerSettings:
    """prefill_chunk: prompt tokens run between two decode steps. max_waiting: requests that wait for their prefill."""

    prefill_chunk: int = 128
    max_waiting: int = 64


@dataclass(frozen=True)
class Snapshot:
    """Counts at one moment. seconds_since_progress: since a token was made or a chunk of a prompt run; at first
    infinite.

    running: answers in slots. waiting: requests accepted that have no answer in a slot yet.
    """

    running: int
    waiting: int
    free_slots: int
    prompt_tokens: int
    completion_tokens: int
    seconds_since_progress: float


class Ticket:
    """A request that was accepted. `cancel` may be called from any thread, at any time, more than once."""

    def __init__(self, request: Request, sink: Sink, answers: list[Answer], wake: Callable[[], None]) -> None:
        self.request, self.sink, self.answers = request, sink, answers
        self.unfinished = self.unstarted = len(answers)
        self.cancelled = False
        self.ended = False
        self.prefix: Prefix | None = None
        self.scores: PromptScores | None = None
        self._wake = wake

    def cancel(self) -> None:
        self.cancelled = True
        self._wake()

    def take_prefix(self) -> Prefix:
        """The prefilled prompt for one answer; let go of with the last, so that running answers hold no second copy."""
        assert self.prefix is not None
        prefix = self.prefix
        self.unstarted -= 1
        if not self.unstarted:
            self.prefix = None
        return prefix

    def emit(self, event: Event) -> None:
        """Pass an event on, and nothing after a terminal one."""
        if self.ended:
            return
        self.ended = isinstance(event, TERMINAL)
        try:
            self.sink(event)
        except Exception:
            log.exception("the receiver of a request's events raised: the request is cancelled")
            self.cancelled = True


class Scheduler:
    """Runs an engine for many callers. It owns the engine from here on: `close` ends every request, then the engine."""

    def __init__(self, engine: Engine, tokenizer: Tokenizer, settings: SchedulerSettings | None = None) -> None:
        self.engine, self.tokenizer = engine, tokenizer
        self.settings = settings or SchedulerSettings()
        self._waiting: deque[Ticket] = deque()
        self._ready: deque[tuple[Ticket, Answer]] = deque()
        self._running: dict[int, tuple[Ticket, Answer]] = {}
        self._free = list(range(engine.slots))
        self._changed = threading.Condition()
        self._closing = False
        self._progress = -math.inf
        self._prompt_tokens = self._completion_tokens = 0
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
        self._thread.start()

    # Called from any thread.

    def submit(self, request: Request, sink: Sink) -> Ticket:
        """Accept a request: `sink` gets its events in the scheduler's thread. Raises Refused."""
        self.check(request)
        answers = [Answer(request, index, self.tokenizer) for index in range(request.n)]
        ticket = Ticket(request, sink, answers, self._wake)
        if request.echo_logprobs:
            ticket.scores = PromptScores(request, self.tokenizer)
        with self._changed:
            if self._closing or not self._thread.is_alive():
                raise Closed("the server is shutting down")
            if len(self._waiting) >= self.settings.max_waiting:
                raise QueueFull(f"{len(self._waiting)} requests are waiting already")
            self._waiting.append(ticket)
            self._changed.notify()
        return ticket

    def check(self, request: Request) -> None:
        """Raises ContextTooLong or BadRequest where the engine could not run it."""
        if not request.prompt:
            raise BadRequest("the prompt is empty")
        if request.max_tokens < 0 or request.n < 1:
            raise BadRequest("max_tokens is at least 0 and n at least 1")
        if len(request.prompt) + request.max_tokens > self.engine.max_len:
            raise ContextTooLong(len(request.prompt), request.max_tokens, self.engine.max_len)
        if not 0 <= min(request.prompt) <= max(request.prompt) < self.engine.vocab_size:
            raise BadRequest(f"the prompt holds a token id outside the vocabulary of {self.engine.vocab_size}")

    def snapshot(self) -> Snapshot:
        with self._changed:
            return Snapshot(
                running=len(self._running),
                waiting=len(self._waiting) + len({id(ticket) for ticket, _ in self._ready}),
                free_slots=len(self._free),
                prompt_tokens=self._prompt_tokens,
                completion_tokens=self._completion_tokens,
                seconds_since_progress=time.monotonic() - self._progress,
            )

    @property
    def idle(self) -> bool:
        with self._changed:
            return not (self._waiting or self._ready or self._running)

    def close(self, timeout: float = 10.0) -> None:
        """Cancel what is left, end the thread, close the engine. Callable more than once."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        self._thread.join(timeout)

    def _wake(self) -> None:
        with self._changed:
            self._changed.notify()

    # The engine's thread.

    def _run(self) -> None:
        while self._wait_for_work():
            for part in (self._sweep, self._prefill, self._fill_slots, self._decode):
                try:
                    part()
                except Exception:
                    # Each part answers for its own requests; what still comes here must not end the loop.
                    log.exception("the scheduler's %s raised", part.__name__)
        self._end_all()

    def _wait_for_work(self) -> bool:
        with self._changed:
            while not (self._closing or self._waiting or self._ready or self._running):
                self._changed.wait()
            return not self._closing

    def _sweep(self) -> None:
        """Drop what was cancelled, and free its slots."""
        for slot, (ticket, _) in list(self._running.items()):
            if ticket.cancelled:
                self._free_slot(slot)
                ticket.emit(Cancelled())
        with self._changed:
            if not any(ticket.cancelled for ticket in (*self._waiting, *(ticket for ticket, _ in self._ready))):
                return
            gone = [ticket for ticket in self._waiting if ticket.cancelled]
            gone += [ticket for ticket, _ in self._ready if ticket.cancelled]
            self._waiting = deque(ticket for ticket in self._waiting if not ticket.cancelled)
            self._ready = deque(pair for pair in self._ready if not pair[0].cancelled)
        for ticket in gone:
            ticket.emit(Cancelled())

    def _prefill(self) -> None:
        """Run one chunk of the first waiting prompt, if a slot will be there for it."""
        with self._changed:
            if not self._waiting or len(self._free) <= len(self._ready):
                return
            ticket = self._waiting[0]
        request = ticket.request
        try:
            tokens = request.prompt if ticket.prefix is None else ()
            ticket.prefix = self.engine.prefill(
                tokens,
                ticket.prefix,
                request.adapter,
                self.settings.prefill_chunk,
                keep_logits=ticket.scores is not None,
            )
            if ticket.scores is not None:
                ticket.scores.add(ticket.prefix.all_logits)
        except Exception as error:
            self._fail(ticket, error)
            return
        self._progress = time.monotonic()
        if not ticket.prefix.pending:
            if ticket.scores is not None:
                ticket.emit(Scored(tuple(ticket.scores.entries)))
            with self._changed:
                self._waiting.popleft()
                self._ready.extend((ticket, answer) for answer in ticket.answers)
                self._prompt_tokens += len(request.prompt)

    def _fill_slots(self) -> None:
        """Start answers whose prompt is prefilled: their first token needs no slot, the next ones do."""
        while self._ready and self._free:
            ticket, answer = self._ready.popleft()
            prefix = ticket.take_prefix()
            try:
                self._accept(ticket, answer, prefix.logits)
                if answer.finish_reason is None:
                    self.engine.insert(prefix, self._free[-1])
                    with self._changed:
                        self._running[self._free.pop()] = (ticket, answer)
            except Exception as error:
                self._fail(ticket, error)

    def _decode(self) -> None:
        """Feed every running answer its last token, all in one step."""
        if not self._running:
            return
        try:
            lines = self.engine.step({slot: (answer.last,) for slot, (_, answer) in self._running.items()})
        except Exception as error:
            # Nobody can tell whose fault it was, nor what the rows hold now.
            for ticket in {id(ticket): ticket for ticket, _ in self._running.values()}.values():
                self._fail(ticket, error)
            return
        for slot, (ticket, answer) in list(self._running.items()):
            if slot not in self._running:
                continue  # its request failed with an earlier row of this step
            try:
                self._accept(ticket, answer, lines[slot][-1])
            except Exception as error:
                self._fail(ticket, error)
                continue
            if answer.finish_reason is not None:
                self._free_slot(slot)

    def _accept(self, ticket: Ticket, answer: Answer, logits: Logits | None) -> None:
        if logits is None:
            raise RuntimeError("the engine gave no logits")
        before = answer.count
        delta = answer.accept(logits)
        self._progress = time.monotonic()
        self._completion_tokens += answer.count - before
        if delta is not None:
            ticket.emit(delta)
        if answer.finish_reason is not None:
            ticket.unfinished -= 1
            if not ticket.unfinished:
                ticket.emit(Done(len(ticket.request.prompt), sum(one.count for one in ticket.answers)))

    def _fail(self, ticket: Ticket, error: Exception) -> None:
        """End one request with an error, wherever it is, and free its slots."""
        log.error("a request failed: %s: %s", type(error).__name__, error, exc_info=error)
        self._withdraw(ticket)
        ticket.emit(Failed(error))

    def _withdraw(self, ticket: Ticket) -> None:
        with self._changed:
            self._waiting = deque(one for one in self._waiting if one is not ticket)
            self._ready = deque(pair for pair in self._ready if pair[0] is not ticket)
        for slot in [slot for slot, (one, _) in self._running.items() if one is ticket]:
            self._free_slot(slot)

    def _free_slot(self, slot: int) -> None:
        """A slot that the engine does not give back is lost, and said so; the others go on."""
        with self._changed:
            del self._running[slot]
        try:
            self.engine.release(slot)
        except Exception:
            log.exception("slot %d could not be released", slot)
            return
        with self._changed:
            self._free.append(slot)

    def _end_all(self) -> None:
        with self._changed:
            tickets = [*self._waiting, *(ticket for ticket, _ in self._ready)]
            self._waiting.clear()
            self._ready.clear()
        tickets += [ticket for ticket, _ in self._running.values()]
        for slot in list(self._running):
            self._free_slot(slot)
        for ticket in tickets:
            ticket.emit(Cancelled())
        self.engine.close()
