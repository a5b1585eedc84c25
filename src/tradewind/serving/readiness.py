"""Whether the server can answer: known from tokens, not from the process being there.

Ready means that the loop made a token, or ran a chunk of a prompt, in the last 5 seconds. An idle loop is asked for a
token; a busy one is not, so that probes add nothing to an overload: its next token is waited for. Draining, the server
is not ready, whatever its loop does.
"""

import asyncio

from tradewind.engine.backend import Backend
from tradewind.engine.requests import TERMINAL, Done, Event, QueueFull, Refused, Request
from tradewind.engine.sampling import SamplingParams

PROBE = "\0readiness"
"""Tenant of the token that is asked for; no key has it."""
FRESH = 5.0
"""Seconds."""
GLANCE = 0.02
"""Seconds between two looks at a busy loop."""


class Readiness:
    """Of all the loops together; asked from the event loop's thread, told to drain from any."""

    def __init__(self, *schedulers: Backend) -> None:
        self.draining = False
        self._loops = [Loop(scheduler) for scheduler in schedulers]

    async def __call__(self) -> bool:
        """Takes at most FRESH seconds."""
        if self.draining:
            return False
        return all(await asyncio.gather(*(loop() for loop in self._loops))) and not self.draining

    def drain(self) -> None:
        """The server is about to end: send it no more."""
        self.draining = True


class Loop:
    """One scheduler's."""

    def __init__(self, scheduler: Backend) -> None:
        self.scheduler = scheduler
        self._asked: asyncio.Task[bool] | None = None

    async def __call__(self) -> bool:
        """Questions that come together share one probe."""
        if self._fresh():
            return True
        if self._asked is None or self._asked.done():
            self._asked = asyncio.create_task(self._probe() if self.scheduler.idle else self._progress())
        return await asyncio.shield(self._asked)

    async def _progress(self) -> bool:
        """The loop works, but made nothing lately: as when the first request after a pause is in its first chunk."""
        loop = asyncio.get_running_loop()
        latest = loop.time() + FRESH
        while not self._fresh() and loop.time() < latest:
            await asyncio.sleep(GLANCE)
        return self._fresh()

    def _fresh(self) -> bool:
        return self.scheduler.snapshot().seconds_since_progress < FRESH

    async def _probe(self) -> bool:
        """Have one token made."""
        loop = asyncio.get_running_loop()
        end: asyncio.Future[Event] = loop.create_future()

        def ended(event: Event) -> None:
            if not end.done():
                end.set_result(event)

        def sink(event: Event) -> None:
            if isinstance(event, TERMINAL):
                loop.call_soon_threadsafe(ended, event)

        try:
            probe = Request((0,), 1, SamplingParams(temperature=0), tenant=PROBE)
            (ticket,) = self.scheduler.submit_all([(probe, sink)])
        except QueueFull:
            return await self._progress()
        except Refused:
            return False
        try:
            return isinstance(await asyncio.wait_for(end, FRESH), Done)
        except TimeoutError:
            return False
        finally:
            ticket.cancel()
