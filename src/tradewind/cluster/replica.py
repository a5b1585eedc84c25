"""A scheduler that answers callers elsewhere: parcels in, batches of events out, and a pulse while there is nothing to tell.

It knows nothing of Ray.
"""

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from functools import partial

from starlette.concurrency import run_in_threadpool

from tradewind.cluster.parcel import Parcel
from tradewind.cluster.remote import Batch
from tradewind.engine.contract import EngineError
from tradewind.engine.grammar import BadStructure, Grammars
from tradewind.engine.requests import TERMINAL, Closed, DeadlineExceeded, Event, Failed, Refused
from tradewind.engine.scheduler import Scheduler
from tradewind.serving.generation import Mailbox

PULSE_S = 0.5
KNOWN = (Refused, BadStructure, DeadlineExceeded, EngineError)
"""Errors that mean something to who gets them; the others travel as their text."""


@dataclass(frozen=True)
class EngineFacts:
    """A `serving.backend.Facts` that travels. model: the variant's name."""

    model: str
    name: str
    weights_digest: str
    max_len: int
    vocab_size: int


class Replica:
    """name: what callers know it by."""

    def __init__(self, name: str, model: str, scheduler: Scheduler) -> None:
        self.name, self.scheduler = name, scheduler
        engine = scheduler.engine
        self.facts = EngineFacts(model, engine.name, engine.weights_digest, engine.max_len, engine.vocab_size)
        self.grammars = Grammars(scheduler.tokenizer)

    async def stream(self, parcel: Parcel) -> AsyncIterator[Batch]:
        """The last batch has the terminal event. Leaving cancels the request."""
        loop, events = asyncio.get_running_loop(), asyncio.Queue[Event]()
        put = partial(Mailbox.of(loop).put, loop, lambda _, event: events.put_nowait(event), 0)
        try:
            if parcel.digest != self.facts.weights_digest:
                raise Closed("this replica has other weights")
            if parcel.structure is None:
                request = parcel.opened(self.grammars)
            else:
                opening = asyncio.ensure_future(run_in_threadpool(parcel.opened, self.grammars))
                while not (await asyncio.wait({opening}, timeout=PULSE_S))[0]:
                    yield Batch(self.name, [])
                request = await opening
            (ticket,) = self.scheduler.submit_all([(request, put)])
        except (Refused, BadStructure) as error:
            yield Batch(self.name, [Failed(error)])
            return
        try:
            while True:
                batch = await self._next(events)
                yield Batch(self.name, batch)
                if batch and isinstance(batch[-1], TERMINAL):
                    return
        finally:
            ticket.cancel()

    @staticmethod
    async def _next(events: asyncio.Queue[Event]) -> Sequence[Event]:
        """What has come, or nothing after PULSE_S."""
        try:
            async with asyncio.timeout(PULSE_S):
                batch = [await events.get()]
        except TimeoutError:
            return []
        while not events.empty():
            batch.append(events.get_nowait())
        return [portable(event) for event in batch]


def portable(event: Event) -> Event:
    """Without an error that may not survive being sent."""
    if isinstance(event, Failed) and not isinstance(event.error, KNOWN):
        return Failed(RuntimeError(f"{type(event.error).__name__}: {event.error}"))
    return event
