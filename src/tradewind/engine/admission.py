"""Whether a request can be run at all, and how long it would wait for its prefill to begin.

The latter is estimated from what the engine was measured to do:

    wait = tokens / prefill rate  +  turns * step  +  slots short * hold / slots

tokens: of the prompts ahead, the rest of the one being prefilled included, times the share of prompts that is not found
in the prefix cache (what is cached of one is known only when it starts). turns: tokens / chunk, rounded up, where
answers are running: each chunk then shares its turn with a decode step. slots short: answers ahead, plus one for this
request, minus free slots, at least 0; hold: seconds an answer keeps its slot (Little's law: `slots` of them end every
`hold`). Rates and times are moving averages; the rate is one of sums, so that many short chunks do not outvote the long
ones. The request's own prefill is not in it, as a refusal cannot shorten that; the goal for the first token leaves so much
less time to wait, but half of it at least, or a long prompt would never be taken on a busy server.

It knows no queue.
"""

import logging
import math
import time
from dataclasses import dataclass
from typing import Protocol

from tradewind.engine.contract import Engine
from tradewind.engine.requests import BadRequest, ContextTooLong, QueueFull, Request

log = logging.getLogger(__name__)

KEPT = 0.9
"""Share of a moving average that an observation leaves as it was."""
LEAST_RETRY = 0.1
"""Seconds."""


class Sizes(Protocol):
    """Of an engine."""

    @property
    def max_len(self) -> int: ...
    @property
    def vocab_size(self) -> int: ...


def check(request: Request, engine: Sizes) -> None:
    """Raises ContextTooLong or BadRequest where the engine could not run it."""
    if not request.prompt:
        raise BadRequest("the prompt is empty")
    if request.max_tokens < 0 or request.n < 1:
        raise BadRequest("max_tokens is at least 0 and n at least 1")
    if request.resumed and (request.n > 1 or len(request.resumed) >= request.max_tokens):
        raise BadRequest("an answer is resumed alone, and before its last token")
    if request.prompt_logprobs is not None and request.prompt_logprobs < 0:
        raise BadRequest("prompt_logprobs is at least 0")
    if len(request.prompt) + request.max_tokens > engine.max_len:
        raise ContextTooLong(len(request.prompt), request.max_tokens, engine.max_len)
    if not 0 <= min(request.known) <= max(request.known) < engine.vocab_size:
        raise BadRequest(f"the prompt holds a token id outside the vocabulary of {engine.vocab_size}")


@dataclass(frozen=True)
class Ahead:
    """What is before a request: tokens of prompts, answers without a slot, free slots, whether answers are running."""

    tokens: int
    answers: int
    free: int
    running: bool


class Load:
    """Moving averages, and the estimate from them: 0 of what was never observed."""

    def __init__(self, slots: int, chunk: int) -> None:
        self.slots, self.chunk = slots, chunk
        self.step: float | None = None
        self.hold: float | None = None
        self._tokens = self._seconds = 0.0
        self._new = self._asked = 0.0

    @property
    def prefill_rate(self) -> float | None:
        """Prompt tokens a second; None before the first observation."""
        return self._tokens / self._seconds if self._seconds else None

    @property
    def new_share(self) -> float:
        """Of the tokens of recent prompts, the share that had to be run."""
        return self._new / self._asked if self._asked else 1.0

    def found(self, cached: int, tokens: int) -> None:
        """A prompt of `tokens` starts, of which so many are cached."""
        self._new = KEPT * self._new + tokens - cached
        self._asked = KEPT * self._asked + tokens

    def prefilled(self, tokens: int, seconds: float) -> None:
        self._tokens = KEPT * self._tokens + tokens
        self._seconds = KEPT * self._seconds + seconds

    def stepped(self, seconds: float) -> None:
        self.step = _average(self.step, seconds)

    def held(self, seconds: float) -> None:
        self.hold = _average(self.hold, seconds)

    def measure(self, engine: Engine) -> None:
        """One chunk, the second one, so that the first refusals rest on a measurement and not on a compilation."""
        tokens = min(self.chunk, engine.max_len)
        try:
            engine.prefill([0] * tokens)
            start = time.monotonic()
            engine.prefill([0] * tokens)
            self.prefilled(tokens, time.monotonic() - start)
        except Exception:
            log.exception("the speed of prefill could not be measured")

    def admit(self, ahead: Ahead, tokens: int, goal: float, waiting: int, full: bool) -> None:
        """Raises QueueFull for a request of so many prompt tokens that would wait too long, or where as many are `waiting`
        before it as may."""
        wait, longest = self.wait(ahead), self.longest(goal, tokens)
        later = max(LEAST_RETRY, wait - longest)
        if full:
            raise QueueFull(f"{waiting} requests are waiting already", later)
        if wait > longest:
            message = (
                f"the prompt would wait {wait:.1f} s to be run, more than the {longest:.1f} s that its goal leaves"
            )
            raise QueueFull(message, later)

    def longest(self, goal: float, tokens: int) -> float:
        """Seconds that a request with so many prompt tokens may wait, given the goal for its first token; 0: any time."""
        if not goal:
            return math.inf
        own = self.new_share * tokens / self.prefill_rate if self.prefill_rate else 0.0
        return max(goal / 2, goal - own)

    def wait(self, ahead: Ahead) -> float:
        """Seconds; see the module's formula."""
        tokens = self.new_share * ahead.tokens
        prefill = tokens / self.prefill_rate if self.prefill_rate else 0.0
        turns = math.ceil(tokens / self.chunk) if ahead.running else 0
        short = max(0, ahead.answers + 1 - ahead.free)
        return prefill + turns * (self.step or 0.0) + short * (self.hold or 0.0) / self.slots


def _average(before: float | None, seen: float) -> float:
    return seen if before is None else KEPT * before + (1 - KEPT) * seen
