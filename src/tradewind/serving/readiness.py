"""Whether the server can answer: known from tokens, not from the process being there.

Ready means that the loop made a token, or ran a chunk of a prompt, in the last 5 seconds; an idle loop is asked for
one.
"""

import asyncio

from tradewind.engine.requests import TERMINAL, Done, Event, Refused, Request
from tradewind.engine.sampling import SamplingParams
from tradewind.engine.scheduler import Scheduler

FRESH = 5.0
"""Seconds."""


class Readiness:
    def __init__(self, scheduler: Scheduler) -> None:
        self.scheduler = scheduler
        self._lock = asyncio.Lock()

    async def __call__(self) -> bool:
        """Takes at most FRESH seconds; questions that come together share one probe."""
        if self._fresh():
            return True
        async with self._lock:
            return self._fresh() or (self.scheduler.idle and await self._probe())

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
            ticket = self.scheduler.submit(Request((0,), 1, SamplingParams(temperature=0)), sink)
        except Refused:
            return False
        try:
            return isinstance(await asyncio.wait_for(end, FRESH), Done)
        except TimeoutError:
            return False
        finally:
            ticket.cancel()
