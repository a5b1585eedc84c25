"""A scheduler's place taken by replicas elsewhere: requests go to one of them, and to another where it is lost.

The life of a request here:
1. `submit_all` takes it at once; a refusal comes as its terminal event, `Failed` with a `Refused`.
2. `Replicas.stream` sends it to a replica of the router's choice and gives what that tells, in batches. A replica with
   nothing to tell sends empty ones, so that silence means that it hangs.
3. A replica that dies, hangs, or drains is avoided from then on, and what is left of the request goes to another
   (`tradewind.cluster.journal`): the caller sees one stream without a seam.
4. Its terminal event is `Done` with the usage of the whole, the first `Failed`, or `Cancelled`.

It knows nothing of Ray, and runs in one event loop.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Protocol

from tradewind.cluster.journal import Journal, Piece
from tradewind.engine.requests import (
    Cancelled,
    Closed,
    Delta,
    Done,
    Event,
    Failed,
    PromptLogprobs,
    Refused,
    Request,
    Sink,
)

log = logging.getLogger(__name__)


class ReplicaLost(Exception):
    """The replica is gone, or as good as gone; nobody knows how far it came."""

    def __init__(self, replica: str, reason: str) -> None:
        super().__init__(f"replica {replica}: {reason}")
        self.replica = replica


class NoReplica(Refused):
    """None is there. retry_after: seconds."""

    def __init__(self, retry_after: float = 5.0) -> None:
        super().__init__("no replica of the model is there")
        self.retry_after = retry_after


@dataclass(frozen=True)
class Batch:
    """What a replica told since the batch before."""

    replica: str
    events: Sequence[Event]


class Replicas(Protocol):
    def stream(self, request: Request, avoid: frozenset[str]) -> AsyncIterator[Batch]:
        """Ends after the request's terminal event. Raises Refused, or ReplicaLost. avoid: replicas that failed it."""
        ...


@dataclass(frozen=True)
class Patience:
    """stall_s: seconds of silence after which a replica is taken for hung. tries: replicas that may be lost under one
    request."""

    stall_s: float = 3.0
    tries: int = 5


class Outcome(Exception):
    """A terminal event that ends a request early."""

    def __init__(self, event: Failed | Cancelled) -> None:
        super().__init__()
        self.event = event


class Remote:
    """`submit` and `submit_all` as a `Scheduler` has them."""

    def __init__(self, replicas: Replicas, patience: Patience | None = None) -> None:
        self.replicas, self.patience = replicas, patience or Patience()
        self.failovers = 0
        self._running: set[asyncio.Task[None]] = set()
        self._closing = False

    def submit(self, request: Request, sink: Sink) -> "RemoteTicket":
        return self.submit_all([(request, sink)])[0]

    def submit_all(self, calls: Sequence[tuple[Request, Sink]]) -> list["RemoteTicket"]:
        """Raises Closed."""
        if self._closing:
            raise Closed("the server is shutting down")
        return [RemoteTicket(self._start(request, sink)) for request, sink in calls]

    @property
    def idle(self) -> bool:
        return not self._running

    async def close(self) -> None:
        """Cancel what is left."""
        self._closing = True
        running = list(self._running)
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)

    def _start(self, request: Request, sink: Sink) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(self._run(request, sink))
        self._running.add(task)
        task.add_done_callback(self._running.discard)
        return task

    async def _run(self, request: Request, sink: Sink) -> None:
        journal = Journal(request)
        try:
            await self._piece(journal, journal.whole, sink, frozenset())
        except asyncio.CancelledError:
            sink(Cancelled())
        except Outcome as outcome:
            sink(outcome.event)
        except Exception as error:
            log.exception("a request could not be run on any replica")
            sink(Failed(error))
        else:
            sink(journal.done())

    async def _piece(self, journal: Journal, piece: Piece, sink: Sink, avoid: frozenset[str]) -> None:
        """To its end, on as many replicas as it takes. Raises Outcome."""
        try:
            await self._on_one(journal, piece, sink, avoid)
        except Refused as refusal:
            raise Outcome(Failed(refusal)) from None
        except ReplicaLost as lost:
            self.failovers += 1
            avoid |= {lost.replica}
            log.warning("%s: what is left of its request goes to another", lost)
            if self.patience.tries < len(avoid):
                raise Outcome(Failed(lost)) from None
            await self._pieces(journal, journal.left(piece), sink, avoid)

    async def _pieces(self, journal: Journal, pieces: Sequence[Piece], sink: Sink, avoid: frozenset[str]) -> None:
        """Side by side. Raises the first Outcome; what else runs then is cancelled."""
        try:
            async with asyncio.TaskGroup() as group:
                for piece in pieces:
                    group.create_task(self._piece(journal, piece, sink, avoid))
        except* Outcome as several:
            raise first_of(several) from None

    async def _on_one(self, journal: Journal, piece: Piece, sink: Sink, avoid: frozenset[str]) -> None:
        """On one replica. Raises Outcome, Refused, ReplicaLost."""
        replica = "unknown"
        async with aclosing(self.replicas.stream(piece.request, avoid)) as batches:  # type: ignore[type-var]
            while True:
                try:
                    async with asyncio.timeout(self.patience.stall_s):
                        batch = await anext(batches)
                except TimeoutError:
                    raise ReplicaLost(replica, f"silent for {self.patience.stall_s:g} s") from None
                except StopAsyncIteration:
                    raise ReplicaLost(replica, "its stream ended early") from None
                replica = batch.replica
                for event in batch.events:
                    if self._take(journal, piece, event, replica, sink):
                        return

    @staticmethod
    def _take(journal: Journal, piece: Piece, event: Event, replica: str, sink: Sink) -> bool:
        """Whether the piece is at its end."""
        if isinstance(event, Delta | PromptLogprobs):
            if (told := journal.note(piece, event)) is not None:
                sink(told)
            return False
        if isinstance(event, Done):
            journal.ended(event)
            return True
        if isinstance(event, Cancelled):  # not by us: the replica ends
            raise ReplicaLost(replica, "it drains")
        raise Outcome(event)


def first_of(group: BaseExceptionGroup[Outcome]) -> Outcome:
    """One that is in it."""
    first = group.exceptions[0]
    return first_of(first) if isinstance(first, BaseExceptionGroup) else first


class RemoteTicket:
    """`cancel` may be called from the event loop's thread, at any time, more than once."""

    def __init__(self, task: asyncio.Task[None]) -> None:
        self._task = task

    def cancel(self) -> None:
        self._task.cancel()
