"""A request that was accepted, from then to its terminal event: what of it is done, and what its caller was told.

It knows no engine, slot or queue. All but `cancel` is the scheduler's, in the scheduler's thread.
"""

import logging
from collections.abc import Callable

from tradewind.engine.answer import Answer
from tradewind.engine.contract import Prefix
from tradewind.engine.requests import TERMINAL, Cancelled, DeadlineExceeded, Done, Event, Failed, Request, Sink
from tradewind.engine.scoring import PromptScorer
from tradewind.engine.timings import Clock, Outcome, RequestTimings

log = logging.getLogger(__name__)


class Ticket:
    """`cancel` may be called from any thread, at any time, more than once."""

    def __init__(self, request: Request, sink: Sink, answers: list[Answer], wake: Callable[[], None]) -> None:
        self.request, self.sink, self.answers = request, sink, answers
        self.unfinished = self.unstarted = len(answers)
        self.cancelled = False
        self.ended = False
        self.prefix: Prefix | None = None
        self.scorer: PromptScorer | None = None
        self.clock = Clock()
        self.cached = self.accepted = self.rejected = 0
        self._wake = wake

    def cancel(self) -> None:
        self.cancelled = True
        self._wake()

    def late(self, now: float) -> bool:
        return self.request.deadline is not None and now >= self.request.deadline

    @property
    def prefilled(self) -> bool:
        return self.prefix is not None and not self.prefix.pending

    @property
    def to_run(self) -> int:
        """Tokens of its prompt that were not run yet."""
        return self.request.length if self.prefix is None else len(self.prefix.pending)

    def goes_first(self, request: Request) -> bool:
        """Whether all its answers start before that request: of its own tenant, or more urgent."""
        return self.request.tenant == request.tenant or self.request.priority < request.priority

    def take_answer(self) -> tuple[Answer, Prefix]:
        """The next answer and its prefilled prompt; that is let go of with the last, so that running answers hold no
        second copy.
        """
        assert self.prefix is not None
        answer, prefix = self.answers[-self.unstarted], self.prefix
        self.unstarted -= 1
        if not self.unstarted:
            self.prefix = None
        return answer, prefix

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

    @property
    def sampled(self) -> int:
        return sum(answer.count for answer in self.answers)

    @property
    def done(self) -> Done:
        prompt = len(self.request.prompt)
        return Done(prompt, self.sampled, min(self.cached, prompt), self.accepted, self.rejected)

    def timings(self, event: Event) -> RequestTimings:
        """At the end; `event` is the terminal one."""
        return self.clock.timings(self.request, self._outcome(event), self.cached, self.sampled)

    def _outcome(self, event: Event) -> Outcome:
        if isinstance(event, Cancelled):
            return "cancelled"
        if isinstance(event, Failed):
            return "deadline" if isinstance(event.error, DeadlineExceeded) else "error"
        scored = not self.request.max_tokens
        return "length" if scored or any(answer.finish_reason == "length" for answer in self.answers) else "stop"
