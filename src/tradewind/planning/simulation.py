"""A discrete-event simulation of replicas behind a router: what a load would see, in a second instead of an hour.

A replica does what `tradewind.engine.scheduler` does, turn by turn: prompt chunks under the token budget, then one step
for all running answers; admission is the scheduler's own (`Load`). Only how long its parts take is a model:

    chunk = call + prompt tokens / prefill rate        step = step + row * running answers

Replicas that share a machine slow each other down while they work: with `busy` of them at work, each part takes
1 + (sharing - 1) * (busy - 1) times as long, so that `sharing` 2 is two replicas that take turns on the same cores.

Requests are as loadtests/sse.py writes them, so that `tradewind.load.results.measure` reads both. Not covered: the prefix
cache (shorten the prompts by what it holds), speculation, priorities, failures, what the router itself costs, the cores
that API, proxy and client take from replicas on the same machine (so that replicas which fill it are promised too much).
"""

import heapq
import math
import random
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Any

from tradewind.cluster.routing import LeastLoaded, Strategy
from tradewind.engine.admission import Ahead, Load
from tradewind.engine.requests import QueueFull
from tradewind.engine.scheduler import IDLE_CHUNKS


@dataclass(frozen=True)
class ServiceTimes:
    """Of one replica. prefill_rate: prompt tokens a second. step, row: seconds of a step, and of each answer in it.
    overhead: seconds of a request outside the engine, before its first text. call: seconds of a chunk besides its tokens.
    """

    prefill_rate: float
    step: float
    row: float
    overhead: float = 0.0
    call: float = 0.0


@dataclass(frozen=True)
class Limits:
    """Of one replica; as `serve` has them."""

    slots: int = 8
    prefill_chunk: int = 128
    max_waiting: int = 64
    ttft_goal_s: float = 5.0


@dataclass
class Job:
    """A request on its way. moments: of its tokens. rejected: seconds to wait, whole ones as the API says them."""

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
    """Works in parts: a chunk of a prompt, or a step. `begin` gives the seconds that the next one takes alone, None where
    there is nothing to do; `finish` is its end."""

    def __init__(self, times: ServiceTimes, limits: Limits, name: str = "") -> None:
        self.times, self.limits, self.name = times, limits, name
        self.waiting: deque[Job] = deque()
        self.running: list[Job] = []
        self.busy_s = 0.0
        self.load = Load(limits.slots, limits.prefill_chunk)
        self.load.prefilled(limits.prefill_chunk, times.call + limits.prefill_chunk / times.prefill_rate)
        self._spent = 0  # prompt tokens of this turn
        self._begun = 0.0
        self._part: Callable[[float], None] = lambda now: None

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
                job.rejected = float(max(1, math.ceil(refusal.retry_after)))
                return False
        self.waiting.append(job)
        return True

    def begin(self, now: float) -> float | None:
        self._begun = now
        count = self._chunk()
        if not count and self.running:
            self._part = self._stepped
            return self.times.step + self.times.row * len(self.running)
        if not count:
            self._spent = 0
            count = self._chunk()
        if not count:
            return None
        self._part = partial(self._prefilled, count)
        return self.times.call + count / self.times.prefill_rate

    def finish(self, now: float) -> None:
        self.busy_s += now - self._begun
        self._part(now)

    def _chunk(self) -> int:
        """Tokens of the first waiting prompt that this turn has room for."""
        if not self.waiting or len(self.running) == self.limits.slots:
            return 0
        budget = self.limits.prefill_chunk * (1 if self.running else IDLE_CHUNKS)
        return max(0, min(budget - self._spent, self.waiting[0].left))

    def _prefilled(self, count: int, now: float) -> None:
        job = self.waiting[0]
        job.left -= count
        self._spent += count
        self.load.prefilled(count, now - self._begun)
        if not job.left:
            self.running.append(self.waiting.popleft())
            self._emit([job], now)

    def _stepped(self, now: float) -> None:
        self._spent = 0
        self.load.stepped(now - self._begun)
        self._emit(list(self.running), now)

    def _emit(self, jobs: Sequence[Job], now: float) -> None:
        for job in jobs:
            job.moments.append(now + self.times.overhead)
            if job.end is not None:
                self.running.remove(job)
                self.load.held(job.moments[-1] - job.moments[0])
                job.done(job.end)


@dataclass
class Work:
    """A part under way: seconds left of it if the replica were alone, as of `since`; `slow` times as many in truth. plans:
    how often its end was planned."""

    left: float
    since: float
    slow: float = 1.0
    plans: int = 0


class Simulation:
    """Time goes from event to event: `at` plans one, `run` goes on to the end.

    Replicas are placed on machines in their order, `together` on each; see the module for `sharing`."""

    def __init__(
        self, replicas: Sequence[Replica], routing: Strategy | None = None, sharing: float = 1.0, together: int = 1
    ) -> None:
        self.replicas, self.routing, self.sharing = replicas, routing or LeastLoaded(), sharing
        self.jobs: list[Job] = []
        self.now = 0.0
        machines = [replicas[first : first + together] for first in range(0, len(replicas), together)]
        self._machine = {id(one): machine for machine in machines for one in machine}
        self._works: dict[int, Work] = {}  # of busy replicas
        self._events: list[tuple[float, int, Callable[[], object]]] = []
        self._count = 0

    def at(self, moment: float, do: Callable[[], object]) -> None:
        self._count += 1
        heapq.heappush(self._events, (moment, self._count, do))

    def run(self) -> None:
        """To the last event."""
        while self._events:
            self.now, _, do = heapq.heappop(self._events)
            do()

    def send(self, job: Job) -> bool:
        """Now. Gives whether it was taken."""
        self.jobs.append(job)
        replica = self.routing(self.replicas, ())
        taken = replica.offer(job)
        if taken and id(replica) not in self._works:
            self._begin(replica)
        return taken

    def _begin(self, replica: Replica) -> None:
        """The next part, or rest."""
        before = self._works.pop(id(replica), None)
        seconds = replica.begin(self.now)
        if seconds is not None:
            self._works[id(replica)] = Work(seconds, self.now, before.slow if before else 1.0)
        if (seconds is None) != (before is None):
            self._share(self._machine[id(replica)])
        elif seconds is not None:
            self._plan(replica)

    def _share(self, machine: Sequence[Replica]) -> None:
        """One more or one less of them is at work."""
        busy = [one for one in machine if id(one) in self._works]
        for one in busy:
            work = self._works[id(one)]
            work.left -= (self.now - work.since) / work.slow
            work.since, work.slow = self.now, 1 + (self.sharing - 1) * (len(busy) - 1)
            self._plan(one)

    def _plan(self, replica: Replica) -> None:
        work = self._works[id(replica)]
        work.plans += 1
        self.at(self.now + work.left * work.slow, partial(self._end, replica, work, work.plans))

    def _end(self, replica: Replica, work: Work, plan: int) -> None:
        """Unless it was planned anew."""
        if work.plans == plan:
            replica.finish(self.now)
            self._begin(replica)


Lengths = Iterable[tuple[int, int]]
"""Tokens of prompts and of their answers, without end."""


@dataclass(frozen=True)
class Phase:
    """As loadtests/sse.py notes it. load: users, or arrivals a second."""

    name: str
    load: float
    start: float
    end: float


def poisson(
    simulation: Simulation, rate: float, seconds: float, lengths: Lengths, seed: int | str, start: float = 0.0
) -> None:
    """Arrivals that wait for no answer, until all have theirs."""
    chance, sizes = random.Random(seed), iter(lengths)
    moment = start + chance.expovariate(rate)
    while moment < start + seconds:
        prompt, answer = next(sizes)
        simulation.at(moment, partial(simulation.send, Job(moment, prompt, answer)))
        moment += chance.expovariate(rate)
    simulation.run()


def users(
    simulation: Simulation, count: int, seconds: float, lengths: Lengths, think_s: float = 0.0, seed: int = 0
) -> None:
    """`crowd` from the start, until all have their answers."""
    crowd(simulation, count, 0.0, seconds, lengths, think_s, seed)
    simulation.run()


def crowd(
    simulation: Simulation,
    count: int,
    start: float,
    stop: float,
    lengths: Lengths,
    think_s: float = 0.0,
    seed: int | str = 0,
) -> None:
    """Users from `start` to `stop`. Each asks again some time after its answer: exponential with the mean `think_s`. A
    refused one waits as it is told."""
    chance, sizes = random.Random(seed), iter(lengths)

    def ask(_: float = 0.0) -> None:
        if simulation.now >= stop:
            return
        prompt, answer = next(sizes)
        job = Job(simulation.now, prompt, answer, again)
        if not simulation.send(job):
            simulation.at(simulation.now + (job.rejected or 0.0), ask)

    def again(moment: float) -> None:
        simulation.at(moment + (chance.expovariate(1 / think_s) if think_s else 0.0), ask)

    for _ in range(count):
        simulation.at(start + chance.random() * think_s, ask)


def ramp(simulation: Simulation, steps: Sequence[tuple[int, float]], lengths: Lengths, seed: int = 0) -> list[Phase]:
    """Users and seconds of each step, one after the other, as loadtests/ramp.py has them."""
    phases: list[Phase] = []
    stop, before = sum(seconds for _, seconds in steps), 0
    for count, seconds in steps:
        start = phases[-1].end if phases else 0.0
        phases.append(Phase(f"{count} users", count, start, start + seconds))
        crowd(simulation, count - before, start, stop, lengths, seed=seed)
        before = count
    simulation.run()
    return phases


def after(simulation: Simulation, name: str, load: float, seconds: float, lengths: Lengths, seed: int | str) -> Phase:
    """The next phase of a run that lets all answers end between two: `capacity` is closed-loop workers, any other is
    Poisson arrivals (loadtests/overload.py, loadtests/poisson.py)."""
    start = simulation.now
    if name == "capacity":
        crowd(simulation, round(load), start, start + seconds, lengths, seed=seed)
        simulation.run()
    else:
        poisson(simulation, load, seconds, lengths, seed, start)
    simulation.now = max(simulation.now, start + seconds)
    return Phase(name, load, start, start + seconds)


def recorded(simulation: Simulation, stop: float, phases: Sequence[Phase] = ()) -> Mapping[str, Any]:
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
    shown = [asdict(one) for one in phases]
    return {
        "requests": requests,
        "phases": shown,
        "stopping": stop,
        "ended": max(stop, simulation.now),
        "delays": [],
        "cpu_share": 0.0,
    }
