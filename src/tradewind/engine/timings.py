"""When things happened to one request, and what an observer is told of it at its end.

The life of a `Clock`: made at acceptance; `prompt_begun` and `prompt_done` around the prefill; `tokens` for each
arrival of an answer's tokens; `timings` once, at the terminal event. All times are of `time.monotonic`, in seconds. It
knows no engine and no metric system.
"""

import time
from dataclasses import dataclass, field
from typing import Literal, Protocol

from tradewind.engine.requests import Request

Outcome = Literal["stop", "length", "error", "cancelled", "deadline"]


@dataclass(frozen=True)
class RequestTimings:
    """A request that was accepted and has ended, in whatever way.

    cached_tokens: of the prompt, not run again. finish_reason: `length` where one of the answers ended so, else `stop`;
    or how the request ended without finishing. queued_s: acceptance to the first chunk of its prompt. prefill_s: from
    there to the last chunk. ttft_s: acceptance to the first token of any answer. decode_s: first to last token.
    e2e_s: acceptance to the terminal event. inter_token_s: between two arrivals of tokens of one answer; tokens that
    one step accepted together are one arrival. Parts never reached count 0.
    """

    tenant: str
    priority: int
    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int
    finish_reason: Outcome
    queued_s: float
    prefill_s: float
    ttft_s: float | None
    decode_s: float
    e2e_s: float
    inter_token_s: list[float]
    n: int
    max_tokens: int


class Observer(Protocol):
    """Called once for each accepted request, in the scheduler's thread, after its terminal event: must return at once.
    What it raises is logged and forgotten.
    """

    def __call__(self, timings: RequestTimings) -> None: ...


@dataclass
class Clock:
    accepted: float = field(default_factory=time.monotonic)
    begun: float | None = None
    prefilled: float | None = None
    first: float | None = None
    gaps: list[float] = field(default_factory=list)
    _last: dict[int, float] = field(default_factory=dict)

    def prompt_begun(self) -> None:
        self.begun = time.monotonic()

    def prompt_done(self) -> None:
        self.prefilled = time.monotonic()

    def tokens(self, answer: int) -> None:
        """Tokens of this answer arrived."""
        now = time.monotonic()
        if self.first is None:
            self.first = now
        if answer in self._last:
            self.gaps.append(now - self._last[answer])
        self._last[answer] = now

    def timings(self, request: Request, outcome: Outcome, cached: int, completed: int) -> RequestTimings:
        end = time.monotonic()
        begun = self.begun if self.begun is not None else end
        return RequestTimings(
            tenant=request.tenant,
            priority=request.priority,
            prompt_tokens=len(request.prompt),
            cached_tokens=cached,
            completion_tokens=completed,
            finish_reason=outcome,
            queued_s=begun - self.accepted,
            prefill_s=(self.prefilled if self.prefilled is not None else end) - begun,
            ttft_s=None if self.first is None else self.first - self.accepted,
            decode_s=0.0 if self.first is None else max(self._last.values()) - self.first,
            e2e_s=end - self.accepted,
            inter_token_s=self.gaps,
            n=request.n,
            max_tokens=request.max_tokens,
        )
