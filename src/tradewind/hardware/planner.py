"""Which variant on which device, how many of them, with a cache or without: for a goal, a load and a budget.

1. Candidates: every variant whose answer F1 is known, in every place (`places`), with the cache of answers off and on.
2. What the cache would answer comes from its simulator, over Zipf's law; what is left is the engines' load.
3. The serving simulation says how many replicas keep the goal, and what they give (TTFT p95).
4. Of those that meet the goal: the Pareto set of cost, TTFT and F1, and the cheapest, which is chosen.
5. Where none does, what stands in the way, and the nearest that could be had.

Each number says how it is known. Not covered: replicas of unlike kinds, machines that several models share, start-up times,
networks between user and server.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from tradewind.caching.simulate import replay
from tradewind.caching.traces import Answers, Popularity, drawn
from tradewind.errors import UserError
from tradewind.hardware.goal import SHARE, Budget, Demand, Wanted
from tradewind.hardware.places import MEASURED, Model, Place
from tradewind.planning.plan import fewest
from tradewind.planning.simulation import Limits
from tradewind.serving.settings import ServeSettings

CACHES: dict[str, int] = {"none": 0, "memory": 64 << 20}
"""Of answers: name as `serve` has it, and bytes."""
REPLAYED, WARM_UP = 20_000, 5_000
"""Requests that the cache's simulator plays, and of them those before it counts."""
TOKEN_BYTES = 40
"""Of an answer's token as events on the wire."""
GRID_G_PER_KWH = 480.0
"""Grams of CO2 a kilowatt hour: the world's mean of 2023 (Ember, Global Electricity Review 2024; recalled)."""
COLUMNS = ("configuration", "F1", "TTFT p95 ms", "USD/h", "USD / 10^6 tokens", "J an answer", "g CO2 / 1000 answers",
           "times", "energy")  # fmt: skip
SAME = 1.1
"""TTFTs whose quotient is at most this are as good as each other."""
IDLE = 0.3
"""Share of its power that a device takes while it waits; an assumption."""


@dataclass(frozen=True)
class Option:
    """A configuration that keeps the times. hit: share of requests that the cache answers. usd_hour: of all replicas.
    joules: an answer, by the meter, or by the device's power, busy or waiting (`joules_tier`)."""

    model: Model
    place: Place
    cache: str
    f1: float
    hit: float
    replicas: int
    ttft_p95_ms: float
    utilization: float
    usd_hour: float
    joules: float
    joules_tier: str

    @property
    def name(self) -> str:
        return f"{self.model.name} on {self.replicas} x {self.place.device} ({self.place.engine}), cache {self.cache}"

    def usd_per_million(self, tokens_per_s: float) -> float:
        """Of generated tokens."""
        return self.usd_hour / 3600 / tokens_per_s * 1e6


class Late(NamedTuple):
    excess: float
    words: str


@dataclass(frozen=True)
class Planned:
    """chosen: the cheapest that meets everything; pareto: of those that do, by cost."""

    chosen: Option
    pareto: tuple[Option, ...]
    reasons: tuple[str, ...]


def plan(
    models: Mapping[str, Model],
    f1: Mapping[str, float],
    places: Mapping[str, Sequence[Place]],
    wanted: Wanted,
    demand: Demand,
    budget: Budget,
    limits: Limits,
    overhead: tuple[float, float] = (0.0, 0.0),
    seed: int = 0,
) -> Planned:
    """f1: answer F1 by variant. places: by variant. overhead: seconds outside the engine, of a first text and of a token.

    Raises:
        UserError: nothing meets everything; it names the binding constraint and the nearest configuration.
    """
    good = {name: models[name] for name in models if f1.get(name, -1.0) >= wanted.f1}
    if not good:
        best = max((name for name in models if name in f1), key=lambda name: f1[name], default=None)
        known = f"the best is {best} with {f1[best]:.3f}" if best else "no variant has a measured one"
        raise UserError(f"no variant reaches an answer F1 of {wanted.f1:g}: {known}")
    hits = {cache: hit_ratio(demand, size, seed) for cache, size in CACHES.items() if not size or demand.repeats}
    late: list[Late] = []
    options: list[Option] = []
    for model in good.values():
        for place in places[model.name]:
            if place.watts > budget.watts or place.memory > 1e9 * budget.gb:
                continue
            first, token = overhead
            there = replace(place, times=replace(place.times, overhead=first, step=place.times.step + token))
            if (slow := _late(model, there, wanted, demand)) is not None:
                late.append(slow)
                continue
            for cache, hit in hits.items():
                options.append(_option(model, there, cache, hit, f1[model.name], wanted, demand, limits, seed))
    return _chosen(options, late, wanted, budget)


def _late(model: Model, place: Place, wanted: Wanted, demand: Demand) -> Late | None:
    """Where a request of its median lengths, alone, is answered too late: how many times too late, in words."""
    times = place.times
    first = 1000 * (times.overhead + times.call + demand.prompt / times.prefill_rate)
    gap = 1000 * (times.step + times.row)
    excess = max(first / wanted.ttft_p95_ms, gap / wanted.itl_ms)
    if excess <= 1:
        return None
    where = f"{model.name} on {place.device} ({place.engine}, {place.tier})"
    return Late(excess, f"{where}: TTFT {first:.3g} ms and {gap:.3g} ms a token, alone")


def _option(
    model: Model, place: Place, cache: str, hit: float, f1: float, wanted: Wanted, demand: Demand, limits: Limits, seed: int
) -> Option:  # fmt: skip
    left = demand.per_s * (1 - hit)
    limits = replace(limits, ttft_goal_s=wanted.ttft_p95_ms / 1000)
    needed = fewest(left, place.times, limits, demand.lengths, wanted.slo, SHARE, seed)
    tokens = demand.answer * (1 - hit)
    if place.joules is not None:
        joules, tier = place.joules * tokens, MEASURED
    else:
        share = needed.utilization + IDLE * (1 - needed.utilization)
        joules, tier = place.watts * share * needed.replicas / demand.per_s, "modelled"
    return Option(model, place, cache, f1, hit, needed.replicas, needed.ttft_p95_ms, needed.utilization,
                  place.price * needed.replicas, joules, tier)  # fmt: skip


def _chosen(options: Sequence[Option], late: Sequence[Late], wanted: Wanted, budget: Budget) -> Planned:
    if not options:
        if not late:
            raise UserError("no device is within the budget's watts and gb, or no variant fits it")
        raise UserError(f"nothing keeps {wanted.slo}, whatever it costs; nearest: {min(late).words}")
    cheapest = min(options, key=_order)
    if cheapest.usd_hour > budget.usd_hour:
        raise UserError(f"the budget of {budget.usd_hour:g} USD an hour is too small: the cheapest that keeps the goal is "
                        f"{cheapest.name} for {cheapest.usd_hour:.2f}")  # fmt: skip
    within = [one for one in options if one.usd_hour <= budget.usd_hour]
    front = sorted((one for one in within if not any(_beats(other, one) for other in within)), key=_order)
    return Planned(cheapest, tuple(front), tuple(_reasons(cheapest, within, late)))


def _order(one: Option) -> tuple[float, float, float]:
    return one.usd_hour, -one.f1, one.ttft_p95_ms


def _beats(one: Option, other: Option) -> bool:
    """Cheaper and no worse, a tenth of TTFT aside, or as cheap and better."""
    if one.usd_hour > other.usd_hour or one.f1 < other.f1 or one.ttft_p95_ms > SAME * other.ttft_p95_ms:
        return False
    return _order(one) < _order(other)


def _reasons(chosen: Option, within: Sequence[Option], late: Sequence[Late]) -> Iterator[str]:
    yield f"cheapest of {len(within)} configurations that keep the goal within the budget"
    if better := [one for one in within if one.f1 > chosen.f1]:
        nearest = min(better, key=_order)
        yield f"more F1 ({nearest.f1:.3f}) would cost {nearest.usd_hour:.3f} USD an hour: {nearest.name}"
    if faster := [one for one in within if one.ttft_p95_ms < chosen.ttft_p95_ms / 2]:
        nearest = min(faster, key=_order)
        yield f"half of its TTFT ({nearest.ttft_p95_ms:.0f} ms) would cost {nearest.usd_hour:.3f}: {nearest.name}"
    if late:
        yield f"{len(late)} more are too slow even alone, such as {min(late).words}"


def hit_ratio(demand: Demand, size: int, seed: int) -> float:
    """What a cache of answers of `size` bytes would answer, by its simulator; 0 without one."""
    if not size or not demand.repeats:
        return 0.0
    answers = Answers(TOKEN_BYTES * demand.answer, demand.spread)
    trace = drawn(Popularity(demand.questions, demand.repeats), REPLAYED, demand.per_s, answers, seed)
    played = replay(trace, size, ttl_s=ServeSettings.cache_ttl_s, warm_up=WARM_UP)
    return min(played.hit_ratio + played.coalesced_ratio, 1 - 1 / REPLAYED)  # of the next, nobody knows


def table(planned: Planned, demand: Demand) -> str:
    """Markdown: the Pareto set by cost, the choice first in bold."""
    head = [
        "configuration",
        "F1",
        "TTFT p95 ms",
        "USD/h",
        "USD / 10^6 tokens",
        "J an answer",
        "g CO2 / 1000 answers",
        "times",
        "energy",
    ]
    lines = [f"| {' | '.join(head)} |", f"|---|{'---:|' * 6}---|---|"]
    rate = demand.per_s * demand.answer
    for one in planned.pareto:
        name = f"**{one.name}**" if one == planned.chosen else one.name
        carbon = one.joules * 1000 / 3.6e6 * GRID_G_PER_KWH
        cells = [name, f"{one.f1:.3f}", f"{one.ttft_p95_ms:.0f}", f"{one.usd_hour:.3f}", f"{one.usd_per_million(rate):.2f}",
                 f"{one.joules:.1f}", f"{carbon:.1f}", one.place.tier, one.joules_tier]  # fmt: skip
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def as_record(one: Option) -> dict[str, Any]:
    """For JSON."""
    told = {name: getattr(one, name) for name in ("cache", "hit", "f1", "replicas", "ttft_p95_ms", "utilization",
                                                   "usd_hour", "joules", "joules_tier")}  # fmt: skip
    place = {name: getattr(one.place, name) for name in ("device", "engine", "tier")}
    return {"variant": one.model.name, **place, **told}
