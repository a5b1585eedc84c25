"""Which variant on which device, how many of them, with a cache or without: for a goal, a load and a budget.

1. Candidates: every variant whose answer F1 is known, in every place (`places`), with the cache of answers off and on.
2. What the cache would answer comes from its simulator, over Zipf's law; what is left is the engines' load.
3. The serving simulation says how many replicas keep the goal, the fewest, and what they give (TTFT p95).
4. Of those that meet the goal: for each tier of evidence the Pareto set of cost, TTFT and F1; and the cheapest of all, which
   is chosen, beside the cheapest whose times were measured.
5. Where none does, what stands in the way, and the nearest that could be had.

Tiers share no table, and none puts another's configuration out of its front. Not covered: replicas of unlike kinds, machines
that several models share, start-up times, networks between user and server.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from math import ceil
from typing import Any, NamedTuple

from tqdm import tqdm

from tradewind.caching.simulate import replay
from tradewind.caching.traces import Answers, Popularity, drawn
from tradewind.errors import UserError
from tradewind.hardware.goal import SHARE, Budget, Demand, Wanted
from tradewind.hardware.places import MODELLED, TIERS, Model, Place
from tradewind.planning.plan import fewest
from tradewind.planning.simulation import Limits
from tradewind.serving.settings import ServeSettings

MIB = 2**20
REPLAYED, WARM_UP = 20_000, 5_000
"""Requests that the cache's simulator plays, and of them those before it counts."""
TOKEN_BYTES = 40
"""Of an answer's token as events on the wire."""
GRID_G_PER_KWH = 480.0
"""Grams of CO2 a kilowatt hour: the world's mean of 2023 (Ember, Global Electricity Review 2024; recalled)."""
COLUMNS = ("F1", "TTFT p95 ms", "USD/h", "USD / 10^6 answer tokens", "J an answer", "g CO2 / 1000 answers", "energy")
METERED = "of decoding, metered"
SAME = 1.1
"""TTFTs whose quotient is at most this are as good as each other."""
IDLE = 0.3
"""Share of its power that a device takes while it waits; an assumption."""


@dataclass(frozen=True)
class Option:
    """A configuration that keeps the times. hit: share of requests that the cache answers. usd_hour: of all replicas.
    joules: an answer, of its decoding by the meter, or by the device's power, busy or waiting (`joules_tier`); None: nobody
    says what it takes."""

    model: Model
    place: Place
    cache: str
    f1: float
    hit: float
    replicas: int
    ttft_p95_ms: float
    utilization: float
    usd_hour: float
    joules: float | None
    joules_tier: str

    @property
    def name(self) -> str:
        return f"{self.model.name} on {self.replicas} x {self.place.device} ({self.place.engine}), cache {self.cache}"

    def usd_per_million(self, tokens_per_s: float) -> float:
        """Of tokens of answers, be they generated or out of the cache."""
        return self.usd_hour / 3600 / tokens_per_s * 1e6


class Missed(NamedTuple):
    """What a configuration misses a goal by, as a quotient, in words."""

    excess: float
    words: str


@dataclass(frozen=True)
class Planned:
    """chosen: the cheapest that meets everything; pareto: of those that do, by tier and cost."""

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
    served: ServeSettings = ServeSettings(),  # noqa: B008
) -> Planned:
    """f1: answer F1 by variant. places: by variant. overhead: seconds outside the engine, of a first text and of a token.
    served: what the plan will be served with; its cache of answers is weighed.

    Raises:
        UserError: nothing meets everything; it names the binding constraint and the nearest configuration.
    """
    good = {name: models[name] for name in models if f1.get(name, -1.0) >= wanted.f1}
    if not good:
        best = max((name for name in models if name in f1), key=lambda name: f1[name], default=None)
        known = f"the best is {best} with {f1[best]:.3f}" if best else "no variant has a measured one"
        raise UserError(f"no variant reaches an answer F1 of {wanted.f1:g}: {known}")
    hits = {"none": 0.0}
    if demand.repeats:
        hits["memory"] = hit_ratio(demand, served.cache_mib * MIB, served.cache_ttl_s, seed)
    missed: list[Missed] = []
    options: list[Option] = []
    pairs = [(model, place) for model in good.values() for place in places[model.name]]
    for model, place in tqdm(pairs, desc="planning", unit="place", leave=False, disable=None):
        first, token = overhead
        there = replace(place, times=replace(place.times, overhead=first, step=place.times.step + token))
        if (miss := _missed(model, there, wanted, demand, budget)) is not None:
            missed.append(miss)
            continue
        try:
            options += [_option(model, there, cache, hit, f1[model.name], wanted, demand, limits, seed)
                        for cache, hit in hits.items()]  # fmt: skip
        except UserError as error:  # late for its long prompts only
            missed.append(Missed(1.0, f"{_where(model, place)}: {error}"))
    return _chosen(options, missed, wanted, budget)


def _missed(model: Model, place: Place, wanted: Wanted, demand: Demand, budget: Budget) -> Missed | None:
    """What rules the place out at any number of replicas: power, memory, or a request of median lengths that is late though
    it is alone."""
    where, times = _where(model, place), place.times
    if place.watts is None and budget.watts < float("inf"):
        return Missed(float("inf"), f"{where}: nobody says how many watts it takes")
    if (place.watts or 0.0) > budget.watts:
        return Missed((place.watts or 0.0) / budget.watts, f"{where}: {place.watts:g} W")
    if place.needs > 1e9 * budget.gb:
        return Missed(place.needs / 1e9 / budget.gb, f"{where}: weights and caches of {place.needs / 1e9:.3g} GB")
    first = 1000 * (times.overhead + times.call + demand.lengths.prompt / times.prefill_rate)
    gap = 1000 * (times.step + times.row)
    excess = max(first / wanted.ttft_p95_ms, gap / wanted.itl_ms)
    return Missed(excess, f"{where}: TTFT {first:.3g} ms and {gap:.3g} ms a token, alone") if excess > 1 else None


def _where(model: Model, place: Place) -> str:
    return f"{model.name} on {place.device} ({place.engine}, {place.tier})"


def _option(
    model: Model, place: Place, cache: str, hit: float, f1: float, wanted: Wanted, demand: Demand, limits: Limits, seed: int
) -> Option:  # fmt: skip
    left = demand.per_s * (1 - hit)
    limits = replace(limits, ttft_goal_s=wanted.ttft_p95_ms / 1000)
    needed = fewest(left, place.times, limits, demand.lengths, wanted.slo, SHARE, seed)
    joules, tier = None, "-"
    if place.joules is not None:
        joules, tier = place.joules * demand.mean_answer * (1 - hit), METERED
    elif place.watts is not None:
        share = needed.utilization + IDLE * (1 - needed.utilization)
        joules, tier = place.watts * share * needed.replicas / demand.per_s, MODELLED
    return Option(model, place, cache, f1, hit, needed.replicas, needed.ttft_p95_ms, needed.utilization,
                  place.price * needed.replicas, joules, tier)  # fmt: skip


def _chosen(options: Sequence[Option], missed: Sequence[Missed], wanted: Wanted, budget: Budget) -> Planned:
    if not options:
        if not missed:
            raise UserError("no variant that reaches the F1 was measured or modelled anywhere")
        limits = " within the budget's watts and gb" if min(budget.watts, budget.gb) < float("inf") else ""
        raise UserError(f"nothing keeps {wanted.slo}{limits}, whatever it costs; nearest: {min(missed).words}")
    cheapest = min(options, key=_order)
    if cheapest.usd_hour > budget.usd_hour:
        raise UserError(f"the budget of {budget.usd_hour:g} USD an hour is too small: the cheapest that keeps the goal is "
                        f"{cheapest.name} for {ceil(1000 * cheapest.usd_hour) / 1000:.3f}")  # fmt: skip
    within = [one for one in options if one.usd_hour <= budget.usd_hour]
    front: list[Option] = []
    for tier in TIERS:
        alike = [one for one in within if one.place.tier == tier]
        front += sorted((one for one in alike if not any(_beats(other, one) for other in alike)), key=_order)
    return Planned(cheapest, tuple(front), tuple(_reasons(cheapest, within, missed)))


def _order(one: Option) -> tuple[float, float, float]:
    return one.usd_hour, -one.f1, one.ttft_p95_ms


def _beats(one: Option, other: Option) -> bool:
    """Cheaper and no worse, a tenth of TTFT aside, or as cheap and better."""
    if one.usd_hour > other.usd_hour or one.f1 < other.f1 or one.ttft_p95_ms > SAME * other.ttft_p95_ms:
        return False
    return _order(one) < _order(other)


def _reasons(chosen: Option, within: Sequence[Option], missed: Sequence[Missed]) -> Iterator[str]:
    least = (
        f"cheapest of {len(within)} configurations, each of the fewest replicas that keep the goal, within the budget"
    )
    yield f"{least}; its times are {chosen.place.tier}"
    surest = min((one.place.tier for one in within), key=TIERS.index)
    if surest != chosen.place.tier:
        nearest = min((one for one in within if one.place.tier == surest), key=_order)
        yield f"the cheapest whose times are {surest} costs {nearest.usd_hour:.3f} USD an hour: {nearest.name}"
    if better := [one for one in within if one.f1 > chosen.f1]:
        nearest = min(better, key=_order)
        yield f"more F1 ({nearest.f1:.3f}) would cost {nearest.usd_hour:.3f} USD an hour: {nearest.name}"
    if faster := [one for one in within if one.ttft_p95_ms < chosen.ttft_p95_ms / 2]:
        nearest = min(faster, key=_order)
        yield f"half of its TTFT ({nearest.ttft_p95_ms:.0f} ms) would cost {nearest.usd_hour:.3f}: {nearest.name}"
    if missed:
        yield f"{len(missed)} more are ruled out at any number, the nearest {min(missed).words}"


def hit_ratio(demand: Demand, size: int, ttl_s: float, seed: int) -> float:
    """Share of requests that a cache of answers of `size` bytes would answer, by its simulator."""
    answers = Answers(TOKEN_BYTES * demand.answer, demand.spread)
    trace = drawn(Popularity(demand.questions, demand.repeats), REPLAYED, demand.per_s, answers, seed)
    played = replay(trace, size, ttl_s=ttl_s, warm_up=WARM_UP)
    return min(played.hit_ratio + played.coalesced_ratio, 1 - 1 / REPLAYED)  # of the next, nobody knows


def table(planned: Planned, demand: Demand) -> str:
    """Markdown: for each tier a table of its Pareto set by cost, the choice in bold."""
    parts, rate = [], demand.per_s * demand.mean_answer
    for tier in TIERS:
        lines = [f"| times {tier} | {' | '.join(COLUMNS)} |", f"|---|{'---:|' * (len(COLUMNS) - 1)}---|"]
        for one in (one for one in planned.pareto if one.place.tier == tier):
            name = f"**{one.name}**" if one == planned.chosen else one.name
            energy = ("-", "-") if one.joules is None else (f"{one.joules:.1f}", f"{carbon(one.joules):.1f}")
            cells = [name, f"{one.f1:.3f}", f"{one.ttft_p95_ms:.0f}", f"{one.usd_hour:.3f}",
                     f"{one.usd_per_million(rate):.2f}", *energy, one.joules_tier]  # fmt: skip
            lines.append(f"| {' | '.join(cells)} |")
        if len(lines) > 2:
            parts.append("\n".join(lines))
    return "\n\n".join(parts)


def carbon(joules: float) -> float:
    """Grams of CO2 of a thousand answers."""
    return joules * 1000 / 3.6e6 * GRID_G_PER_KWH


def as_record(one: Option) -> dict[str, Any]:
    """For JSON."""
    told = {name: getattr(one, name) for name in ("cache", "hit", "f1", "replicas", "ttft_p95_ms", "utilization",
                                                   "usd_hour", "joules", "joules_tier")}  # fmt: skip
    place = {name: getattr(one.place, name) for name in ("device", "engine", "tier")}
    return {"name": one.name, "variant": one.model.name, **place, **told}
