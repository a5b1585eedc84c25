"""/metrics: vLLM's names, types and buckets, GenAI's names, calls by route, one registry an app."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample

from tests.serving.conftest import Served, serving, until
from tests.serving.test_robustness import CHAT, GOOD, raw_request
from tradewind.engine.mock import MockEngine
from tradewind.engine.timings import RequestTimings
from tradewind.serving.metrics import Metrics, tokens_up_to
from tradewind.serving.settings import ServeSettings

VLLM = {
    "num_requests_running": "gauge",
    "num_requests_waiting": "gauge",
    "kv_cache_usage_perc": "gauge",
    "prefix_cache_queries": "counter",
    "prefix_cache_hits": "counter",
    "num_preemptions": "counter",
    "prompt_tokens": "counter",
    "generation_tokens": "counter",
    "external_prefix_cache_queries": "counter",
    "external_prefix_cache_hits": "counter",
    "spec_decode_num_draft_tokens": "counter",
    "spec_decode_num_accepted_tokens": "counter",
    "request_success": "counter",
    "request_prompt_tokens": "histogram",
    "request_generation_tokens": "histogram",
    "request_params_n": "histogram",
    "request_params_max_tokens": "histogram",
    "time_to_first_token_seconds": "histogram",
    "inter_token_latency_seconds": "histogram",
    "e2e_request_latency_seconds": "histogram",
    "request_queue_time_seconds": "histogram",
    "request_prefill_time_seconds": "histogram",
    "request_decode_time_seconds": "histogram",
}
GENAI = (
    "gen_ai_server_request_duration_seconds",
    "gen_ai_server_time_to_first_token_seconds",
    "gen_ai_server_time_per_output_token_seconds",
    "gen_ai_client_token_usage",
)


def ended(**changes: Any) -> RequestTimings:
    """As the scheduler tells of a request."""
    usual = RequestTimings("", 0, 12, 8, 3, "stop", 0.4, 0.2, 0.03, 0.6, 0.7, [0.02, 0.03], n=2, max_tokens=64)
    return replace(usual, **changes)


def read(text: str) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    """(name, labels without the model's) -> value."""

    def key(sample: Sample) -> tuple[str, frozenset[tuple[str, str]]]:
        labels = {name: value for name, value in sample.labels.items() if name != "model_name"}
        return sample.name, frozenset(labels.items())

    samples = (sample for family in text_string_to_metric_families(text) for sample in family.samples)
    return {key(sample): sample.value for sample in samples}


def value(text: str, name: str, **labels: str) -> float:
    return read(text)[name, frozenset(labels.items())]


def text_of(metrics: Metrics) -> str:
    return bytes(metrics.response().body).decode()


@pytest.fixture
def served() -> Iterator[Served]:
    with serving(MockEngine(slots=2, max_len=4096, step_delay=0.002), ServeSettings()) as made:
        yield made


def scrape(served: Served) -> str:
    with served.http() as http:
        reply = http.get("/metrics")
    assert reply.status_code == 200
    assert reply.headers["content-type"].startswith("text/plain")
    return reply.text


def test_names_types_and_the_model(served: Served) -> None:
    families = {family.name: family for family in text_string_to_metric_families(scrape(served))}
    for name, kind in VLLM.items():
        assert families[f"vllm:{name}"].type == kind
        samples = families[f"vllm:{name}"].samples
        assert name == "request_success" or {sample.labels["model_name"] for sample in samples} == {"mock"}
    assert set(GENAI) <= set(families)


def test_a_finished_request_is_in_every_distribution() -> None:
    metrics = Metrics("mock", 2048)
    metrics.finished_by("mock")(ended())
    metrics.finished_by("mock")(ended(finish_reason="cancelled", ttft_s=None, completion_tokens=0, inter_token_s=[]))
    metrics.finished_by("mock")(ended(finish_reason="deadline"))
    text = text_of(metrics)
    for name, count, total in (
        ("request_prompt_tokens", 3, 36),
        ("request_generation_tokens", 3, 6),
        ("request_params_n", 3, 6),
        ("request_params_max_tokens", 3, 192),
        ("time_to_first_token_seconds", 2, 0.06),
        ("inter_token_latency_seconds", 4, 0.1),
        ("e2e_request_latency_seconds", 3, 2.1),
        ("request_queue_time_seconds", 3, 1.2),
        ("request_prefill_time_seconds", 2, 0.4),
        ("request_decode_time_seconds", 2, 1.2),
    ):
        assert value(text, f"vllm:{name}_count") == count
        assert value(text, f"vllm:{name}_sum") == pytest.approx(total)
    assert value(text, "vllm:request_success_total", finished_reason="stop") == 1
    assert value(text, "vllm:request_success_total", finished_reason="abort") == 2
    assert value(text, "vllm:num_preemptions_total") == 0


def test_buckets_are_those_of_vllm() -> None:
    bounds = [
        dict(labels)["le"]
        for name, labels in read(text_of(Metrics("mock", 2048)))
        if name.startswith("vllm:time_to_first_token_seconds_b")
    ]
    assert sorted(map(float, bounds))[:4] == [0.001, 0.005, 0.01, 0.02]
    assert len(bounds) == 23  # 22 and infinity
    assert tokens_up_to(2048) == (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000)
    assert tokens_up_to(1) == (1,)
    assert tokens_up_to(512)[-1] == 1000
    assert tokens_up_to(100)[-1] == 100


def test_gauges_follow_the_loop(served: Served) -> None:
    body = json.dumps(GOOD | {"max_tokens": 4000, "ignore_eos": True}).encode()
    clients = [raw_request(served, body) for _ in range(3)]
    until(lambda: (served.scheduler.snapshot().running, served.scheduler.snapshot().waiting) == (2, 1))
    text = scrape(served)
    assert value(text, "vllm:num_requests_running") == 2
    assert value(text, "vllm:num_requests_waiting") == 1
    assert 0 < value(text, "vllm:kv_cache_usage_perc") < 1
    assert value(text, "vllm:generation_tokens_total") >= 2
    for client in clients:
        client.close()
    until(served.all_free)
    assert value(scrape(served), "vllm:kv_cache_usage_perc") == 0


def test_the_prefix_cache_tells_what_it_found_saved_and_lost(tmp_path: Path) -> None:
    """A token of the mock takes 8 bytes. The second server finds in files what the first one held in memory."""
    settings = ServeSettings(prefix_cache_mib=1, prefix_cache_dir=str(tmp_path))
    with serving(MockEngine(slots=1, max_len=4096), settings) as served, served.http() as http:
        for _ in range(2):
            assert http.post(CHAT, json=GOOD).status_code == 200
        text = scrape(served)
        tokens = value(text, "vllm:prompt_tokens_total") / 2
        own = "tradewind_prefix_cache_"
        assert value(text, f"{own}lookups_total") == 2
        assert value(text, "vllm:prefix_cache_queries_total") == 2 * tokens
        assert value(text, "vllm:prefix_cache_hits_total") == tokens - 1
        assert value(text, f"{own}entries") == 1
        assert value(text, f"{own}bytes") == 8 * tokens
        assert value(text, f"{own}saved_seconds_total") > 0
        assert value(text, "vllm:external_prefix_cache_queries_total") == tokens + 1
        for name in ("evicted_entries", "evicted_bytes", "disk_written_entries", "disk_lost_entries"):
            assert value(text, f"{own}{name}_total") == 0
    with serving(MockEngine(slots=1, max_len=4096), settings) as served, served.http() as http:
        assert http.post(CHAT, json=GOOD).status_code == 200
        text = scrape(served)
        assert value(text, "vllm:external_prefix_cache_hits_total") == tokens - 1
        assert value(text, f"{own}disk_entries") == 1
        assert value(text, f"{own}disk_bytes") > 8 * tokens
        assert value(text, f"{own}disk_read_seconds_total") > 0


def test_calls_are_counted_by_route_and_never_by_path(served: Served) -> None:
    with served.http() as http:
        http.post(CHAT, json=GOOD)
        http.post(CHAT, json={})
        http.get("/v1/models/mock")
        http.get("/v1/models/other")
        for place, method in enumerate(("COPY", "LOCK", "MOVE", "PURGE", "SEARCH")):
            http.get(f"/nothing/{place}")
            http.request(method, CHAT)
    text, name = scrape(served), "tradewind_http_requests_total"
    assert value(text, name, route=CHAT, method="POST", status="200") == 1
    assert value(text, name, route=CHAT, method="POST", status="400") == 1
    assert value(text, name, route="/v1/models/{name:path}", method="GET", status="200") == 1
    assert value(text, name, route="/v1/models/{name:path}", method="GET", status="404") == 1
    assert value(text, name, route="unknown", method="unknown", status="404") == 5
    assert value(text, name, route=CHAT, method="unknown", status="405") == 5


def test_a_call_in_genai_terms(served: Served) -> None:
    with served.http() as http:
        usage = http.post(CHAT, json=GOOD | {"max_tokens": 5, "ignore_eos": True}).json()["usage"]
        http.post(CHAT, json={})
    text = scrape(served)
    common = {
        "gen_ai_operation_name": "chat",
        "gen_ai_request_model": "mock",
        "gen_ai_token_type": "",
        "error_type": "",
    }
    duration, ttft, tpot, tokens = GENAI
    assert value(text, f"{duration}_count", **common) == 1
    assert value(text, f"{duration}_count", **common | {"error_type": "400"}) == 1
    assert value(text, f"{ttft}_count", **common) == value(text, f"{tpot}_count", **common) == 1
    assert value(text, f"{ttft}_sum", **common) <= value(text, f"{duration}_sum", **common)
    for kind, field_ in (("input", "prompt_tokens"), ("output", "completion_tokens")):
        assert value(text, f"{tokens}_sum", **common | {"gen_ai_token_type": kind}) == usage[field_]


def test_apps_share_nothing() -> None:
    first, second = Metrics("mock", 64), Metrics("mock", 64)
    first.finished_by("mock")(ended())
    assert value(text_of(first), "vllm:request_prompt_tokens_count") == 1
    assert value(text_of(second), "vllm:request_prompt_tokens_count") == 0
