"""One HTTP call's requests as they go through the response cache: a `Backend` before the one that makes what is missing.

Each request is answered from this process' store, joins what is being made, leads a flight of its own, or passes by (see
`caching.response`). Keys are computed before anything runs: a request that has none ends the call and leaves nothing.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from tradewind.caching.codec import Answer
from tradewind.caching.directives import Directives
from tradewind.caching.flight import Flight, Seat
from tradewind.caching.key import key_of, reproducible
from tradewind.caching.response import Asked, Outcome, ResponseCache, Work
from tradewind.engine.backend import Backend, Cancellable, Layer
from tradewind.engine.requests import Request, Sink

RANKED: tuple[Outcome, ...] = ("miss", "bypass", "coalesced", "hit")
"""A call of several prompts is called by the first of these that one of them is."""


def worst(asked: Sequence[Asked]) -> Outcome:
    """What a call of several prompts is said to be."""
    return next(one for one in RANKED if any(its.outcome == one for its in asked))


class Submitted(Protocol):
    """What goes to the backend now, and is told how that went."""

    @property
    def request(self) -> Request: ...
    @property
    def sink(self) -> Sink: ...
    def runs_as(self, ticket: Cancellable) -> None: ...
    def refused(self) -> None: ...
    def cancel(self) -> None: ...


@dataclass
class Passing:
    """A request without a key."""

    request: Request
    sink: Sink
    ticket: Cancellable | None = None

    def runs_as(self, ticket: Cancellable) -> None:
        self.ticket = ticket

    def refused(self) -> None:
        """Nothing is left of it."""

    def cancel(self) -> None:
        if self.ticket is not None:
            self.ticket.cancel()


class Leading:
    """A flight that begins with its submission."""

    def __init__(self, cache: ResponseCache, work: Work, flight: Flight) -> None:
        self.cache, self.work, self.flight = cache, work, flight
        self.request, self.sink = work.request, flight.publish

    def runs_as(self, ticket: Cancellable) -> None:
        self.cache.observer.looked_up("miss", "", None, 0.0)
        self.flight.runs_as(ticket)

    def refused(self) -> None:
        self.cache.abandon(self.work, self.flight)

    def cancel(self) -> None:
        """By its seats."""


class CachedCall(Layer):
    """A `Backend` for one call. streams: whether it cares for the pieces of an answer. What became of its requests, in
    `asked`, is known with the first event of each."""

    def __init__(
        self, cache: ResponseCache, backend: Backend, identity: str, directives: Directives, streams: bool = True
    ) -> None:
        super().__init__(backend)
        self.cache, self.identity, self.directives, self.streams = cache, identity, directives, streams
        self.asked: list[Asked] = []
        self._own: list[Submitted] = []

    def knows(self, request: Request) -> bool:
        """Whether its answer is kept in this process."""
        if self._bypasses(request) or self.directives.no_cache:
            return False
        return self.cache.holds(self._key(request), self.directives.max_age)

    def _key(self, request: Request) -> bytes:
        return key_of(replace(request, tenant="") if self.cache.rules.shared_by_tenants else request, self.identity)

    def submit_all(self, calls: Sequence[tuple[Request, Sink]]) -> Sequence[Cancellable]:
        """What is here is told at once. Raises what the backend raises for what is not, Refused most often: then nothing
        runs. With a shared store that is asked first, and a refusal is then the request's own end."""
        reasons = [self._bypasses(request) for request, _ in calls]
        keys = [b"" if why else self._key(request) for (request, _), why in zip(calls, reasons, strict=True)]
        tickets: list[Cancellable] = []
        try:
            for (request, sink), key, why in zip(calls, keys, reasons, strict=True):
                tickets.append(self._take(request, sink, key) if key else self._pass(request, sink, why))
            made = self.backend.submit_all([(one.request, one.sink) for one in self._own]) if self._own else ()
        except BaseException:
            for one in self._own:
                one.refused()
            for ticket in tickets:
                ticket.cancel()
            self._own = []
            raise
        own, self._own = self._own, []
        for one, ticket in zip(own, made, strict=True):
            one.runs_as(ticket)
        return tickets

    def _pass(self, request: Request, sink: Sink, why: str) -> Cancellable:
        self.asked.append(Asked("bypass"))
        self.cache.observer.looked_up("bypass", why, None, 0.0)
        passing = Passing(request, sink)
        self._own.append(passing)
        return passing

    def _take(self, request: Request, sink: Sink, key: bytes) -> Cancellable:
        """Answer, join, or note what is to be submitted."""
        cache, asked, seat = self.cache, Asked(key=key), Seat(request, sink)
        self.asked.append(asked)
        look = not self.directives.no_cache
        if look:
            answer, anew = cache.find(key, self.directives.max_age)
            if answer is not None:
                self._give(answer, seat, asked)
                return seat
            if self._joined(key, seat, asked):
                return seat
            look = not anew  # the shared store has what is to be made anew
        work = Work(key, self.backend, replace(request, deadline=None), asked, cache.clock())
        flight = cache.lead(work, seat)
        if cache.shared is not None:
            cache.resolve(work, flight, self.directives.max_age, look)
        else:
            self._own.append(Leading(cache, work, flight))
        return seat

    def _give(self, answer: Answer, seat: Seat, asked: Asked) -> None:
        asked.outcome, asked.age_s = "hit", self.cache.age(answer)
        self.cache.observer.looked_up("hit", "local", answer, asked.age_s)
        for event in answer.events if self.streams else answer.whole:
            seat.sink(event)

    def _joined(self, key: bytes, seat: Seat, asked: Asked) -> bool:
        flight = self.cache.flight(key)
        if flight is None or seat.request.priority < flight.priority or not flight.join(seat):
            return False
        asked.outcome = "coalesced"
        self.cache.observer.looked_up("coalesced", "here", None, 0.0)
        return True

    def _bypasses(self, request: Request) -> str:
        if self.directives.no_store:
            return "no-store"
        if not reproducible(request):
            return "sampled"
        return "resumed" if request.resumed else ""
