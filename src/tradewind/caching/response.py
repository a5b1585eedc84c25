"""Answers given again: a cache in front of whoever runs the requests, and one generation for all who ask the same at once.

The life of a request here:
1. One that asks for no store, or whose answer is not reproducible, passes through: `bypass`.
2. Its key (see `caching.key`) holds the tenant, so that none sees another's. An answer that is kept is given as it
   came, event for event: `hit`.
3. If the same is being generated in this process it joins that: `coalesced`. A more urgent one than that does not.
4. Else it leads. With a shared store it first asks there, in one round trip: an answer is a `hit`; a lease of another
   process means to wait for what that one makes (`coalesced`), or for its end, and then to lead.
5. It is submitted (`miss`); a lease is renewed as long as it runs. Only whole answers are kept, after they were given.
   Near the end of its time an answer is now and then made anew, so that not all ask for it when it is gone (XFetch,
   Vattani et al. 2015).

A flight runs without its leader's deadline, as others may have joined: each call's own deadline is the server's.
A store that fails never fails a request: see `caching.shared`. All is called in one event loop, but for the engine's own
events. Not covered: answers that begin alike, partial streams to other processes, deletion of single answers.
"""

import asyncio
import math
import random
import secrets
import time
from collections import OrderedDict
from collections.abc import Callable, Coroutine, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any, Literal, Protocol

from tradewind.caching.codec import Answer, BadValue, pack, unpack
from tradewind.caching.directives import Directives
from tradewind.caching.flight import Flight, Seat
from tradewind.caching.key import key_of, reproducible
from tradewind.caching.memory import LocalStore
from tradewind.caching.shared import Lease, Shared
from tradewind.engine.requests import Failed, Refused, Request, Sink
from tradewind.serving.backend import Backend, Cancellable, Layer

Outcome = Literal["hit", "miss", "coalesced", "bypass"]
RANKED: tuple[Outcome, ...] = ("miss", "bypass", "coalesced", "hit")
"""A call of several prompts is called by the first of these that one of them is."""
READ = 64
"""Answers held ready beside the store's bytes: of 64 tokens each they take some 2 MB."""
POLL_S, WAIT_S = 0.03, 60.0
"""Between two looks at what another process makes, and how long at most; then it is made here too."""


def anchored() -> Callable[[], float]:
    """Seconds since 1970 by the clock as it was at the start: setting it later makes nothing older or younger."""
    begin = time.time() - time.monotonic()
    return lambda: begin + time.monotonic()


@dataclass
class Asked:
    """What became of one request. age_s: of a kept answer."""

    outcome: Outcome = "miss"
    age_s: float = 0.0
    key: bytes = b""


def worst(asked: Sequence[Asked]) -> Outcome:
    """What a call of several prompts is said to be."""
    return next(one for one in RANKED if any(its.outcome == one for its in asked))


class Observer(Protocol):
    """Told of each request once; saved: the answer that was not made again. why: of a bypass, or the tier of a hit."""

    def looked_up(self, outcome: Outcome, why: str, saved: Answer | None, age_s: float) -> None: ...
    def kept(self, stored: bool) -> None: ...


@dataclass(frozen=True)
class CacheRules:
    """ttl_s: that an answer is kept, less up to the share `jitter` of it. shared_by_tenants: one answer for all of them."""

    ttl_s: float = 3600.0
    jitter: float = 0.1
    refresh: float = 1.0
    """XFetch's beta: larger refreshes earlier; 0 never."""
    shared_by_tenants: bool = False


@dataclass
class Work:
    """What leads to one generation."""

    key: bytes
    backend: Backend
    request: Request
    asked: Asked
    begun: float
    lease: Lease | None = None


class ResponseCache:
    """local: this process' answers; shared: those of all, behind it."""

    def __init__(
        self,
        local: LocalStore,
        rules: CacheRules,
        observer: Observer,
        shared: Shared | None = None,
        clock: Callable[[], float] | None = None,
        chance: random.Random | None = None,
    ) -> None:
        self.local, self.rules, self.observer, self.shared = local, rules, observer, shared
        self.clock = clock or anchored()
        self._chance = chance or random.Random()
        self._flights: dict[bytes, Flight] = {}
        self._read: OrderedDict[bytes, tuple[bytes, Answer]] = OrderedDict()
        self._lookups: set[asyncio.Task[None]] = set()
        self._writes: set[asyncio.Task[None]] = set()

    def call(self, backend: Backend, identity: str, directives: Directives, streams: bool = True) -> "CachedCall":
        """A backend for the requests of one HTTP call. streams: whether it cares for the pieces of an answer."""
        return CachedCall(self, backend, identity, directives, streams)

    async def close(self) -> None:
        """What is being written is written first; who waits for another process does so no more."""
        for task in self._lookups:
            task.cancel()
        await asyncio.gather(*self._lookups, *self._writes, return_exceptions=True)
        if self.shared is not None:
            await self.shared.close()

    def find(self, key: bytes, max_age: int | None) -> Answer | None:
        """Kept here, and not to be made anew."""
        entry = self.local.get(key)
        if entry is None:
            return None
        answer = self._unpacked(key, entry.value)
        left = entry.expires - self.local.now()
        return answer if self._serves(answer, left, max_age) else None

    def _unpacked(self, key: bytes, value: bytes) -> Answer:
        """Popular ones are not read again."""
        held = self._read.get(key)
        if held is None or held[0] is not value:
            held = value, unpack(value)
        self._read[key] = held
        self._read.move_to_end(key)
        if len(self._read) > READ:
            self._read.popitem(last=False)
        return held[1]

    def _serves(self, answer: Answer, left: float, max_age: int | None) -> bool:
        if max_age is not None and self.age(answer) > max_age:
            return False
        return answer.seconds * self.rules.refresh * -math.log(1.0 - self._chance.random()) < left

    def age(self, answer: Answer) -> float:
        return max(0.0, self.clock() - answer.stored)

    def flight(self, key: bytes) -> Flight | None:
        return self._flights.get(key)

    def lead(self, work: Work, seat: Seat) -> Flight:
        """A flight with its leader in it, which others find from now on."""
        loop = asyncio.get_running_loop()

        def over(flight: Flight, again: Sequence[Seat]) -> None:
            with suppress(RuntimeError):  # of a closed loop: nobody asks again, nothing is kept
                loop.call_soon_threadsafe(self._over, work, flight, again)

        flight = Flight(work.request.priority, over)
        seat.leads = True
        flight.join(seat)
        flight.instead_of = _flying(self._flights.get(work.key))
        self._flights[work.key] = flight
        return flight

    def abandon(self, work: Work, flight: Flight) -> None:
        if self._flights.get(work.key) is flight:
            del self._flights[work.key]
            if (before := _flying(flight.instead_of)) is not None:
                self._flights[work.key] = before
        if work.lease is not None and self.shared is not None:
            _spawn(self.shared.release(work.lease), self._writes)
            work.lease = None

    def resolve(self, work: Work, flight: Flight, max_age: int | None, look: bool) -> None:
        """Ask the shared store first (`look`), and submit where that has no answer."""
        _spawn(self._resolved(work, flight, max_age, look), self._lookups)

    async def _resolved(self, work: Work, flight: Flight, max_age: int | None, look: bool) -> None:
        assert self.shared is not None
        if look and await self._fetched(self.shared, work, flight, max_age):
            return
        if flight.left:
            self.abandon(work, flight)
            return
        self._submit(work, flight)
        while work.lease is not None and not flight.ended:
            await asyncio.sleep(self.shared.lease_s / 3)
            if work.lease is not None and not flight.ended:
                await self.shared.extend(work.lease)

    async def _fetched(self, shared: Shared, work: Work, flight: Flight, max_age: int | None) -> bool:
        """Whether the shared store answered; otherwise this process may make the answer, mostly with a lease."""
        token, waited, latest = secrets.token_hex(16), False, time.monotonic() + WAIT_S
        while not flight.left and time.monotonic() < latest:
            found = await shared.fetch(work.key, token, work.request.priority)
            if found.value is not None:
                return self._given(found.value, found.left_s, work, flight, max_age, waited)
            work.lease = found.lease
            if not found.busy:
                return False
            waited = True
            await asyncio.sleep(POLL_S)
        return False

    def _given(
        self, value: bytes, left_s: float, work: Work, flight: Flight, max_age: int | None, waited: bool
    ) -> bool:
        try:
            answer = unpack(value)
        except BadValue:
            return False
        if not waited and not self._serves(answer, left_s, max_age):
            return False
        work.asked.outcome, work.asked.age_s = ("coalesced", 0.0) if waited else ("hit", self.age(answer))
        self.observer.looked_up(work.asked.outcome, "elsewhere" if waited else "shared", answer, work.asked.age_s)
        self.local.put(work.key, value, left_s)
        flight.fetched = True
        for event in answer.events:
            flight.publish(event)
        return True

    def _submit(self, work: Work, flight: Flight) -> None:
        self.observer.looked_up("miss", "", None, 0.0)
        try:
            (ticket,) = work.backend.submit_all([(work.request, flight.publish)])
        except Refused as error:
            flight.publish(Failed(error))
        else:
            flight.runs_as(ticket)

    def _over(self, work: Work, flight: Flight, again: Sequence[Seat]) -> None:
        """In the loop, after the last event was given out."""
        if flight.whole and not flight.fetched:
            self._keep(work, flight)
        else:
            self.abandon(work, flight)
        for seat in again:
            self._again(work, seat)

    def _again(self, failed: Work, seat: Seat) -> None:
        flight = self._flights.get(failed.key)
        if flight is not None and flight.join(seat):
            return
        work = Work(failed.key, failed.backend, replace(seat.request, deadline=None), Asked(), self.clock())
        flight = self.lead(work, seat)
        if self.shared is not None:
            self.resolve(work, flight, None, look=True)
        else:
            self._submit(work, flight)

    def _keep(self, work: Work, flight: Flight) -> None:
        now = self.clock()
        answer = Answer(tuple(flight.events), now - work.begun, now)
        value, ttl_s = pack(answer), self.rules.ttl_s * (1 - self.rules.jitter * self._chance.random())
        self.observer.kept(self.local.put(work.key, value, ttl_s))
        if self.shared is not None:
            _spawn(self.shared.put(work.key, value, ttl_s, work.lease), self._writes)
            work.lease = None
        self.abandon(work, flight)


def _flying(flight: Flight | None) -> Flight | None:
    """It, or the one before it, that others may still join."""
    while flight is not None and (flight.ended or flight.left):
        flight = flight.instead_of
    return flight


def _spawn(work: Coroutine[Any, Any, None], held: set[asyncio.Task[None]]) -> None:
    """As a task that `held` has until it is done: a loop holds its tasks weakly."""
    task = asyncio.get_running_loop().create_task(work)
    held.add(task)
    task.add_done_callback(held.discard)


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
    """A `Backend` for one call. What became of its requests, in `asked`, is known with the first event."""

    def __init__(
        self, cache: ResponseCache, backend: Backend, identity: str, directives: Directives, streams: bool
    ) -> None:
        super().__init__(backend)
        self.cache, self.identity, self.directives, self.streams = cache, identity, directives, streams
        self.asked: list[Asked] = []
        self._own: list[Submitted] = []

    def knows(self, request: Request) -> bool:
        """Whether its answer is kept in this process."""
        if self._bypasses(request) or self.directives.no_cache:
            return False
        return self.cache.find(self._key(request), self.directives.max_age) is not None

    def _key(self, request: Request) -> bytes:
        return key_of(replace(request, tenant="") if self.cache.rules.shared_by_tenants else request, self.identity)

    def submit_all(self, calls: Sequence[tuple[Request, Sink]]) -> Sequence[Cancellable]:
        """What is here is told at once. Raises Refused where the backend refuses what is not: then nothing runs."""
        tickets = [self._take(request, sink) for request, sink in calls]
        own, self._own = self._own, []
        try:
            made = self.backend.submit_all([(one.request, one.sink) for one in own]) if own else ()
        except Refused:
            for one in own:
                one.refused()
            for ticket in tickets:
                ticket.cancel()
            raise
        for one, ticket in zip(own, made, strict=True):
            one.runs_as(ticket)
        return tickets

    def _take(self, request: Request, sink: Sink) -> Cancellable:
        """Answer, join, or note what is to be submitted."""
        cache, asked = self.cache, Asked()
        self.asked.append(asked)
        if why := self._bypasses(request):
            asked.outcome = "bypass"
            cache.observer.looked_up("bypass", why, None, 0.0)
            self._own.append(Passing(request, sink))
            return self._own[-1]
        key = self._key(request)
        asked.key = key
        seat = Seat(request, sink)
        if not self.directives.no_cache and (self._answered(key, seat, asked) or self._joined(key, seat, asked)):
            return seat
        work = Work(key, self.backend, replace(request, deadline=None), asked, cache.clock())
        flight = cache.lead(work, seat)
        if cache.shared is not None:
            cache.resolve(work, flight, self.directives.max_age, look=not self.directives.no_cache)
        else:
            self._own.append(Leading(cache, work, flight))
        return seat

    def _answered(self, key: bytes, seat: Seat, asked: Asked) -> bool:
        answer = self.cache.find(key, self.directives.max_age)
        if answer is None:
            return False
        asked.outcome, asked.age_s = "hit", self.cache.age(answer)
        self.cache.observer.looked_up("hit", "local", answer, asked.age_s)
        for event in answer.events if self.streams else answer.whole:
            seat.sink(event)
        return True

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
