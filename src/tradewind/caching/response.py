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
import logging
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
from tradewind.caching.flight import Flight, Seat
from tradewind.caching.memory import LocalStore, uptime
from tradewind.caching.shared import Lease, Shared
from tradewind.engine.backend import Backend
from tradewind.engine.requests import Failed, Request

log = logging.getLogger(__name__)
Outcome = Literal["hit", "miss", "coalesced", "bypass"]
READ_BYTES, LONG_BYTES = 1 << 20, 64 << 10
"""Of the popular answers that are held ready beside the store's budget, as they are stored; decoded they take up to nine
times as much. Longer ones are decoded each time."""
POLL_S, WAIT_S = 0.03, 60.0
"""Between two looks at what another process makes, and how long at most; then it is made here too."""


def anchored() -> Callable[[], float]:
    """Seconds since 1970 by the clock as it was at the start: setting it later makes nothing older or younger. It goes on
    while the machine sleeps."""
    begin = time.time() - uptime()
    return lambda: begin + uptime()


@dataclass
class Asked:
    """What became of one request. age_s: of a kept answer."""

    outcome: Outcome = "miss"
    age_s: float = 0.0
    key: bytes = b""


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
        self._read_bytes = 0
        self._lookups: set[asyncio.Task[None]] = set()
        self._writes: set[asyncio.Task[None]] = set()

    async def close(self) -> None:
        """What is being written is written first; who waits for another process does so no more."""
        for task in self._lookups:
            task.cancel()
        await asyncio.gather(*self._lookups, *self._writes, return_exceptions=True)
        if self.shared is not None:
            await self.shared.close()

    def holds(self, key: bytes, max_age: int | None) -> bool:
        """Whether it is kept here, which counts as no use of it."""
        entry = self.local.peek(key)
        return entry is not None and self._young(self._unpacked(key, entry.value), max_age)

    def find(self, key: bytes, max_age: int | None) -> tuple[Answer | None, bool]:
        """What is kept here and may be given; and whether it is there but to be made anew, as it will soon be gone."""
        entry = self.local.get(key)
        if entry is None:
            return None, False
        answer = self._unpacked(key, entry.value)
        if not self._young(answer, max_age):
            return None, False
        early = self._early(answer, entry.expires - self.local.now())
        return (None, True) if early else (answer, False)

    def _unpacked(self, key: bytes, value: bytes) -> Answer:
        """Popular ones are not read again."""
        held = self._read.pop(key, None)
        if held is not None:
            self._read_bytes -= len(held[0])
        if held is None or held[0] is not value:
            held = value, unpack(value)
        if len(value) <= LONG_BYTES:
            self._read[key] = held
            self._read_bytes += len(value)
        while self._read_bytes > READ_BYTES:
            self._read_bytes -= len(self._read.popitem(last=False)[1][0])
        return held[1]

    def _young(self, answer: Answer, max_age: int | None) -> bool:
        return max_age is None or self.age(answer) <= max_age

    def _early(self, answer: Answer, left: float) -> bool:
        """XFetch's draw: made anew with a chance that grows towards the end. left: seconds until then."""
        return answer.seconds * self.rules.refresh * -math.log(1.0 - self._chance.random()) >= left

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
        """Whatever goes wrong in it is the flight's end, which everybody who waits is told."""
        try:
            await self._seen_through(work, flight, max_age, look)
        except Exception as error:
            log.exception("the response cache failed on a request")
            flight.publish(Failed(error))

    async def _seen_through(self, work: Work, flight: Flight, max_age: int | None, look: bool) -> None:
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
        if not waited and (not self._young(answer, max_age) or self._early(answer, left_s)):
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
        except Exception as error:  # a refusal, or a fault of the backend's own
            flight.publish(Failed(error))
        else:
            flight.runs_as(ticket)

    def _over(self, work: Work, flight: Flight, again: Sequence[Seat]) -> None:
        """In the loop, after the last event was given out."""
        try:
            if flight.whole and not flight.fetched:
                self._keep(work, flight)
        finally:
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
