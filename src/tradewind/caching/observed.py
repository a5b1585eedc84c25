"""What the caches did, for Prometheus. Of answers: outcomes, what was saved, how full it is, how its store does; of vectors:
texts found, computed and passed by, how full it is.

Saved tokens and seconds are those of the answers that were hits. The seconds are what the first asker waited for them, the
engine's queue included: under load more than an engine needs, and no engine time. Answers that were joined, here or in
another process, count as coalesced; nothing is added for them.
"""

from collections.abc import Iterable
from dataclasses import asdict

from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from tradewind.caching.codec import Answer
from tradewind.caching.embedding import EmbeddingCache
from tradewind.caching.memory import LocalStore
from tradewind.caching.shared import RedisShared

AGES_S = (1, 5, 15, 60, 300, 900, 3600, 4 * 3600, 24 * 3600)


class CacheMetrics(Collector):
    """An `Observer` of a `ResponseCache`."""

    def __init__(self, registry: CollectorRegistry, local: LocalStore, shared: RedisShared | None) -> None:
        self._local, self._shared = local, shared
        name = "tradewind_response_cache"
        self._asked = Counter(
            f"{name}_requests",
            "Requests by what the cache had: hit (why: the tier), coalesced (why: with whom), miss, bypass (why).",
            ["outcome", "why"],
            registry=registry,
        )
        self._kept = Counter(f"{name}_stored", "Answers offered to this process' store.", ["kept"], registry=registry)
        self._tokens = Counter(f"{name}_saved_tokens", "Completion tokens of hits.", registry=registry)
        waited = "Of hits: what their first asker waited, in the engine's queue too; not engine time."
        self._seconds = Counter(f"{name}_saved_seconds", waited, registry=registry)
        self._ages = Histogram(f"{name}_hit_age_seconds", "Of answers given again.", registry=registry, buckets=AGES_S)
        for outcome, why in (("hit", "local"), ("coalesced", "here"), ("miss", "")):
            self._asked.labels(outcome, why)
        registry.register(self)

    def looked_up(self, outcome: str, why: str, saved: Answer | None, age_s: float) -> None:
        self._asked.labels(outcome, why).inc()
        if outcome != "hit":
            return
        self._ages.observe(age_s)
        if saved is not None:
            self._tokens.inc(saved.done.completion_tokens)
            self._seconds.inc(saved.seconds)

    def kept(self, stored: bool) -> None:
        self._kept.labels(str(stored).lower()).inc()

    def collect(self) -> Iterable[Metric]:
        name = "tradewind_response_cache"
        yield GaugeMetricFamily(f"{name}_bytes", "Held in this process.", self._local.nbytes)
        yield GaugeMetricFamily(f"{name}_entries", "Held in this process.", len(self._local))
        gone = CounterMetricFamily(f"{name}_removed", "Answers that went, by why.", labels=["why"])
        gone.add_metric(["evicted"], self._local.counts.evicted)
        gone.add_metric(["expired"], self._local.counts.expired)
        yield gone
        if self._shared is None:
            return
        faults = CounterMetricFamily(f"{name}_store_faults", "Of the shared store, by kind.", labels=["kind"])
        for kind, count in asdict(self._shared.faults).items():
            faults.add_metric(["error" if kind == "errors" else kind], count)
        yield faults
        yield GaugeMetricFamily(
            f"{name}_store_open", "1 while the breaker in front of the shared store is open.", self._shared.breaker.open
        )


class EmbeddingMetrics(Collector):
    """Of an `EmbeddingCache`, as it is when asked."""

    def __init__(self, cache: EmbeddingCache) -> None:
        self._cache = cache

    def collect(self) -> Iterable[Metric]:
        name = "tradewind_embedding_cache"
        texts = CounterMetricFamily(f"{name}_texts", "Texts by what the cache had of them.", labels=["outcome"])
        for outcome, count in asdict(self._cache.counts).items():
            texts.add_metric([outcome], count)
        yield texts
        yield GaugeMetricFamily(f"{name}_bytes", "Held in this process.", self._cache.store.nbytes)
        yield GaugeMetricFamily(f"{name}_entries", "Held in this process.", len(self._cache.store))
