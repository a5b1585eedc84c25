"""What the load test `caching` found: latency by outcome, never blended, what was saved, and what was predicted.

An outcome is what the server said in X-Cache (hit, miss, coalesced, bypass), `uncached` where it said nothing, `empty` of
a route that does nothing. Phases are those of loadtests/caching.py. The prediction plays the very requests of a phase,
and those before it, to the simulator (tradewind.caching.simulate), by the moments at which they were sent.
"""

import re
import statistics
import urllib.request
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np

from tradewind.caching.memory import OVERHEAD
from tradewind.caching.simulate import KEY_BYTES, ideal, replay
from tradewind.caching.traces import Answers, Popularity, from_rows
from tradewind.errors import UserError
from tradewind.intervals import wilson
from tradewind.load.prices import PRICE, PRICE_OF
from tradewind.load.results import QUANTILES, Span, Timing, client, latency, quantile, spans, within
from tradewind.tracking import Measurement

NAME, RATE = "caching", 50.0
"""RATE: arrivals a second where none is given, as most are hits."""
PREDICTED = ("cold", "warm")
UNTIL = ("", "empty", "cold", "warm-up", "warm", "kept")
"""Phases that a run may end with; all, if it says nothing."""
SAME_P95 = 0.8
"""Of the uncached system's requests/s / (1 - hit ratio), the goal at the same p95."""
HELD = "tradewind_response_cache"


OURS = ("store", "cache_mib", "cache_ttl_s", "price_per_hour")
"""Settings that are none of Locust's options."""


@dataclass(frozen=True)
class CachingSettings:
    """Of the load test `caching`, see there. store: memory, or redis: one of our own that two servers share. cache_mib,
    cache_ttl_s: of the server that is started here; of one that runs already, what it was given (for the prediction). until:
    one of UNTIL. price_per_hour: USD, of the machine."""

    questions: int = 1000
    exponent: float = 1.0
    tenants: int = 1
    churn: float = 0.0
    streams: float = 0.5
    warm_requests: int = 500
    burst: int = 100
    store: str = "memory"
    cache_mib: int = 64
    cache_ttl_s: float = 3600.0
    until: str = ""
    price_per_hour: float = PRICE

    @property
    def options(self) -> list[str]:
        """Of Locust."""
        names = [one.name for one in fields(self) if one.name not in OURS]
        return [word for name in names for word in (f"--{name.replace('_', '-')}", str(getattr(self, name)))]

    def server(self, cache: str) -> list[str]:
        """Options of a server. cache: memory, or the store's address."""
        return ["--cache", cache, "--cache-mib", str(self.cache_mib), "--cache-ttl-s", str(self.cache_ttl_s)]


def held(url: str) -> float | None:
    """Bytes of an entry in the server's own store, on average; None where it does not say."""
    with urllib.request.urlopen(f"{url}/metrics", timeout=10) as reply:
        text = reply.read().decode()
    values = [re.search(rf"^{HELD}_{name} (\S+)$", text, re.M) for name in ("bytes", "entries")]
    found = [float(one[1]) for one in values if one]
    return found[0] / found[1] if len(found) == 2 and found[1] else None


def measure_caching(
    raw: Mapping[str, Any], settings: CachingSettings, seed: int, entry: float | None = None
) -> list[Measurement]:
    """`raw` is what loadtests/sse.py writes; entry: bytes of one in the store. Raises UserError where no request ended
    well."""
    phases = {
        name: (parts, [one for one in raw["requests"] if within(one["start"], parts)])
        for name, parts in spans(raw).items()
    }
    if not any(ended(requests) for _, requests in phases.values()):
        why = next((f"; the first failure: {one['error']}" for one in raw["requests"] if one["error"]), "")
        raise UserError(f"no request ended well{why}")
    found: list[Measurement] = []
    for name, (parts, requests) in phases.items():
        for outcome, group in by_outcome(requests).items():
            found += [replace(one, name=f"{name}/{outcome}/{one.name}") for one in latencies(group, seed)]
        found += [replace(one, name=f"{name}/{one.name}") for one in counted(requests, parts, seed)]
    good = {name: ended(part) for name, (_, part) in phases.items()}
    found += [*same_p95(phases, seed), *miss_cost(good, seed), *saved(good, seed)]
    found += cost(phases, settings.price_per_hour, seed)
    for name in PREDICTED:
        if good.get(name):
            found += predicted(name, good, settings, entry, seed)
    return [*found, *client(raw, seed)]


def ended(requests: Sequence[Timing]) -> list[Timing]:
    """Those that ended well."""
    return [one for one in requests if one["error"] is None and one["rejected"] is None and one["end"] is not None]


def outcome_of(one: Timing) -> str:
    return one["cache"] or "uncached"


def by_outcome(requests: Sequence[Timing]) -> dict[str, list[Timing]]:
    groups: dict[str, list[Timing]] = {}
    for one in ended(requests):
        groups.setdefault(outcome_of(one), []).append(one)
    return groups


def seconds(one: Timing) -> float:
    return float(one["end"] - one["start"])


def latencies(group: Sequence[Timing], seed: int) -> list[Measurement]:
    """ttft is that of streams."""
    samples = {
        "ttft": [one["texts"][0] - one["start"] for one in group if one["streamed"] and one["texts"]],
        "e2e": [seconds(one) for one in group],
    }
    return [latency(name, share, values, seed) for name, values in samples.items() for share in QUANTILES if values]


def counted(requests: Sequence[Timing], parts: Sequence[Span], seed: int) -> list[Measurement]:
    """Ratios are of the requests that ended well."""
    good, length = ended(requests), sum(end - start for start, end in parts)
    groups = {name: len(group) for name, group in by_outcome(requests).items()}
    failed = sum(one["error"] is not None for one in requests)
    refused = sum(one["rejected"] is not None for one in requests)
    found = [
        Measurement("requests", len(requests), "requests", len(requests), None, "started in the phase, ended", seed),
        Measurement("failures", failed, "requests", len(requests), None, "of these, those that broke", seed),
        Measurement("rejected", refused, "requests", len(requests), None, "of these, those refused", seed),
    ]
    if length and good:
        rate = len(good) / length
        found.append(Measurement("requests_per_s", rate, "requests/s", len(good), None, "ended well / seconds", seed))
    for outcome in ("hit", "miss", "coalesced", "bypass"):
        if good and groups.keys() - {"empty", "uncached"}:
            formula = f"X-Cache: {outcome} / requests that ended well"
            count = groups.get(outcome, 0)
            found.append(
                Measurement(
                    f"{outcome}_ratio", count / len(good), "1", len(good), wilson(count, len(good)), formula, seed
                )
            )
    generated = groups.get("miss", 0) + groups.get("bypass", 0) + groups.get("uncached", 0)
    found.append(Measurement("generations", generated, "answers", len(good), None, "miss + bypass + uncached", seed))
    return found


def saved(phases: Mapping[str, Sequence[Timing]], seed: int) -> list[Measurement]:
    """Over all phases but `empty`; nothing is added for those that waited with others."""
    requests = [one for name, part in phases.items() if name != "empty" for one in part]
    hits = [one for one in requests if outcome_of(one) == "hit"]
    misses = [seconds(one) for one in requests if outcome_of(one) == "miss"]
    tokens = sum(one["completion_tokens"] for one in hits)
    found = [Measurement("saved_tokens", tokens, "tokens", len(hits), None, "completion tokens of hits", seed)]
    if misses:
        typical = statistics.median(misses)
        spared = sum(typical - seconds(one) for one in hits)
        formula = "median E2E of misses - E2E, summed over hits"
        found.append(Measurement("saved_s", spared, "s", len(hits), None, formula, seed))
    return found


def cost(phases: Mapping[str, tuple[Sequence[Span], Sequence[Timing]]], price: float, seed: int) -> list[Measurement]:
    """What 1,000 answers cost without the cache, by the requests/s of a machine that is kept busy, and what the hits of this
    run saved of that. Hits count as free; what a machine costs while it waits is not looked at."""
    if not ended(phases.get("uncached", ((), ()))[1]):
        return []
    thousand = 1000 * price / 3600 / speed(*phases["uncached"])[1]
    hits = sum(outcome_of(one) == "hit" for _, requests in phases.values() for one in ended(requests))
    how = f"at {price} USD an hour ({PRICE_OF})"
    formula = "1,000 * price / requests/s of phase `uncached`"
    return [
        Measurement("uncached_usd_per_1000", thousand, "USD", None, None, f"{formula}, {how}", seed),
        Measurement("saved_usd", hits * thousand / 1000, "USD", hits, None, f"hits * that of one answer, {how}", seed),
    ]


def miss_cost(phases: Mapping[str, Sequence[Timing]], seed: int) -> list[Measurement]:
    """What the cache adds to a request that it cannot answer: as many users, by the same popularity, want fresh answers."""
    bare, missed = ([seconds(one) for one in phases.get(name, ())] for name in ("uncached", "no-cache"))
    if not bare or not missed:
        return []
    cost = 1000 * (statistics.median(missed) - statistics.median(bare))
    formula = "median E2E of phase `no-cache` - that of phase `uncached`"
    return [Measurement("miss_cost_ms", cost, "ms", len(missed), None, formula, seed)]


def same_p95(phases: Mapping[str, tuple[Sequence[Span], Sequence[Timing]]], seed: int) -> list[Measurement]:
    """Of the closed loops: the most requests/s with the cache whose p95 is no longer than the uncached server's. This p95 is
    of all requests, whatever their outcome: it is what users of the whole system have."""
    if not ended(phases.get("uncached", ((), ()))[1]):
        return []
    goal, bare = speed(*phases["uncached"])
    held_to = []
    for name, (parts, requests) in phases.items():
        if name.startswith("cached ") and (good := ended(requests)):
            p95, rate = speed(parts, requests)
            if p95 <= goal:
                held_to.append((rate, sum(outcome_of(one) == "hit" for one in good) / len(good)))
    found = [Measurement("uncached_p95_ms", 1000 * goal, "ms", None, None, "p95 E2E of phase `uncached`", seed)]
    if not held_to:
        return found
    rate, hits = max(held_to)
    found.append(
        Measurement("same_p95_gain", rate / bare, "1", None, None, "requests/s with the cache / without it", seed)
    )
    if hits < 1:
        formula = f"{SAME_P95} / (1 - hit ratio of that phase): what the gain is to reach"
        found.append(Measurement("same_p95_goal", SAME_P95 / (1 - hits), "1", None, None, formula, seed))
    return found


def speed(parts: Sequence[Span], requests: Sequence[Timing]) -> tuple[float, float]:
    """p95 of E2E in seconds, requests/s."""
    good = ended(requests)
    return quantile([seconds(one) for one in good], 0.95)[0], len(good) / sum(end - start for start, end in parts)


def predicted(
    name: str, phases: Mapping[str, Sequence[Timing]], settings: CachingSettings, entry: float | None, seed: int
) -> list[Measurement]:
    """For a phase: the simulator's hit ratio on its requests, its error, and the ideal one at this budget."""
    first = next(one["start"] for one in phases[name])
    before = [one for phase, part in phases.items() if phase != "empty" for one in part if one["start"] < first]
    requests = sorted([*before, *phases[name]], key=lambda one: float(one["start"]))
    misses = [seconds(one) for one in requests if outcome_of(one) == "miss"]
    taken = Answers(
        bytes=max(1, round(entry) - OVERHEAD - KEY_BYTES) if entry else Answers.bytes,
        seconds=statistics.median(misses) if misses else 0.0,
    )
    rows = [{"time": one["start"], "key": one["question"], "tenant": one["tenant"]} for one in requests]
    budget = settings.cache_mib << 20
    simulated = replay(from_rows(rows, taken), budget, ttl_s=settings.cache_ttl_s, warm_up=len(before))
    measured = sum(outcome_of(one) == "hit" for one in phases[name]) / len(phases[name])
    weights = np.tile(Popularity(settings.questions, settings.exponent).weights / settings.tenants, settings.tenants)
    bound = ideal(weights, np.full(len(weights), taken.bytes, np.int64), budget)
    how = f"simulator on the requests as sent, {taken.bytes} bytes and {taken.seconds:.3g} s an answer"
    count = simulated.requests
    return [
        Measurement(f"{name}/predicted_hit_ratio", simulated.hit_ratio, "1", count, None, how, seed),
        Measurement(f"{name}/predicted_coalesced_ratio", simulated.coalesced_ratio, "1", count, None, how, seed),
        Measurement(
            f"{name}/prediction_error", simulated.hit_ratio - measured, "1", count, None, "predicted - measured", seed
        ),
        Measurement(f"{name}/ideal_hit_ratio", bound, "1", None, None, "the most popular answers held all along", seed),
    ]
