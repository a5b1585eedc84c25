"""One generation, and everybody who waits for it.

The life of a flight: 1. the first asker leads, those who come while it lasts join and are given what there is so far;
2. each event goes to all, in the engine's thread; 3. a seat that leaves takes nothing from the others, and the last to
leave cancels the work; 4. at the end the events are there to be kept. A failure is told to the leader and to whoever has
had a part of the answer; who has had nothing yet is handed back, and asks again.

It knows no keys and no store. `publish` may be called from any thread; events of one flight come from one at a time.
"""

import threading
from collections.abc import Callable, Sequence

from tradewind.engine.backend import Cancellable
from tradewind.engine.grammar import BadStructure
from tradewind.engine.requests import TERMINAL, Cancelled, Done, Event, Failed, Refused, Request, Sink


class Seat:
    """One asker's place. `cancel` tells it `Cancelled`, as a scheduler's ticket does."""

    def __init__(self, request: Request, sink: Sink, leads: bool = False) -> None:
        self.request, self.sink, self.leads = request, sink, leads
        self.flight: Flight | None = None
        self.told = 0

    def cancel(self) -> None:
        if self.flight is not None:
            self.flight.leave(self)


class Flight:
    """over: called once, with the flight and the seats that are to ask again, after the last event was given out.
    priority: of the work. instead_of: the flight that was there before, if this is a fresher or more urgent one. fetched:
    its events come from a store, not from an engine.
    """

    fetched = False
    instead_of: "Flight | None" = None

    def __init__(self, priority: int, over: Callable[["Flight", Sequence[Seat]], None]) -> None:
        self.priority = priority
        self.events: list[Event] = []
        self._over = over
        self._seats: list[Seat] = []
        self._work: Cancellable | None = None
        self._ended = self._left = False
        self._lock = threading.Lock()

    @property
    def left(self) -> bool:
        """Nobody waits any more, and nobody is let in."""
        return self._left

    @property
    def ended(self) -> bool:
        return self._ended

    @property
    def whole(self) -> bool:
        return bool(self.events) and isinstance(self.events[-1], Done)

    def join(self, seat: Seat) -> bool:
        """False where it is too late: the flight failed, or all have left it."""
        with self._lock:
            if self._left or (self._ended and not self.whole):
                return False
            seat.flight = self
            self._seats.append(seat)
            for event in self.events:
                self._tell(seat, event)
            return True

    def runs_as(self, work: Cancellable) -> None:
        """Who makes the events, once that is known. It is cancelled at once where all have left by then."""
        with self._lock:
            self._work = work
            abandoned = self._left
        if abandoned:
            work.cancel()

    def publish(self, event: Event) -> None:
        """A sink: an exception of one seat's own is that seat's end, not the others'."""
        again: Sequence[Seat] = ()
        with self._lock:
            if self._ended:
                return
            abandoned = self._left  # and cancelled: what comes until that is done goes to nobody
            self._ended = isinstance(event, TERMINAL)
            self.events.append(event)
            told = list(self._seats)
            if isinstance(event, Failed | Cancelled) and not _everybodys(event):
                again = [seat for seat in self._seats if not seat.leads and not seat.told]
                told = [seat for seat in self._seats if seat not in again]
            for seat in told:
                self._tell(seat, event)
            broken = self._left and not abandoned
        if self._ended:
            self._over(self, again)
        elif broken:
            raise RuntimeError("no sink takes the events")  # which cancels the work

    def leave(self, seat: Seat) -> None:
        with self._lock:
            if seat not in self._seats or self._ended:
                return
            self._seats.remove(seat)
            self._left = not self._seats
            work = self._work if self._left else None
            self._tell(seat, Cancelled())
        if work is not None:
            work.cancel()

    def _tell(self, seat: Seat, event: Event) -> None:
        seat.told += 1
        try:
            seat.sink(event)
        except Exception:
            if seat in self._seats:
                self._seats.remove(seat)
                self._left = not self._seats and not self._ended


def _everybodys(event: Event) -> bool:
    """Whether another try would end the same: the engine takes no more, or the structure cannot be kept to."""
    return isinstance(event, Failed) and isinstance(event.error, Refused | BadStructure)
