"""Prometheus metrics at `/metrics`: vLLM's names and buckets for the engine, so that its dashboards work, OpenTelemetry's
GenAI names for the server, and HTTP calls by route and status.

A registry belongs to one app. Counts of the engine's loop are read from the scheduler when asked for; distributions are
told by the scheduler, once per finished request, in its own thread; calls are told by the middleware.
Not covered: vLLM's metrics of what is not here (LoRA, KV transfer, iterations); preemptions are always 0, for a running
answer keeps its slot to the end.
"""

from collections.abc import Callable, Iterable, Sequence

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4
from prometheus_client.registry import Collector
from starlette.responses import Response
from starlette.types import Scope

from tradewind.engine.scheduler import Snapshot
from tradewind.engine.timings import RequestTimings
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
CHOICES = (1, 2, 5, 10, 20)
FINISHED_REASON = {"stop": "stop", "length": "length", "error": "error", "cancelled": "abort", "deadline": "abort"}
"""The scheduler's word -> vLLM's."""


def tokens_up_to(largest: int) -> tuple[int, ...]:
    """1, 2, 5, 10, 20, 50 ... up to and including the first that is not below `largest`: vLLM's buckets of lengths."""
    steps = [mantissa * 10**power for power in range(len(str(largest)) + 1) for mantissa in (1, 2, 5)]
    return tuple(step for place, step in enumerate(steps) if place == 0 or steps[place - 1] < largest)


class Metrics:
    """Made before the scheduler, whose observer `finished` is; `watch` then shows it the scheduler's counts."""

    def __init__(self, model: str, max_len: int) -> None:
        self.model = model
        self.registry = CollectorRegistry()
        lengths = tokens_up_to(max_len)

        def histogram(name: str, text: str, buckets: Sequence[float]) -> Histogram:
            made = Histogram(f"vllm:{name}", text, ["model_name"], registry=self.registry, buckets=buckets)
            return made.labels(model)

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
        self._counter("num_preemptions", "Running answers put back to wait: never.")
        self._calls = Counter(
            "tradewind_http_requests", "Calls by route, method and status.", ["route", "method", "status"],
            registry=self.registry,
        )  # fmt: skip
        self._genai = _genai_histograms(self.registry)

    def _counter(self, name: str, text: str) -> Counter:
        return Counter(f"vllm:{name}", text, ["model_name"], registry=self.registry).labels(self.model)

    def watch(self, snapshot: Callable[[], Snapshot]) -> None:
        self.registry.register(LoopCollector(snapshot, self.model))

    def finished(self, timings: RequestTimings) -> None:
        """The scheduler's observer: called in its thread. The server's own probes are no requests of anybody."""
        if timings.tenant == PROBE:
            return
        self._success.labels(self.model, FINISHED_REASON[timings.finish_reason]).inc()
        self._prompt.observe(timings.prompt_tokens)
        self._generation.observe(timings.completion_tokens)
        self._n.observe(timings.n)
        self._max_tokens.observe(timings.max_tokens)
        self._e2e.observe(timings.e2e_s)
        self._queue.observe(timings.queued_s)
        if timings.ttft_s is not None:
            self._ttft.observe(timings.ttft_s)
            self._prefill.observe(timings.prefill_s)
            self._decode.observe(timings.decode_s)
        for seconds in timings.inter_token_s:
            self._itl.observe(seconds)

    def begin(self, scope: Scope) -> "Metrics":
        """An observer of calls (see `middleware.Observed`) that has nothing to remember of their begin."""
        return self

    def end(self, scope: Scope, status: int, meter: Meter) -> None:
        route = route_of(scope)
        method = scope["method"] if route != UNKNOWN and status != 405 else UNKNOWN  # a client may invent any
        self._calls.labels(route, method, str(status)).inc()
        for sample in samples(self.model, scope, status, meter):
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


class LoopCollector(Collector):
    """The scheduler's counts at the moment that they are asked for."""

    def __init__(self, snapshot: Callable[[], Snapshot], model: str) -> None:
        self._snapshot, self._model = snapshot, model

    def collect(self) -> Iterable[Metric]:
        now = self._snapshot()
        gauges = (
            ("num_requests_running", "Answers in slots.", now.running),
            ("num_requests_waiting", "Requests without an answer in a slot.", now.waiting),
            ("kv_cache_usage_perc", "Share of the slots' positions that hold a token, 0 to 1.", now.kv_usage),
        )
        counters = (
            ("prompt_tokens", "Prompt tokens run or taken from the prefix cache.", now.prompt_tokens),
            ("generation_tokens", "Tokens generated.", now.completion_tokens),
            ("prefix_cache_queries", "Prompt tokens looked for in the prefix cache.", now.prefix_queries),
            ("prefix_cache_hits", "Prompt tokens found in the prefix cache.", now.prefix_hits),
            ("spec_decode_num_draft_tokens", "Tokens drafted by speculation.", now.drafted),
            ("spec_decode_num_accepted_tokens", "Of those, the ones that were chosen.", now.accepted),
        )
        for name, text, value in gauges:
            gauge = GaugeMetricFamily(f"vllm:{name}", text, labels=["model_name"])
            gauge.add_metric([self._model], value)
            yield gauge
        for name, text, count in counters:
            counter = CounterMetricFamily(f"vllm:{name}", text, labels=["model_name"])
            counter.add_metric([self._model], count)
            yield counter
