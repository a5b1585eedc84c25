"""A backend whose answers are told by hand, and a cache over it with a clock that is set by hand."""

import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from tradewind.caching.call import CachedCall
from tradewind.caching.codec import Answer
from tradewind.caching.directives import Directives
from tradewind.caching.memory import LocalStore
from tradewind.caching.response import CacheRules, ResponseCache
from tradewind.caching.shared import Shared
from tradewind.engine.requests import TERMINAL, Cancelled, Delta, Done, Event, Failed, QueueFull, Request, Sink
from tradewind.engine.sampling import SamplingParams

GREEDY = SamplingParams(temperature=0)


class Clock:
    """Seconds."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@dataclass
class Running:
    """One generation: `step` tells its next event, `fail` ends it."""

    request: Request
    sink: Sink
    told: int = 0
    ended: bool = False

    @cached_property
    def truth(self) -> tuple[Event, ...]:
        return truth(self.request)

    def step(self) -> None:
        if not self.ended:
            event = self.truth[self.told]
            self.told += 1
            self._tell(event)

    def finish(self) -> None:
        while not self.ended:
            self.step()

    def fail(self) -> None:
        if not self.ended:
            self._tell(Failed(RuntimeError("the engine")))

    def cancel(self) -> None:
        if not self.ended:
            self._tell(Cancelled())

    def _tell(self, event: Event) -> None:
        self.ended = isinstance(event, TERMINAL)
        self.sink(event)


def truth(request: Request) -> tuple[Event, ...]:
    """What a request's answer is: its tokens, one after the other, each with the name of who asked."""
    deltas = [
        Delta(0, f"{request.tenant}{token} ", 1, (), "stop" if place == len(request.prompt) - 1 else None, (token,))
        for place, token in enumerate(request.prompt)
    ]
    return (*deltas, Done(len(request.prompt), len(deltas)))


@dataclass
class Hand:
    """A `Backend`. room: how many requests it takes. broken: it fails at the door, which no backend should."""

    room: int = 10_000
    broken: bool = False
    running: list[Running] = field(default_factory=list)
    engine: Any = None
    idle: bool = True

    def submit_all(self, calls: Sequence[tuple[Request, Sink]]) -> Sequence[Running]:
        if self.broken:
            raise RuntimeError("the backend")
        if sum(not one.ended for one in self.running) + len(calls) > self.room:
            raise QueueFull("full")
        made = [Running(request, sink) for request, sink in calls]
        self.running += made
        return made

    def snapshot(self) -> Any:
        raise NotImplementedError

    def close(self) -> None:
        raise NotImplementedError


@dataclass
class Told:
    """An `Observer` that remembers."""

    outcomes: list[tuple[str, str]] = field(default_factory=list)
    stored: list[bool] = field(default_factory=list)

    def looked_up(self, outcome: str, why: str, saved: Answer | None, age_s: float) -> None:
        self.outcomes.append((outcome, why))

    def kept(self, stored: bool) -> None:
        self.stored.append(stored)


class Lab:
    """Must be made in a running loop, or before one."""

    def __init__(self, shared: Shared | None = None, budget: int = 1 << 20, **rules: Any) -> None:
        self.clock, self.hand, self.told = Clock(), Hand(), Told()
        rules = {"jitter": 0.0, "refresh": 0.0} | rules
        local = LocalStore(budget, "lru", self.clock)
        self.cache = ResponseCache(local, CacheRules(**rules), self.told, shared, self.clock, random.Random(0))

    def ask(self, *prompts: Sequence[int], header: str = "", **given: Any) -> "Asking":
        requests = [Request(tuple(prompt), 64, **({"sampling": GREEDY} | given)) for prompt in prompts]
        return Asking(CachedCall(self.cache, self.hand, "model", Directives.of(header)), requests)


class Asking:
    """A call, and what it was told."""

    def __init__(self, call: CachedCall, requests: Sequence[Request]) -> None:
        self.call, self.events = call, [list[Event]() for _ in requests]
        self.tickets = call.submit_all(
            [(request, events.append) for request, events in zip(requests, self.events, strict=True)]
        )

    @property
    def outcomes(self) -> list[str]:
        return [one.outcome for one in self.call.asked]

    @property
    def told_at_once(self) -> bool:
        return all(events and isinstance(events[-1], Done) for events in self.events)

    def leave(self) -> None:
        for ticket in self.tickets:
            ticket.cancel()
