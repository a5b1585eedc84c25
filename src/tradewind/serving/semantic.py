"""The semantic cache's place in the server: chats are watched, and, for tenants that opted in, answered from it.

A chat takes part where the answer is one, reproducible, plain text, and `caching.semantic.context_of` finds a question in
it. What is watched goes to the engine as if nothing were here; its whole answer is observed when it has been given, if it
ended by `stop`: one cut off by `length` is neither scored nor kept. An answer served from here is marked
`X-Cache: semantic`; its completion tokens are those that were sampled when it was made. Streams of it are one chunk.
"""

import asyncio
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, Metric
from prometheus_client.registry import Collector

from tradewind.caching.key import greedy_as_seen, reproducible
from tradewind.caching.semantic import Neighbour, Question, SemanticCache, context_of
from tradewind.encoder.contract import Encoder
from tradewind.engine.backend import Backend, Cancellable, Layer
from tradewind.engine.requests import Delta, Done, Event, Request, Sink
from tradewind.errors import UserError
from tradewind.serving.metrics import Metrics
from tradewind.serving.settings import ServeSettings
from tradewind.serving.wire import ChatRequest


def open_semantic(settings: ServeSettings, encoder: Encoder | None, metrics: Metrics) -> SemanticCache | None:
    """None where the settings want none. Raises UserError where they do and there is no encoder."""
    if settings.semantic == "off":
        return None
    if encoder is None:
        raise UserError(f"semantic: there is no encoder in {settings.encoder}: `make repro` makes one")
    cache = SemanticCache(
        encoder,
        settings.semantic_mib << 20,
        settings.semantic_tenants,
        settings.semantic_threshold,
        settings.cache_ttl_s,
    )
    SemanticMetrics(metrics.registry, cache)
    return cache


def question_of(wire: ChatRequest, request: Request, tenant: str, identity: str) -> Question | None:
    """None for a chat that takes no part. identity: see `caching.key`."""
    plain = wire.structure is None and wire.aggregate is None and wire.candidates == 1 and wire.alternatives is None
    if not plain or not reproducible(request) or request.cache_salt:
        return None
    messages = [{"role": one.role, "content": one.content} for one in wire.messages]
    sampling = asdict(greedy_as_seen(request.sampling))
    given = {"sampling": sampling, "max_tokens": wire.answer_tokens, "stop": wire.stop, "ignore_eos": wire.ignore_eos}
    return context_of(tenant, identity, messages, given)


class Watched(Layer):
    """For one request, whose answer the cache is told of when it is whole, unless it was `known` before."""

    def __init__(self, backend: Backend, cache: SemanticCache, asked: Question, known: Callable[[], bool]) -> None:
        super().__init__(backend)
        self._cache, self._asked, self._known = cache, asked, known
        self._texts: list[str] = []
        self._stopped = False

    def submit_all(self, calls: Sequence[tuple[Request, Sink]]) -> Sequence[Cancellable]:
        loop = asyncio.get_running_loop()
        ((request, sink),) = calls

        def watching(event: Event) -> None:
            if isinstance(event, Delta):
                self._texts.append(event.text)
                self._stopped = event.finish_reason == "stop"
            sink(event)
            if isinstance(event, Done) and self._stopped:
                loop.call_soon_threadsafe(self._observe, event.completion_tokens)

        return self.backend.submit_all([(request, watching)])

    def _observe(self, tokens: int) -> None:
        if self._known():
            return
        observing = self._cache.observe(self._asked, "".join(self._texts), tokens)
        task = asyncio.get_running_loop().create_task(observing)
        OBSERVING.add(task)
        task.add_done_callback(OBSERVING.discard)


OBSERVING: set[asyncio.Task[object]] = set()
"""A loop holds its tasks weakly."""


class Given(Layer):
    """A neighbour's answer, for one request. Without token ids: nothing is resumed from it."""

    def __init__(self, backend: Backend, near: Neighbour) -> None:
        super().__init__(backend)
        self.near = near

    def submit_all(self, calls: Sequence[tuple[Request, Sink]]) -> Sequence[Cancellable]:
        ((request, sink),) = calls
        sink(Delta(0, self.near.answer, self.near.tokens, finish_reason="stop"))
        sink(Done(len(request.prompt), self.near.tokens))
        return [Spent()]


class Spent:
    """A ticket of what is over already."""

    def cancel(self) -> None:
        """Too late."""


class SemanticMetrics(Collector):
    """What the cache would have done, by threshold: hits, and those whose answer was another one."""

    def __init__(self, registry: CollectorRegistry, cache: SemanticCache) -> None:
        self._cache = cache
        registry.register(self)

    def collect(self) -> Iterable[Metric]:
        name = "tradewind_semantic_cache"
        yield CounterMetricFamily(f"{name}_lookups", "Questions whose text was new.", self._cache.shadow.lookups)
        hits = CounterMetricFamily(f"{name}_would_hit", "Past questions this near.", labels=["threshold", "guard"])
        wrong = CounterMetricFamily(f"{name}_would_be_wrong", "Of these, other answers.", labels=["threshold", "guard"])
        for row in self._cache.shadow.rows():
            labels = [f"{row['threshold']:g}", "on" if row["guard"] else "off"]
            hits.add_metric(labels, row["hits"])
            wrong.add_metric(labels, row["wrong"])
        yield hits
        yield wrong
        left = CounterMetricFamily(f"{name}_left_out", "Questions that were not embedded, by why.", labels=["why"])
        left.add_metric(["behind"], self._cache.skipped)
        left.add_metric(["failed"], self._cache.failed)
        yield left
