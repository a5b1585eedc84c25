"""The simulation against the scheduler itself, over an engine whose parts take as long as the model says."""

import itertools
import statistics
import threading
import time

import pytest

from tests.engine.scheduling import Inbox, ask
from tests.planning.paced import PacedEngine
from tradewind.engine.requests import Delta
from tradewind.engine.scheduler import Scheduler
from tradewind.engine.settings import SchedulerSettings
from tradewind.engine.text import ByteTokenizer
from tradewind.planning.simulation import Limits, Replica, ServiceTimes, Simulation, users

TIMES = ServiceTimes(prefill_rate=2000, step=0.01, row=0.004, call=0.01)
PROMPT, ANSWER, SECONDS = 80, 12, 4.0


class TimedInbox(Inbox):
    def __init__(self, start: float) -> None:
        super().__init__()
        self.start, self.moments = start, []

    def __call__(self, event) -> None:
        if isinstance(event, Delta):
            self.moments.append(time.monotonic())
        super().__call__(event)


def real(count: int, slots: int) -> dict[str, float]:
    """Requests/s and the mean TTFT (its median jumps between two values here) of so many callers who ask again at once."""
    engine = PacedEngine(TIMES, slots=slots, max_len=256)
    scheduler = Scheduler(engine, ByteTokenizer(), SchedulerSettings())
    begun = time.monotonic()
    seen: list[TimedInbox] = []

    def caller(number: int) -> None:
        for turn in itertools.count():
            if time.monotonic() - begun >= SECONDS:
                return
            inbox = TimedInbox(time.monotonic())
            scheduler.submit(ask(f"{number:3}{turn:3}".ljust(PROMPT, "x"), ANSWER), inbox)
            inbox.end()
            seen.append(inbox)

    threads = [threading.Thread(target=caller, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    scheduler.close()
    firsts = [inbox.moments[0] - inbox.start for inbox in seen]
    return {"requests_per_s": len(seen) / SECONDS, "ttft_s": statistics.fmean(firsts)}


def simulated(count: int, slots: int) -> dict[str, float]:
    simulation = Simulation([Replica(TIMES, Limits(slots=slots, ttft_goal_s=0))])
    users(simulation, count, SECONDS, itertools.repeat((PROMPT, ANSWER)))
    firsts = [job.moments[0] - job.start for job in simulation.jobs]
    return {"requests_per_s": len(firsts) / SECONDS, "ttft_s": statistics.fmean(firsts)}


@pytest.mark.timing
@pytest.mark.parametrize(("count", "slots"), [(1, 4), (4, 4), (8, 4)])
def test_the_scheduler_does_what_the_simulation_says(count, slots):
    assert real(count, slots) == pytest.approx(simulated(count, slots), rel=0.15)
