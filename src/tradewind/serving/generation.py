"""The requests of one HTTP call, from acceptance to their last event.

The life of a call: `Generation.start` has the caller's limits admit its prompts, submits its requests (all or none, to
one scheduler or several), watches for the client to leave, and gives their events in order; leaving, by `close` or by
the client, cancels what still runs. What a slow client has not taken yet waits here: at most the tokens asked for, until
the connection's send timeout. Nothing here knows HTTP bodies.
"""

import asyncio
import logging
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import ClassVar, Self
from weakref import WeakKeyDictionary

from starlette.requests import Request as HttpRequest

from tradewind.engine.backend import Backend, Cancellable
from tradewind.engine.requests import TERMINAL, Event, Refused, Request
from tradewind.serving.meter import Meter

log = logging.getLogger(__name__)
Work = tuple[Backend, Request]
"""A request, and who runs it."""
Numbered = tuple[int, Event]
"""The place of a request in its call, and an event of it."""


class Mailbox:
    """From engines' threads to one event loop, which is woken once for all that has come when it looks: a wake-up is a
    system call, and a step of the engine gives each running answer an event.
    """

    _known: ClassVar[WeakKeyDictionary[asyncio.AbstractEventLoop, "Mailbox"]] = WeakKeyDictionary()

    def __init__(self) -> None:
        self._held: deque[tuple[Callable[[int, Event], None], int, Event]] = deque()
        self._woken = False

    @classmethod
    def of(cls, loop: asyncio.AbstractEventLoop) -> "Mailbox":
        return cls._known.setdefault(loop, cls())

    def put(
        self, loop: asyncio.AbstractEventLoop, take: Callable[[int, Event], None], place: int, event: Event
    ) -> None:
        """Called in an engine's thread. Raises RuntimeError where a loop that is to be woken is closed."""
        self._held.append((take, place, event))
        if not self._woken:
            self._woken = True
            try:
                loop.call_soon_threadsafe(self._deliver)
            except RuntimeError:
                self._held.clear()
                self._woken = False
                raise

    def _deliver(self) -> None:
        self._woken = False  # first, for what comes from here on may be missed below
        while self._held:
            take, place, event = self._held.popleft()
            try:
                take(place, event)
            except Exception:
                log.exception("an event was not taken")  # those of other calls are behind it


class Generation:
    """Source of events. `client_gone` tells a cancelled call's reason."""

    def __init__(self, work: Sequence[Work], http: HttpRequest) -> None:
        self.schedulers, self.receive = [scheduler for scheduler, _ in work], http.receive
        self.requests: Sequence[Request] = [request for _, request in work]
        self.meter = Meter.of(http.scope)
        self.client_gone = False
        self._tickets: list[Cancellable] = []
        self._queue: asyncio.Queue[Numbered] = asyncio.Queue()
        self._unfinished = len(self.requests)
        self._offset = 0
        self._watcher: asyncio.Task[None] | None = None

    async def start(self) -> Self:
        """Raises ApiError where a limit refuses the call, Refused where the scheduler refuses one of its requests: none
        of them runs then.
        """
        tenant = self.meter.principal.tenant
        self.requests = [replace(one, tenant=tenant) for one in self.requests]
        await self.meter.begin(self.requests)
        self._submit()
        self._offset = self.meter.accepted(self.requests)
        self._watcher = asyncio.create_task(self._watch())
        return self

    @property
    def ended(self) -> bool:
        """All of their events were given."""
        return not self._unfinished

    async def batches(self) -> AsyncIterator[list[Numbered]]:
        """Events as they come: whatever has come since the last look, at least one."""
        while self._unfinished:
            batch = [await self._queue.get()]
            while not self._queue.empty():
                batch.append(self._queue.get_nowait())
            self._unfinished -= sum(isinstance(event, TERMINAL) for _, event in batch)
            yield batch

    def close(self) -> None:
        for ticket in self._tickets:
            ticket.cancel()
        if self._watcher is not None:
            self._watcher.cancel()

    def _submit(self) -> None:
        """Raises Refused where one scheduler does; what the others had taken by then is cancelled."""
        loop = asyncio.get_running_loop()
        put = partial(Mailbox.of(loop).put, loop, self._take)
        calls = [(one, partial(put, place)) for place, one in enumerate(self.requests)]
        try:
            for scheduler in dict.fromkeys(self.schedulers):
                own = [call for call, its in zip(calls, self.schedulers, strict=True) if its is scheduler]
                self._tickets += scheduler.submit_all(own)
        except Refused:
            self.close()
            raise

    def _take(self, place: int, event: Event) -> None:
        self.meter.record(self._offset + place, event)
        self._queue.put_nowait((place, event))

    async def _watch(self) -> None:
        while (await self.receive())["type"] != "http.disconnect":
            pass
        self.client_gone = True
        for ticket in self._tickets:
            ticket.cancel()
