"""What the load test `caching` found: latency by outcome, never blended, what was saved, and what was predicted.

Phases are those of loadtests/caching.py. Outcomes: see `outcomes`; requests/s at the same p95: `gain`; a store that fails:
`outage`; the simulator's word: `prediction`. What is saved is engine time: what a machine kept busy would have needed for
the answers that were hits. Not covered: what waiting less is worth; answers that were joined save too, and count as
nothing.
"""

import re
import urllib.request
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

from tradewind.errors import UserError
from tradewind.load.gain import UNCACHED, same_p95
from tradewind.load.outage import outage
from tradewind.load.outcomes import Phases, by_outcome, ended, outcome_of, seconds
from tradewind.load.prediction import PREDICTED, forecast
from tradewind.load.prediction import replay as replayed
from tradewind.load.prices import PRICE, PRICE_OF
from tradewind.load.resampling import added, blocks, share_interval
from tradewind.load.results import QUANTILES, Span, Timing, client, latency, spans, within
from tradewind.tracking import Measurement

NAME, RATE = "caching", 50.0
"""RATE: arrivals a second where none is given, as most are hits."""
UNTIL = ("", "empty", "cold", "warm-up", "warm", "kept")
"""Phases that a run may end with; all, if it says nothing."""
HELD = "tradewind_response_cache"

OURS = ("store", "cache_mib", "cache_ttl_s", "price_per_hour", "assumed_bytes", "assumed_s")
"""Settings that are none of Locust's options."""


@dataclass(frozen=True)
class CachingSettings:
    """Of the load test `caching`, see there. store: memory, or redis: one of our own that two servers share. cache_mib,
    cache_ttl_s: of the server that is started here; of one that runs already, what it was given (for the prediction). until:
    one of UNTIL. price_per_hour: USD, of the machine. assumed_bytes, assumed_s: of an answer, for the forecast."""

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
    assumed_bytes: int = 2048
    assumed_s: float = 0.5

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
    found += [*same_p95(phases, seed), *outage(phases, seed), *miss_cost(good, seed)]
    found += saved(phases, settings.price_per_hour, seed)
    for name in PREDICTED:
        if good.get(name):
            found += replayed(name, good, settings, entry, seed)
            found += forecast(name, raw, good[name], settings, seed)
    return [*found, *client(raw, seed)]


def latencies(group: Sequence[Timing], seed: int) -> list[Measurement]:
    """ttft is that of streams."""
    samples = {
        "ttft": [one["texts"][0] - one["start"] for one in group if one["streamed"] and one["texts"]],
        "e2e": [seconds(one) for one in group],
    }
    return [latency(name, share, values, seed) for name, values in samples.items() for share in QUANTILES if values]


def counted(requests: Sequence[Timing], parts: Sequence[Span], seed: int) -> list[Measurement]:
    """Ratios of outcomes are of the requests that ended well, that of refusals of all that were sent."""
    good, length = ended(requests), sum(end - start for start, end in parts)
    groups = {name: len(group) for name, group in by_outcome(requests).items()}
    failed = sum(one["error"] is not None for one in requests)
    refused = sum(one["rejected"] is not None for one in requests)
    found = [
        Measurement("requests", len(requests), "requests", len(requests), None, "started in the phase, ended", seed),
        Measurement("failures", failed, "requests", len(requests), None, "of these, those that broke", seed),
        Measurement("rejected", refused, "requests", len(requests), None, "of these, those refused", seed),
    ]
    if requests:
        share = refused / len(requests)
        found.append(
            Measurement("rejected_ratio", share, "1", len(requests), None, "refused / requests that were sent", seed)
        )
    if length and good:
        rate = len(good) / length
        found.append(Measurement("requests_per_s", rate, "requests/s", len(good), None, "ended well / seconds", seed))
    if good and groups.keys() - {"empty", UNCACHED}:
        found += [outcome_ratio(outcome, requests, parts, seed) for outcome in ("hit", "miss", "coalesced", "bypass")]
    generated = groups.get("miss", 0) + groups.get("bypass", 0) + groups.get(UNCACHED, 0)
    found.append(Measurement("generations", generated, "answers", len(good), None, "miss + bypass + uncached", seed))
    return found


def outcome_ratio(outcome: str, requests: Sequence[Timing], parts: Sequence[Span], seed: int) -> Measurement:
    """The interval takes seconds of the phase as blocks."""
    counts = []
    for block in blocks(requests, parts):
        good = ended(block)
        counts.append((sum(outcome_of(one) == outcome for one in good), len(good)))
    part, whole = (sum(column) for column in zip(*counts, strict=True))
    formula = f"X-Cache: {outcome} / requests that ended well"
    interval = share_interval(counts, seed)
    return Measurement(f"{outcome}_ratio", part / whole, "1", whole, interval, formula, seed)


def saved(phases: Phases, price: float, seed: int) -> list[Measurement]:
    """What the hits of all phases spared an engine: tokens, seconds of a machine that is kept busy, and what it costs.

    Nothing is added for those that waited with others. Hits count as free; what a machine costs while it waits is not
    looked at.
    """
    hits = [one for _, requests in phases.values() for one in ended(requests) if outcome_of(one) == "hit"]
    tokens = sum(one["completion_tokens"] for one in hits)
    found = [Measurement("saved_tokens", tokens, "tokens", len(hits), None, "completion tokens of hits", seed)]
    spans, requests = phases.get(UNCACHED, ((), ()))
    if not (made := len(ended(requests))):
        return found
    each = sum(end - start for start, end in spans) / made
    thousand, money = 1000 * price / 3600 * each, f"at {price} USD an hour ({PRICE_OF})"
    engine, formula = "hits / requests/s of phase `uncached`", "1,000 * price / requests/s of phase `uncached`"
    spared = len(hits) * thousand / 1000
    return [
        *found,
        Measurement("saved_engine_s", len(hits) * each, "s", len(hits), None, engine, seed),
        Measurement("uncached_usd_per_1000", thousand, "USD", None, None, f"{formula}, {money}", seed),
        Measurement("saved_usd", spared, "USD", len(hits), None, f"hits * that of one answer, {money}", seed),
    ]


def miss_cost(phases: Mapping[str, Sequence[Timing]], seed: int) -> list[Measurement]:
    """What the cache adds to a request that it cannot answer: as many users, by the same popularity, want fresh answers."""
    bare, missed = ([1000 * seconds(one) for one in phases.get(name, ())] for name in (UNCACHED, "no-cache"))
    if not bare or not missed:
        return []
    value, interval = added(missed, bare, 0.5, seed)
    formula = "median E2E of phase `no-cache` - that of phase `uncached`; requests drawn anew, apart"
    return [Measurement("miss_cost_ms", value, "ms", len(missed), interval, formula, seed)]
