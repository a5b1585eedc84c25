"""How long a request would wait for its prefill to begin, estimated from what the engine was measured to do.

    wait = tokens / prefill rate  +  turns * step  +  slots short * hold / slots

tokens: of the prompts ahead, the rest of the one being prefilled included (cached parts too: they are found only when a
prompt starts). turns: tokens / chunk, rounded up, where answers are running: each chunk then shares its turn with a
decode step. slots short: answers ahead, plus one for this request, minus free slots, at least 0; hold: seconds an answer
keeps its slot (Little's law: `slots` of them end every `hold`). Rates and times are moving averages; the rate is one of
sums, so that many short chunks do not outvote the long ones. The request's own prefill is not in it: a refusal cannot
shorten that, and a long prompt would then never be taken on a busy server.

It knows no requests and no clock.
"""

import math
from dataclasses import dataclass

KEPT = 0.9
"""Share of a moving average that an observation leaves as it was."""


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

    @property
    def prefill_rate(self) -> float | None:
        """Prompt tokens a second; None before the first observation."""
        return self._tokens / self._seconds if self._seconds else None

    def prefilled(self, tokens: int, seconds: float) -> None:
        self._tokens = KEPT * self._tokens + tokens
        self._seconds = KEPT * self._seconds + seconds

    def stepped(self, seconds: float) -> None:
        self.step = _average(self.step, seconds)

    def held(self, seconds: float) -> None:
        self.hold = _average(self.hold, seconds)

    def wait(self, ahead: Ahead) -> float:
        """Seconds; see the module's formula."""
        prefill = ahead.tokens / self.prefill_rate if self.prefill_rate else 0.0
        turns = math.ceil(ahead.tokens / self.chunk) if ahead.running else 0
        short = max(0, ahead.answers + 1 - ahead.free)
        return prefill + turns * (self.step or 0.0) + short * (self.hold or 0.0) / self.slots


def _average(before: float | None, seen: float) -> float:
    return seen if before is None else KEPT * before + (1 - KEPT) * seen
