"""Prometheus metrics at `/metrics`: vLLM's names and buckets for the engine, so that its dashboards work, OpenTelemetry's
GenAI names for the server, and HTTP calls by route and status.

A registry belongs to one app; each of its models has label values of its own. Counts of an engine's loop are read from
its scheduler when asked for; distributions are told by the scheduler, once per finished request, in its own thread;
calls are told by the middleware.
The prefix cache's files are vLLM's external prefix cache.
Not covered: vLLM's metrics of what is not here (LoRA, KV transfer, iterations); preemptions are always 0, for a running
answer keeps its slot to the end.
"""

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from time import monotonic

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4
from prometheus_client.registry import Collector
from starlette.responses import Response
from starlette.types import Scope

from tradewind.engine.scheduler import Snapshot
from tradewind.engine.timings import Observer, RequestTimings
from tradewind.serving.genai import BUCKETS, samples
from tradewind.serving.meter import Meter
from tradewind.serving.readiness import PROBE

FIRST_TOKEN_S = (
    0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0, 160.0,
    640.0, 2560.0,
)  # fmt: skip
INTER_TOKEN_S = (
    0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0,
)  # fmt: skip
REQUEST_S = (
    0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5, 5.0, 10.0, 15.0, 20.0, 30.0, 40.0, 50.0, 60.0, 120.0, 240.0, 480.0, 960.0, 1920.0,
    7680.0,
)  # fmt: skip
CALL_S = (0.0005, 0.001, 0.0015, 0.002, 0.003, 0.004, 0.006, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 60.0)
CHOICES = (1, 2, 5, 10, 20)
FINISHED_REASON = {"stop": "stop", "length": "length", "error": "error", "cancelled": "abort", "deadline": "abort"}
"""The scheduler's word -> vLLM's."""


def tokens_up_to(largest: int) -> tuple[int, ...]:
    """1, 2, 5, 10, 20, 50 ... up to and including the first that is not below `largest`: vLLM's buckets of lengths."""
    steps = [mantissa * 10**power for power in range(len(str(largest)) + 1) for mantissa in (1, 2, 5)]
    return tuple(step for place, step in enumerate(steps) if place == 0 or steps[place - 1] < largest)


class Metrics:
    """Made before the schedulers, whose observers `finished_by` gives; `watch` then shows it a scheduler's counts."""

    def __init__(self, model: str, max_len: int) -> None:
        self.model = model
        self.registry = CollectorRegistry()
        self._loops = LoopCollector()
        self.registry.register(self._loops)
        lengths = tokens_up_to(max_len)

        def histogram(name: str, text: str, buckets: Sequence[float]) -> Histogram:
            return Histogram(f"vllm:{name}", text, ["model_name"], registry=self.registry, buckets=buckets)

        self._prompt = histogram("request_prompt_tokens", "Prompt tokens of a request.", lengths)
        self._generation = histogram("request_generation_tokens", "Tokens generated for a request.", lengths)
        self._n = histogram("request_params_n", "Answers asked for.", CHOICES)
        self._max_tokens = histogram("request_params_max_tokens", "Tokens asked for at most.", lengths)
        self._ttft = histogram("time_to_first_token_seconds", "Submission to first token.", FIRST_TOKEN_S)
        self._itl = histogram("inter_token_latency_seconds", "Between two tokens of an answer.", INTER_TOKEN_S)
        self._e2e = histogram("e2e_request_latency_seconds", "Submission to last token.", REQUEST_S)
        self._queue = histogram("request_queue_time_seconds", "Submission to begin of prefill.", REQUEST_S)
        self._prefill = histogram("request_prefill_time_seconds", "Begin of prefill to first token.", REQUEST_S)
        self._decode = histogram("request_decode_time_seconds", "First to last token.", REQUEST_S)
        labels = ["model_name", "finished_reason"]
        self._success = Counter("vllm:request_success", "Requests by their end.", labels, registry=self.registry)
        self._preemptions = Counter(
            "vllm:num_preemptions", "Running answers put back to wait: never.", ["model_name"], registry=self.registry
        )
        self._failovers = Counter(
            "tradewind_failovers", "Replicas that requests under way lost.", ["model_name"], registry=self.registry
        )
        self._calls = Counter(
            "tradewind_http_requests", "Calls by route, method and status.", ["route", "method", "status"],
            registry=self.registry,
        )  # fmt: skip
        self._by_cache = Histogram(
            "tradewind_call_seconds", "Calls that generate, by what the response cache had.", ["cache"],
            registry=self.registry, buckets=CALL_S,
        )  # fmt: skip
        self._genai = _genai_histograms(self.registry)
        self._open(model)

    def watch(self, snapshot: Callable[[], Snapshot], model: str) -> None:
        self._open(model)
        self._loops.snapshots[model] = snapshot

    def _open(self, model: str) -> None:
        """Series that begin at 0, not with their first observation."""
        held = (self._prompt, self._generation, self._n, self._max_tokens, self._ttft, self._itl, self._e2e)
        for one in (*held, self._queue, self._prefill, self._decode, self._preemptions):
            one.labels(model)

    def finished_by(self, model: str) -> Observer:
        """The observer of this model's scheduler."""
        return partial(self._finished, model)

    def failed_over_by(self, model: str) -> Callable[[], None]:
        """To be called where a request lost its replica."""
        return self._failovers.labels(model).inc

    def _finished(self, name: str, timings: RequestTimings) -> None:
        """Called in a scheduler's thread. The server's own probes are no requests of anybody."""
        if timings.tenant == PROBE:
            return
        self._success.labels(name, FINISHED_REASON[timings.finish_reason]).inc()
        self._prompt.labels(name).observe(timings.prompt_tokens)
        self._generation.labels(name).observe(timings.completion_tokens)
        self._n.labels(name).observe(timings.n)
        self._max_tokens.labels(name).observe(timings.max_tokens)
        self._e2e.labels(name).observe(timings.e2e_s)
        self._queue.labels(name).observe(timings.queued_s)
        if timings.ttft_s is not None:
            self._ttft.labels(name).observe(timings.ttft_s)
            self._prefill.labels(name).observe(timings.prefill_s)
            self._decode.labels(name).observe(timings.decode_s)
        gaps = self._itl.labels(name)
        for seconds in timings.inter_token_s:
            gaps.observe(seconds)

    def begin(self, scope: Scope) -> "Metrics":
        """An observer of calls (see `middleware.Observed`) that has nothing to remember of their begin."""
        return self

    def end(self, scope: Scope, status: int, meter: Meter) -> None:
        route = route_of(scope)
        method = scope["method"] if route != UNKNOWN and status != 405 else UNKNOWN  # a client may invent any
        self._calls.labels(route, method, str(status)).inc()
        if meter.cached is not None:
            self._by_cache.labels(meter.cached).observe(monotonic() - meter.started)
        for sample in samples(meter.model or self.model, scope, status, meter):
            histogram = self._genai[sample.name]
            histogram.labels(*(str(sample.attributes.get(name, "")) for name in LABELS)).observe(sample.value)

    def response(self) -> Response:
        return Response(generate_latest(self.registry), media_type=CONTENT_TYPE_PLAIN_0_0_4)


UNKNOWN = "unknown"
LABELS = ("gen_ai.operation.name", "gen_ai.request.model", "gen_ai.token.type", "error.type")


def route_of(scope: Scope) -> str:
    """The route's template, never the path itself: clients choose paths, and each label value costs memory."""
    return str(getattr(scope.get("route"), "path", UNKNOWN))


def _genai_histograms(registry: CollectorRegistry) -> dict[str, Histogram]:
    """OpenTelemetry's names as its Prometheus mapping writes them: dots to underscores, the unit behind."""
    labels = [label.replace(".", "_") for label in LABELS]
    return {
        name: Histogram(
            name.replace(".", "_") + ("_seconds" if unit == "s" else ""),
            text,
            labels,
            registry=registry,
            buckets=bounds,
        )
        for name, (unit, text, bounds) in BUCKETS.items()
    }


GAUGES = {
    "vllm:num_requests_running": ("running", "Answers in slots."),
    "vllm:num_requests_waiting": ("waiting", "Requests without an answer in a slot."),
    "vllm:kv_cache_usage_perc": ("kv_usage", "Share of the slots' positions that hold a token, 0 to 1."),
    "tradewind_prefix_cache_bytes": ("prefix_bytes", "Keys and values that the prefix cache holds in memory."),
    "tradewind_prefix_cache_entries": ("prefix_entries", "Prompts, with or without answers, that it holds in memory."),
    "tradewind_prefix_cache_disk_bytes": ("prefix_disk_bytes", "Of its files."),
    "tradewind_prefix_cache_disk_entries": ("prefix_disk_entries", "Of its files."),
}
COUNTERS = {
    "vllm:prompt_tokens": ("prompt_tokens", "Prompt tokens run or taken from the prefix cache."),
    "vllm:generation_tokens": ("completion_tokens", "Tokens generated."),
    "vllm:prefix_cache_queries": ("prefix_queries", "Prompt tokens looked for in the prefix cache."),
    "vllm:prefix_cache_hits": ("prefix_hits", "Prompt tokens found in the prefix cache, in memory."),
    "vllm:external_prefix_cache_queries": ("prefix_disk_queries", "Prompt tokens looked for in its files, too."),
    "vllm:external_prefix_cache_hits": ("prefix_disk_hits", "Prompt tokens found in its files, and not in memory."),
    "tradewind_prefix_cache_lookups": ("prefix_lookups", "Prompts looked up in the prefix cache."),
    "tradewind_prefix_cache_evicted_entries": ("prefix_evicted", "Entries that the budget in memory took."),
    "tradewind_prefix_cache_evicted_bytes": ("prefix_evicted_bytes", "Their keys and values."),
    "tradewind_prefix_cache_saved_seconds": ("prefix_saved_s", "Found tokens by the prefill rate of that moment."),
    "tradewind_prefix_cache_disk_written_entries": ("prefix_disk_written", "Entries written to files."),
    "tradewind_prefix_cache_disk_lost_entries": ("prefix_disk_lost", "Not written, or damaged when read."),
    "tradewind_prefix_cache_disk_read_seconds": ("prefix_disk_read_s", "Spent on reading what was found in files."),
    "vllm:spec_decode_num_draft_tokens": ("drafted", "Tokens drafted by speculation."),
    "vllm:spec_decode_num_accepted_tokens": ("accepted", "Of those, the ones that were chosen."),
}
"""Metric -> the snapshot's field, and what it is."""


class LoopCollector(Collector):
    """The schedulers' counts at the moment that they are asked for. snapshots: by model."""

    def __init__(self) -> None:
        self.snapshots: dict[str, Callable[[], Snapshot]] = {}

    def collect(self) -> Iterable[Metric]:
        now = {model: snapshot() for model, snapshot in self.snapshots.items()}
        for family, table in ((GaugeMetricFamily, GAUGES), (CounterMetricFamily, COUNTERS)):
            for name, (field, text) in table.items():
                made = family(name, text, labels=["model_name"])
                for model, snapshot in now.items():
                    made.add_metric([model], getattr(snapshot, field))
                yield made
