"""The requests of one HTTP call, from acceptance to their last event.

The life of a call: `Generation.start` has the caller's limits admit its prompts, submits its requests (all or none),
watches for the client to leave, and gives their events in order; leaving, by `close` or by the client, cancels what
still runs. What a slow client has not taken yet waits here: at most the tokens asked for, until the connection's send
timeout. Nothing here knows HTTP bodies.
"""

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Self

from starlette.requests import Request as HttpRequest

from tradewind.engine.requests import TERMINAL, Event, Request
from tradewind.engine.scheduler import Scheduler, Ticket
from tradewind.serving.meter import Meter

Numbered = tuple[int, Event]
"""The place of a request in its call, and an event of it."""


class Generation:
    """Source of events. `client_gone` tells a cancelled call's reason."""

    def __init__(self, scheduler: Scheduler, requests: Sequence[Request], http: HttpRequest) -> None:
        self.scheduler, self.requests, self.receive = scheduler, requests, http.receive
        self.meter = Meter.of(http.scope)
        self.client_gone = False
        self._tickets: list[Ticket] = []
        self._queue: asyncio.Queue[Numbered] = asyncio.Queue()
        self._unfinished = len(requests)
        self._offset = 0
        self._watcher: asyncio.Task[None] | None = None

    async def start(self) -> Self:
        """Raises ApiError where a limit refuses the call, Refused where the scheduler refuses one of its requests: none
        of them runs then.
        """
        tenant = self.meter.principal.tenant
        self.requests = [replace(one, tenant=tenant) for one in self.requests]
        await self.meter.begin(self.requests)
        loop = asyncio.get_running_loop()
        sinks = [partial(self._from_engine, loop, place) for place in range(len(self.requests))]
        self._tickets = self.scheduler.submit_all(list(zip(self.requests, sinks, strict=True)))
        self._offset = self.meter.accepted(self.requests)
        self._watcher = asyncio.create_task(self._watch())
        return self

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

    def _from_engine(self, loop: asyncio.AbstractEventLoop, place: int, event: Event) -> None:
        """Called in the scheduler's thread."""
        loop.call_soon_threadsafe(self._take, place, event)

    def _take(self, place: int, event: Event) -> None:
        self.meter.record(self._offset + place, event)
        self._queue.put_nowait((place, event))

    async def _watch(self) -> None:
        while (await self.receive())["type"] != "http.disconnect":
            pass
        self.client_gone = True
        for ticket in self._tickets:
            ticket.cancel()
