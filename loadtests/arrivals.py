"""Load that does not wait for answers: requests come when they come, as from a crowd too large to notice its own delays.

A scenario gives `phases`, one after the other: so many workers that each wait for their answer (closed loop), or Poisson
arrivals at a rate (open loop; each on a connection of its own). What a phase started ends before the next begins. The
whole crowd is one user of Locust's, and all moments, lengths and seeds follow from `--seed`.
"""

import random
from collections.abc import Iterator

import gevent
from gevent.pool import Group
from locust import task
from locust.env import Environment
from locust.exception import StopUser
from locust.runners import STATE_RUNNING, STATE_SPAWNING

from loadtests.sse import Phase, Questions, StreamingUser

RUN_S = 60
"""Seconds of a run that is given no `--run-time`."""


class Crowd(StreamingUser):
    abstract = True
    fixed_count = 1

    def phases(self) -> Iterator[Phase]:
        """What `closed` and `open` give, one after the other."""
        raise NotImplementedError

    def __init__(self, environment: Environment) -> None:
        super().__init__(environment)
        self.crowd = Group()
        self.seconds = float(self.options.run_time or RUN_S)

    @task
    def run_phases(self) -> None:
        for phase in self.phases():
            print(f"{phase.name}: load {phase.load:.3g} for {phase.end - phase.start:.0f} s")
        self.crowd.join()
        runner = self.environment.runner
        if runner is not None and runner.state in (STATE_SPAWNING, STATE_RUNNING):  # else its time is up already
            gevent.spawn(runner.quit)  # by another greenlet: what quits a run itself is killed before all was written
            raise StopUser

    def closed(self, name: str, workers: int, seconds: float) -> Phase:
        """Each worker asks again as soon as it has its answer, or when it was told to with a refusal."""
        phase = self.recording.phase(name, workers, seconds)
        for number in range(workers):
            self.crowd.spawn(self._work, self._questions(f"{name} {number}"), phase.end)
        self.crowd.join()
        return phase

    def open(self, name: str, rate: float, seconds: float, drain: bool = True) -> Phase:
        """Poisson arrivals, `rate` a second. drain: the next phase begins when all have their answers."""
        phase = self.recording.phase(name, rate, seconds)
        label = f"{name} {len(self.recording.phases)}"
        questions, chance = self._questions(label), random.Random(f"{self.options.seed} {label} arrivals")
        due = phase.start + chance.expovariate(rate)
        while due < phase.end:
            gevent.sleep(max(0.0, due - self.recording.now()))
            self.crowd.spawn(self._once, questions.draw(), due)
            due += chance.expovariate(rate)
        gevent.sleep(max(0.0, phase.end - self.recording.now()))
        if drain:
            self.crowd.join()
        return phase

    def _questions(self, name: str) -> Questions:
        return Questions(self.options, f"{self.options.seed} {name}")

    def _work(self, questions: Questions, end: float) -> None:
        http = self.connect()
        while self.recording.now() < end:
            if wait := self.ask(*questions.draw(), http=http).rejected:
                gevent.sleep(wait)
        http.close()

    def _once(self, question: tuple[list[dict[str, str]], int, int], due: float) -> None:
        http = self.connect()
        self.ask(*question, due, http)
        http.close()
