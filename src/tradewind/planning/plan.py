"""From measured service times to replicas: how much load one keeps within the goals, and how many a crowd needs.

`capacity` searches the highest rate at which a simulated replica still gives enough good answers; `replicas_for` takes as
many replicas as that rate asks for and simulates them together. What is not modelled is in `tradewind.planning.simulation`.
`benchmarks.planning` holds it against measured runs.
"""

import itertools
import math
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from tradewind.cluster.routing import PowerOfTwo
from tradewind.errors import UserError
from tradewind.load.results import Slo, measure
from tradewind.planning.simulation import (
    Limits,
    Replica,
    ServiceTimes,
    Simulation,
    poisson,
    recorded,
)

REQUESTS = 2000
"""Of a simulation, at least: its p95 then rests on a hundred."""
FINEST = 0.01
"""Of a rate: how closely it is searched."""
CLIPPED = 4
"""Times its median that a length is at most."""
TOGETHER = 64
"""Replicas that are simulated together; more are as many groups of so many."""


@dataclass(frozen=True)
class Lengths:
    """Tokens of prompts and answers: log-normal around medians, as `loadtests.sse` draws them; spread 0: all the same."""

    prompt: int
    answer: int
    spread: float = 0.0

    def draws(self, seed: int) -> Iterator[tuple[int, int]]:
        if not self.spread:
            yield from itertools.repeat((self.prompt, self.answer))
        chance = random.Random(seed)
        while True:
            yield self._length(chance, self.prompt), self._length(chance, self.answer)

    def _length(self, chance: random.Random, median: int) -> int:
        drawn = median * math.exp(chance.gauss(0, self.spread))
        return max(1, round(min(max(drawn, median / 8), CLIPPED * median)))


@dataclass(frozen=True)
class Crowd:
    """users, each of whom asks again `think_s` seconds after an answer, on average."""

    users: int
    think_s: float

    @property
    def most_per_s(self) -> float:
        """Requests a second where answers take no time: what the real rate stays below."""
        return self.users / self.think_s


@dataclass(frozen=True)
class Needed:
    """What simulated `replicas` give a rate of requests a second. seconds of TTFT; share of good answers."""

    rate: float
    replicas: int
    goodput_share: float
    ttft_p50_ms: float
    ttft_p95_ms: float
    utilization: float


@dataclass(frozen=True)
class Fit:
    """Service times, and how far from them the measurements lie: the median of |measured / fitted - 1| over those of
    chunks, and over those of steps."""

    times: ServiceTimes
    chunk_residual: float
    step_residual: float


def fitted(prefills: Sequence[tuple[int, float]], steps: Sequence[tuple[int, float]], overhead: float = 0.0) -> Fit:
    """Least squares of relative errors: seconds of prompt chunks = call + tokens / rate, seconds of steps = step + row *
    rows, neither constant below 0. Raises UserError where the measurements do not grow with their size."""
    call, token, chunk_residual = _line(prefills)
    step, row, step_residual = _line(steps)
    if row < 0 or token <= 0:
        raise UserError(f"service times do not fit: {token:.6f} s a prompt token, {row:.6f} s a row of a step")
    return Fit(ServiceTimes(1 / token, step, row, overhead, call), chunk_residual, step_residual)


def _line(points: Sequence[tuple[int, float]]) -> tuple[float, float, float]:
    """Constant, slope, median relative residual. Weights 1/y: a long chunk does not outvote a short one."""
    sizes, seconds = np.array(points, float).T
    slope, constant = np.polyfit(sizes, seconds, 1, w=1 / seconds)
    if constant < 0:
        weights = sizes / seconds
        slope, constant = float(weights.sum() / (weights @ weights)), 0.0
    residual = np.median(np.abs(seconds / (constant + slope * sizes) - 1))
    return float(constant), float(slope), float(residual)


def tried(
    rate: float, replicas: int, times: ServiceTimes, limits: Limits, lengths: Lengths, slo: Slo, seed: int
) -> Needed:
    """Poisson arrivals over `replicas`, each given to the less loaded of two."""
    simulation = Simulation([Replica(times, limits, str(number)) for number in range(replicas)], PowerOfTwo(seed))
    seconds = max(REQUESTS / rate, 20 * limits.ttft_goal_s)
    poisson(simulation, rate, seconds, lengths.draws(seed), seed)
    found = {one.name: one.value or 0.0 for one in measure(recorded(simulation, seconds), 0.1 * seconds, seed, slo)}
    busy = sum(one.busy_s for one in simulation.replicas) / (replicas * simulation.now)
    return Needed(rate, replicas, found["goodput_share"], found["ttft_p50_ms"], found["ttft_p95_ms"], busy)


def capacity(
    times: ServiceTimes, limits: Limits, lengths: Lengths, slo: Slo, share: float = 0.95, seed: int = 0
) -> Needed:
    """The highest rate of one replica at which the share of good answers is kept. Raises UserError where none is."""
    low, high = 0.0, 1 / (times.call + lengths.prompt / times.prefill_rate + lengths.answer * times.row)
    best: Needed | None = None
    while high - low > FINEST * high:
        middle = (low + high) / 2
        seen = tried(middle, 1, times, limits, lengths, slo, seed)
        if seen.goodput_share >= share:
            low, best = middle, seen
        else:
            high = middle
        if high < 1e-4:
            break
    if best is None:
        raise UserError(f"one replica keeps {slo} for {share:.0%} of the answers at no rate")
    return best


def fewest(
    rate: float, times: ServiceTimes, limits: Limits, lengths: Lengths, slo: Slo, share: float = 0.95, seed: int = 0
) -> Needed:
    """The fewest replicas that keep the share of good answers at `rate`, to a tenth; it needs no `capacity` and so is quick
    where few are enough. Raises UserError where a lone request is not answered in time."""
    work = times.call + lengths.prompt / times.prefill_rate + lengths.answer * times.row
    alone = tried(min(rate, 0.01 / (work + lengths.answer * times.step)), 1, times, limits, lengths, slo, seed)
    if alone.goodput_share < share:
        raise UserError(
            f"{slo} is not kept by a replica that is asked once in a while (TTFT {alone.ttft_p95_ms:.0f} ms)"
        )
    count = max(1, math.ceil(rate * work))
    while (seen := _grouped(rate, count, times, limits, lengths, slo, seed)).goodput_share < share:
        count = max(count + 1, math.ceil(1.1 * count))
    return seen


def _grouped(
    rate: float, count: int, times: ServiceTimes, limits: Limits, lengths: Lengths, slo: Slo, seed: int
) -> Needed:
    """Groups of at most TOGETHER, of which one is simulated."""
    groups = math.ceil(count / TOGETHER)
    together = math.ceil(count / groups)
    seen = tried(rate / groups, together, times, limits, lengths, slo, seed)
    return Needed(rate, groups * together, seen.goodput_share, seen.ttft_p50_ms, seen.ttft_p95_ms, seen.utilization)


def replicas_for(
    rate: float, one: Needed, times: ServiceTimes, limits: Limits, lengths: Lengths, slo: Slo, seed: int = 0
) -> Needed:
    """As many replicas as `rate` needs where each takes what `one` (of `capacity`) does, simulated together."""
    return _grouped(rate, max(1, math.ceil(rate / one.rate)), times, limits, lengths, slo, seed)
