"""A scheduler's place taken by replicas elsewhere: requests go to one of them, and to another where it is lost.

The life of a request here:
1. `submit_all` takes it at once where some engine could run it; a replica's refusal comes as its terminal event, `Failed`
   with a `Refused`, as does that there is no replica (`Unavailable`).
2. `Replicas.stream` sends it to a replica of the router's choice and gives what that tells, in batches. A replica with
   nothing to tell sends empty ones, so that silence means that it hangs.
3. A replica that dies, hangs, or drains is avoided by the request from then on, and by others for a while. What is left
   of the request goes to another (`tradewind.cluster.journal`), which is waited for: the caller sees one stream without
   a seam.
4. Its terminal event is `Done` with the usage of the whole, the first `Failed`, or `Cancelled`.

It knows nothing of Ray, and runs in one event loop.
"""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Protocol

from tradewind.cluster.journal import Journal, Piece
from tradewind.engine.admission import check
from tradewind.engine.backend import Facts
from tradewind.engine.requests import (
    Cancelled,
    Closed,
    DeadlineExceeded,
    Delta,
    Done,
    Event,
    Failed,
    PromptLogprobs,
    Refused,
    Request,
    Sink,
    Unavailable,
)
from tradewind.engine.settings import Snapshot
from tradewind.engine.timings import Clock, Observer, Outcome

log = logging.getLogger(__name__)
GLANCE_S = 0.1
"""Between two looks for a replica where there is none."""


class ReplicaLost(Exception):
    """The replica is gone, or as good as gone; nobody knows how far it came. None: it was lost before it was known."""

    def __init__(self, replica: str | None, reason: str) -> None:
        super().__init__(f"replica {replica or 'unknown'}: {reason}")
        self.replica = replica


@dataclass(frozen=True)
class Batch:
    """What a replica told since the batch before."""

    replica: str
    events: Sequence[Event]


class Replicas(Protocol):
    def stream(self, request: Request, avoid: frozenset[str]) -> AsyncIterator[Batch]:
        """Ends after the request's terminal event. Raises Refused, Unavailable where there is none but those to avoid, or
        ReplicaLost. Its first batch comes when it is known who runs the request. avoid: replicas that failed it."""
        ...

    def states(self) -> Sequence[Snapshot]:
        """What each replica said of itself last."""
        ...


@dataclass(frozen=True)
class Patience:
    """stall_s: seconds of silence after which a replica is taken for hung. suspect_s: for how long others then avoid it,
    where there are more. wait_s: how long a request that lost its replica waits for another. tries: replicas that may be
    lost under one request."""

    stall_s: float = 3.0
    suspect_s: float = 30.0
    wait_s: float = 60.0
    tries: int = 5


class EndedEarly(Exception):
    """A terminal event that ends a request early."""

    def __init__(self, event: Failed | Cancelled) -> None:
        super().__init__()
        self.event = event


SUMMED = (
    "prefix_lookups", "prefix_entries", "prefix_evicted", "prefix_evicted_bytes", "prefix_saved_s",
    "prefix_disk_queries", "prefix_disk_hits", "prefix_disk_entries", "prefix_disk_bytes", "prefix_disk_written",
    "prefix_disk_lost", "prefix_disk_read_s",
)  # fmt: skip
"""Of a snapshot, over the replicas there are: a total falls where one is gone."""


class Remote:
    """A `serving.backend.Backend`. engine: what every replica's is alike in. failed_over: called for each replica that a
    request lost. Used in one event loop."""

    def __init__(
        self,
        replicas: Replicas,
        engine: Facts,
        patience: Patience | None = None,
        observer: Observer | None = None,
        failed_over: Callable[[], None] = lambda: None,
    ) -> None:
        self._failed_over = failed_over
        self.replicas, self.engine, self.patience, self.observer = replicas, engine, patience or Patience(), observer
        self.failovers = 0
        self._running: set[asyncio.Task[None]] = set()
        self._answering = 0  # requests with a first token
        self._suspects: dict[str, float] = {}  # replica -> until when
        self._closing = False
        self._progress = -float("inf")
        self._ended = Done(0, 0)  # sums

    def submit_all(self, calls: Sequence[tuple[Request, Sink]]) -> list["RemoteTicket"]:
        """Raises Closed, or Refused for what no replica could run."""
        if self._closing:
            raise Closed("the server is shutting down")
        for request, _ in calls:
            check(request, self.engine)
        return [RemoteTicket(self._start(request, sink)) for request, sink in calls]

    @property
    def idle(self) -> bool:
        return not self._running

    def snapshot(self) -> Snapshot:
        """running: requests with a first token, waiting: without. Totals are of requests that ended here."""
        states, total = self.replicas.states(), self._ended
        rates = [one.prefill_rate for one in states if one.prefill_rate is not None]
        return Snapshot(
            running=self._answering,
            waiting=len(self._running) - self._answering,
            free_slots=sum(one.free_slots for one in states),
            prompt_tokens=total.prompt_tokens,
            completion_tokens=total.completion_tokens,
            seconds_since_progress=time.monotonic() - self._progress,
            prefill_rate=sum(rates) if rates else None,
            kv_usage=sum(one.kv_usage for one in states) / max(1, len(states)),
            prefix_queries=total.prompt_tokens,
            prefix_hits=total.cached_tokens,
            prefix_bytes=sum(one.prefix_bytes for one in states),
            drafted=total.accepted_prediction_tokens + total.rejected_prediction_tokens,
            accepted=total.accepted_prediction_tokens,
            wait_s=min((one.wait_s for one in states), default=0.0),
            **{name: sum(getattr(one, name) for one in states) for name in SUMMED},
        )

    def close(self) -> None:
        """Cancel what is left; callable more than once."""
        self._closing = True
        for task in self._running:
            task.cancel()

    def _start(self, request: Request, sink: Sink) -> asyncio.Task[None]:
        course = Course(Journal(request), sink)
        task = asyncio.get_running_loop().create_task(self._run(course))
        self._running.add(task)

        def ended(task: asyncio.Task[None]) -> None:
            self._running.discard(task)
            if task.cancelled():  # before its first step
                self._count(course, Cancelled())

        task.add_done_callback(ended)
        return task

    async def _run(self, course: "Course") -> None:
        self._count(course, await self._end_of(course))

    async def _end_of(self, course: "Course") -> Done | Failed | Cancelled:
        try:
            await self._piece(course, course.journal.whole, frozenset())
        except asyncio.CancelledError:
            return Cancelled()
        except EndedEarly as early:
            return early.event
        except Exception as error:
            log.exception("a request could not be run on any replica")
            return Failed(error)
        return course.journal.done()

    def _count(self, course: "Course", end: Done | Failed | Cancelled) -> None:
        """At a request's end, which its caller is told."""
        self._answering -= course.answering
        done = course.journal.done()
        if course.answering:
            self._ended = added(self._ended, done)
        course.sink(end)
        refused = isinstance(end, Failed) and isinstance(end.error, Refused) and not course.answering
        if self.observer is not None and not refused:
            self.observer(
                course.clock.timings(
                    course.journal.request, outcome(end, course), done.cached_tokens, done.completion_tokens
                )
            )

    async def _piece(self, course: "Course", piece: Piece, avoid: frozenset[str]) -> None:
        """To its end, on as many replicas as it takes. Raises EndedEarly."""
        try:
            await self._placed(course, piece, avoid)
        except Refused as refusal:
            raise EndedEarly(Failed(refusal)) from None
        except ReplicaLost as lost:
            self.failovers += 1
            self._failed_over()
            course.lost += 1
            if lost.replica is not None:
                avoid |= {lost.replica}
                self._suspects[lost.replica] = time.monotonic() + self.patience.suspect_s
            log.warning("%s: what is left of its request goes to another", lost)
            if course.lost > self.patience.tries:
                raise EndedEarly(Failed(lost)) from None
            await self._pieces(course, course.journal.left(piece), avoid)

    async def _placed(self, course: "Course", piece: Piece, avoid: frozenset[str]) -> None:
        """On one replica, which is waited for where another was lost. Raises EndedEarly, Refused, ReplicaLost."""
        latest = time.monotonic() + self.patience.wait_s
        while True:
            for avoided in (avoid | self._suspected(), avoid):  # a suspect is better than none
                try:
                    return await self._on_one(course, piece, avoided)
                except Unavailable:
                    if avoided == avoid and (not avoid or time.monotonic() > latest):
                        raise
            if piece.request.deadline is not None and time.monotonic() >= piece.request.deadline:
                raise EndedEarly(Failed(DeadlineExceeded("no replica came in time")))
            await asyncio.sleep(GLANCE_S)

    def _suspected(self) -> frozenset[str]:
        now = time.monotonic()
        self._suspects = {name: until for name, until in self._suspects.items() if until > now}
        return frozenset(self._suspects)

    async def _pieces(self, course: "Course", pieces: Sequence[Piece], avoid: frozenset[str]) -> None:
        """Side by side. Raises the first EndedEarly; what else runs then is cancelled."""
        try:
            async with asyncio.TaskGroup() as group:
                for piece in pieces:
                    group.create_task(self._piece(course, piece, avoid))
        except* EndedEarly as several:
            raise first_of(several) from None

    async def _on_one(self, course: "Course", piece: Piece, avoid: frozenset[str]) -> None:
        """On one replica. Raises EndedEarly, Refused, ReplicaLost."""
        replica: str | None = None
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
                    if self._take(course, piece, event, replica):
                        return

    def _take(self, course: "Course", piece: Piece, event: Event, replica: str | None) -> bool:
        """Whether the piece is at its end."""
        if isinstance(event, Delta | PromptLogprobs):
            self._progress = time.monotonic()
            if (told := course.journal.note(piece, event)) is not None:
                if isinstance(told, Delta):
                    self._answering += not course.answering
                    course.answering = True
                    course.clock.tokens(told.index)
                course.sink(told)
            return False
        if isinstance(event, Done):
            self._progress = time.monotonic()
            course.journal.ended(event)
            return True
        if isinstance(event, Cancelled):  # not by us: the replica ends
            raise ReplicaLost(replica, "it drains")
        if isinstance(event, Failed) and isinstance(event.error, Closed):
            raise ReplicaLost(replica, "it drains")
        raise EndedEarly(event)


class Course:
    """One request's: where it stands, whom to tell, and when things happened. answering: it has a first token. lost: how many
    replicas it lost."""

    def __init__(self, journal: Journal, sink: Sink) -> None:
        self.journal, self.sink, self.clock = journal, sink, Clock()
        self.clock.prompt_begun()
        self.answering = False
        self.lost = 0


def added(one: Done, other: Done) -> Done:
    return Done(
        one.prompt_tokens + other.prompt_tokens,
        one.completion_tokens + other.completion_tokens,
        one.cached_tokens + other.cached_tokens,
        one.accepted_prediction_tokens + other.accepted_prediction_tokens,
        one.rejected_prediction_tokens + other.rejected_prediction_tokens,
    )


def outcome(end: Done | Failed | Cancelled, course: Course) -> Outcome:
    if isinstance(end, Done):
        return course.journal.finish_reason
    if isinstance(end, Cancelled):
        return "cancelled"
    return "deadline" if isinstance(end.error, DeadlineExceeded) else "error"


def first_of(group: BaseExceptionGroup[EndedEarly]) -> EndedEarly:
    """One that is in it."""
    first = group.exceptions[0]
    return first_of(first) if isinstance(first, BaseExceptionGroup) else first


class RemoteTicket:
    """`cancel` may be called from the event loop's thread, at any time, more than once."""

    def __init__(self, task: asyncio.Task[None]) -> None:
        self._task = task

    def cancel(self) -> None:
        self._task.cancel()
