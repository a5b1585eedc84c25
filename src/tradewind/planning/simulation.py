"""A discrete-event simulation of replicas behind a router: what a load would see, in a second instead of an hour.

A replica does what `tradewind.engine.scheduler` does, turn by turn: prompt chunks under the token budget, then one step
for all running answers; admission is the scheduler's own (`Load`). Only how long a turn takes is a model:

    turn = prompt tokens / prefill rate  +  (step + row * running answers, where some run)

Requests are as loadtests/sse.py writes them, so that `tradewind.load.results.measure` reads both. Not covered: the prefix
cache, speculation, priorities, failures, what the router itself costs.
"""

import heapq
import math
import random
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from tradewind.cluster.routing import LeastLoaded, Strategy
from tradewind.engine.admission import Ahead, Load
from tradewind.engine.requests import QueueFull
from tradewind.engine.scheduler import IDLE_CHUNKS


@dataclass(frozen=True)
class ServiceTimes:
    """Of one replica. prefill_rate: prompt tokens a second. step, row: seconds of a step, and of each answer in it.
    overhead: seconds of a request outside the engine, before its first text."""

    prefill_rate: float
    step: float
    row: float
    overhead: float = 0.0


@dataclass(frozen=True)
class Limits:
    """Of one replica; as `serve` has them."""

    slots: int = 8
    prefill_chunk: int = 128
    max_waiting: int = 64
    ttft_goal_s: float = 5.0


@dataclass
class Job:
    """A request on its way. moments: of its tokens."""

    start: float
    prompt: int
    answer: int
    done: Callable[[float], None] = lambda _: None
    left: int = field(init=False)
    moments: list[float] = field(default_factory=list)
    rejected: float | None = None

    def __post_init__(self) -> None:
        self.left = self.prompt

    @property
    def end(self) -> float | None:
        return self.moments[-1] if len(self.moments) == self.answer else None


class Replica:
    """`turn` does one turn and gives its end, or None where there is nothing to do."""

    def __init__(self, times: ServiceTimes, limits: Limits, name: str = "") -> None:
        self.times, self.limits, self.name = times, limits, name
        self.waiting: deque[Job] = deque()
        self.running: list[Job] = []
        self.busy_until: float | None = None
        self.busy_s = 0.0
        self.load = Load(limits.slots, limits.prefill_chunk)
        self.load.prefilled(limits.prefill_chunk, limits.prefill_chunk / times.prefill_rate)

    @property
    def slots(self) -> int:
        return self.limits.slots

    @property
    def ongoing(self) -> int:
        return len(self.waiting) + len(self.running)

    def offer(self, job: Job) -> bool:
        """Takes it, or notes the refusal in it."""
        if self.ongoing:
            tokens = sum(one.left for one in self.waiting)
            free = self.limits.slots - len(self.running)
            ahead = Ahead(tokens, len(self.waiting), free, bool(self.running))
            full = len(self.waiting) + 1 > self.limits.max_waiting
            try:
                self.load.admit(ahead, job.prompt, self.limits.ttft_goal_s, len(self.waiting), full)
            except QueueFull as refusal:
                job.rejected = refusal.retry_after
                return False
        self.waiting.append(job)
        return True

    def turn(self, now: float) -> float | None:
        if not self.ongoing:
            return None
        seconds = 0.0
        begun: list[Job] = []
        room = self.limits.prefill_chunk * (1 if self.running else IDLE_CHUNKS)
        while room and self.waiting and len(self.running) + len(begun) < self.limits.slots:
            job = self.waiting[0]
            count = min(room, job.left)
            job.left, room = job.left - count, room - count
            spent = count / self.times.prefill_rate
            self.load.prefilled(count, spent)
            seconds += spent
            if not job.left:
                begun.append(self.waiting.popleft())
                job.moments.append(now + seconds + self.times.overhead)
        rows = [*self.running, *(job for job in begun if job.answer > 1)]
        for job in begun:
            if job.answer == 1:
                job.done(now + seconds)
        if rows:
            spent = self.times.step + self.times.row * len(rows)
            self.load.stepped(spent)
            seconds += spent
        self.running = []
        for job in rows:
            job.moments.append(now + seconds + self.times.overhead)
            if job.end is None:
                self.running.append(job)
            else:
                self.load.held(job.moments[-1] - job.moments[0])
                job.done(now + seconds)
        self.busy_s += seconds
        return now + seconds


class Simulation:
    """Time goes from event to event: `at` plans one, `run` goes on to the end."""

    def __init__(self, replicas: Sequence[Replica], routing: Strategy | None = None) -> None:
        self.replicas, self.routing = replicas, routing or LeastLoaded()
        self.jobs: list[Job] = []
        self.now = 0.0
        self._events: list[tuple[float, int, Callable[[], object]]] = []
        self._count = 0

    def at(self, moment: float, do: Callable[[], object]) -> None:
        self._count += 1
        heapq.heappush(self._events, (moment, self._count, do))

    def run(self, until: float = math.inf) -> None:
        """To the last event, or the first one after `until`."""
        while self._events and self._events[0][0] <= until:
            self.now, _, do = heapq.heappop(self._events)
            do()

    def send(self, job: Job) -> bool:
        """Now. Gives whether it was taken."""
        self.jobs.append(job)
        replica = self.routing(self.replicas, ())
        taken = replica.offer(job)
        if taken and replica.busy_until is None:
            self._turn(replica)
        return taken

    def _turn(self, replica: Replica) -> None:
        replica.busy_until = replica.turn(self.now)
        if replica.busy_until is not None:
            self.at(replica.busy_until, lambda: self._turn(replica))


Lengths = Iterable[tuple[int, int]]
"""Tokens of prompts and of their answers, without end."""


def poisson(simulation: Simulation, rate: float, seconds: float, lengths: Lengths, seed: int) -> None:
    """Arrivals that wait for no answer."""
    chance, sizes = random.Random(seed), iter(lengths)
    moment = chance.expovariate(rate)
    while moment < seconds:
        prompt, answer = next(sizes)
        simulation.at(moment, partial(simulation.send, Job(moment, prompt, answer)))
        moment += chance.expovariate(rate)
    simulation.run()


def users(
    simulation: Simulation, count: int, seconds: float, lengths: Lengths, think_s: float = 0.0, seed: int = 0
) -> None:
    """Each asks again some time after its answer: exponential with the mean `think_s`. A refused one waits as it is told."""
    chance, sizes = random.Random(seed), iter(lengths)

    def ask(_: float = 0.0) -> None:
        if simulation.now >= seconds:
            return
        prompt, answer = next(sizes)
        job = Job(simulation.now, prompt, answer, again)
        if not simulation.send(job):
            simulation.at(simulation.now + (job.rejected or 0.0), ask)

    def again(moment: float) -> None:
        simulation.at(moment + (chance.expovariate(1 / think_s) if think_s else 0.0), ask)

    for _ in range(count):
        simulation.at(chance.random() * think_s, ask)
    simulation.run()


def recorded(simulation: Simulation, stop: float) -> Mapping[str, Any]:
    """As loadtests/sse.py writes a run; requests that were under way at the end of the simulation are left out."""
    requests = [
        {
            "start": job.start,
            "due": job.start,
            "texts": job.moments,
            "end": job.start if job.rejected is not None else job.end,
            "prompt_tokens": job.prompt,
            "completion_tokens": job.answer,
            "error": None,
            "rejected": job.rejected,
        }
        for job in simulation.jobs
        if job.end is not None or job.rejected is not None
    ]
    return {"requests": requests, "phases": [], "stopping": stop, "ended": stop, "delays": [], "cpu_share": 0.0}
