"""What one HTTP call used: its tokens, when they came, and why its answers ended.

The life of a meter: the middleware makes it before the body is read and keeps it in the call's scope; `Generation` has
it admit the prompts and tells it every event; when the call is over, limits are settled and traces written from it.
Where there is no middleware (a bare `Generation` in a test), a fresh meter admits everything.
"""

import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field

from starlette.types import Scope

from tradewind.engine.requests import Delta, Done, Event, Failed, Refused, Request
from tradewind.serving.keys import ANONYMOUS, Principal

Admit = Callable[[int], Awaitable[None]]
"""Takes prompt tokens from the caller's limits, or raises ApiError."""


async def admit_all(tokens: int) -> None:
    """No limit."""


@dataclass
class Meter:
    """Times are of the monotonic clock, in seconds. Tokens are summed over the call's prompts and answers. model: the one
    asked, once it is known to be served. embedded: tokens of texts that become vectors.
    """

    principal: Principal = ANONYMOUS
    model: str | None = None
    admit: Admit = admit_all
    started: float = field(default_factory=time.monotonic)
    requests: Sequence[Request] = ()
    first_token: float | None = None
    last_token: float | None = None
    finish_reasons: list[str] = field(default_factory=list)
    admitted: int = 0
    embedded: int = 0
    _completion: dict[int, int] = field(default_factory=dict)
    _refused: set[int] = field(default_factory=set)

    @classmethod
    def of(cls, scope: Scope) -> "Meter":
        """The call's meter, made where there is none yet."""
        meter = scope.setdefault("state", {}).setdefault("meter", cls())
        assert isinstance(meter, Meter)
        return meter

    @property
    def prompt_tokens(self) -> int:
        return self.embedded + sum(
            len(one.prompt) for place, one in enumerate(self.requests) if place not in self._refused
        )

    @property
    def completion_tokens(self) -> int:
        return sum(self._completion.values())

    @property
    def unsettled(self) -> int:
        """Tokens used beyond those admitted; negative where the scheduler refused what the limits had admitted."""
        return self.prompt_tokens + self.completion_tokens - self.admitted

    async def begin(self, requests: Sequence[Request]) -> None:
        """Before submission. Raises ApiError where the caller's limits do not allow these prompts."""
        tokens = sum(len(one.prompt) for one in requests)
        await self.admit(tokens)
        self.admitted += tokens

    async def embed(self, tokens: int) -> None:
        """Before texts of so many tokens become vectors. Raises ApiError where the caller's limits do not allow it."""
        await self.admit(tokens)
        self.admitted += tokens
        self.embedded += tokens

    def accepted(self, requests: Sequence[Request]) -> int:
        """After submission. Gives the place of the first of them among the call's requests."""
        first = len(self.requests)
        self.requests = [*self.requests, *requests]
        return first

    def record(self, place: int, event: Event) -> None:
        """An event of request `place`. `Done` knows the count better: it has the tokens that gave no delta."""
        if isinstance(event, Delta):
            self.last_token = time.monotonic()
            self.first_token = self.first_token or self.last_token
            self._completion[place] = self._completion.get(place, 0) + event.tokens
            if event.finish_reason is not None:
                self.finish_reasons.append(str(event.finish_reason))
        elif isinstance(event, Done):
            self._completion[place] = event.completion_tokens
        elif isinstance(event, Failed):
            self.finish_reasons.append("error")
            if isinstance(event.error, Refused):
                self._refused.add(place)
