"""OTLP: nothing leaves by default; where an endpoint is named, spans with the caller's trace and GenAI metrics reach it."""

import gzip
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import KeyValue
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from tests.serving.conftest import serving
from tests.serving.test_robustness import CHAT, GOOD
from tests.support import ROOT
from tradewind.engine.mock import MockEngine
from tradewind.serving.settings import ServeSettings
from tradewind.serving.telemetry import telemetry

TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
SECRET = "nobody else reads this"


class Collector:
    """An OTLP/HTTP endpoint that keeps what it gets: (path, body)."""

    def __init__(self) -> None:
        self.received: list[tuple[str, bytes]] = []
        received = self.received

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                zipped = self.headers.get("Content-Encoding") == "gzip"
                received.append((self.path, gzip.decompress(body) if zipped else body))
                self.send_response(200)
                self.end_headers()

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"

    def spans(self) -> list[Span]:
        bodies = (ExportTraceServiceRequest.FromString(body) for path, body in self.received if path == "/v1/traces")
        return [
            span for body in bodies for one in body.resource_spans for scope in one.scope_spans for span in scope.spans
        ]

    def metrics(self) -> dict[str, int]:
        """Name -> count of measurements."""
        bodies = (ExportMetricsServiceRequest.FromString(body) for path, body in self.received if path == "/v1/metrics")
        metrics = (m for body in bodies for one in body.resource_metrics for s in one.scope_metrics for m in s.metrics)
        return {metric.name: sum(point.count for point in metric.histogram.data_points) for metric in metrics}


@pytest.fixture
def collector() -> Iterator[Collector]:
    made = Collector()
    thread = threading.Thread(target=made.server.serve_forever, daemon=True)
    thread.start()
    yield made
    made.server.shutdown()
    made.server.server_close()


def plain(attributes: list[KeyValue]) -> dict[str, object]:
    def one(held: KeyValue) -> object:
        if held.value.HasField("array_value"):
            return [item.string_value for item in held.value.array_value.values]
        return held.value.int_value if held.value.HasField("int_value") else held.value.string_value

    return {held.key: one(held) for held in attributes}


def test_without_an_endpoint_there_is_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OTEL_EXPORTER_OTLP_ENDPOINT", raising=False)
    assert telemetry("mock") is None


@pytest.mark.parametrize(("more", "disabled"), [({}, "true"), ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://h"}, "false")])
def test_the_package_turns_the_sdk_off_unless_an_endpoint_is_named(more: dict[str, str], disabled: str) -> None:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("OTEL_")}
    code = "import os, tradewind; print(os.environ['OTEL_SDK_DISABLED'])"
    environment = {**kept, "PYTHONPATH": str(ROOT / "src"), **more}
    assert subprocess.check_output([sys.executable, "-c", code], env=environment, text=True).strip() == disabled


def test_spans_and_metrics_reach_the_endpoint(collector: Collector, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url)
    monkeypatch.setenv("OTEL_SDK_DISABLED", "false")
    traces = telemetry("mock")
    assert traces is not None
    with serving(MockEngine(), ServeSettings(), traces=traces) as served, served.http() as http:
        headers = {"traceparent": f"00-{TRACE}-{PARENT}-01"}
        body = GOOD | {"messages": [{"role": "user", "content": SECRET}], "ignore_eos": True}
        usage = http.post(CHAT, json=body, headers=headers).json()["usage"]
        http.post(CHAT, json={}, headers={"traceparent": "nonsense"})
        http.get("/health")
    traces.close()
    good, bad = collector.spans()
    assert (good.name, good.trace_id.hex(), good.parent_span_id.hex()) == ("chat mock", TRACE, PARENT)
    assert good.kind == Span.SPAN_KIND_SERVER
    held = plain(list(good.attributes))
    assert held["gen_ai.operation.name"] == "chat"
    assert held["gen_ai.provider.name"] == "tradewind"
    assert held["gen_ai.request.model"] == held["gen_ai.response.model"] == "mock"
    assert held["gen_ai.usage.input_tokens"] == usage["prompt_tokens"]
    assert held["gen_ai.usage.output_tokens"] == usage["completion_tokens"] == 2
    assert held["gen_ai.response.finish_reasons"] == ["length"]
    assert held["gen_ai.request.max_tokens"] == 2
    assert bad.trace_id.hex() != TRACE
    assert plain(list(bad.attributes))["error.type"] == "400"
    assert collector.metrics() == {
        "gen_ai.server.request.duration": 2,
        "gen_ai.server.time_to_first_token": 1,
        "gen_ai.server.time_per_output_token": 1,
        "gen_ai.client.token.usage": 2,
    }
    assert all(SECRET.encode() not in body for _, body in collector.received)
