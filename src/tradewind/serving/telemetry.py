"""OpenTelemetry by OTLP over HTTP: GenAI metrics and one span per generating call, only where an endpoint is configured.

Without OTEL_EXPORTER_OTLP_ENDPOINT nothing is made here and nothing leaves the machine; the other OTEL_* variables
(headers, sampling, intervals, service name) are read by the SDK. A call's `traceparent` becomes its span's parent.
Prompts and answers are never exported. Not covered: logs, gRPC.
"""

import os
import threading
from dataclasses import dataclass

from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
from opentelemetry.sdk.resources import SERVICE_NAME, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import Span, SpanKind, StatusCode
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from starlette.datastructures import Headers
from starlette.types import Scope

from tradewind.serving.genai import BUCKETS, attributes, operation, samples, usage
from tradewind.serving.meter import Meter

ENDPOINT_VARIABLE = "OTEL_EXPORTER_OTLP_ENDPOINT"
SCOPE = "tradewind.serving"
CLOSE_S = 4.0


class Telemetry:
    """An observer of calls (see `middleware.Observed`). Exports in threads of its own until `close`."""

    def __init__(self, model: str) -> None:
        self.model = model
        resource = Resource.create({} if os.environ.get("OTEL_SERVICE_NAME") else {SERVICE_NAME: "tradewind"})
        reader = PeriodicExportingMetricReader(OTLPMetricExporter())
        self._metrics = MeterProvider([reader], resource=resource, shutdown_on_exit=False)
        self._traces = TracerProvider(resource=resource, shutdown_on_exit=False)
        self._traces.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
        self._tracer = self._traces.get_tracer(SCOPE)
        meter = self._metrics.get_meter(SCOPE)
        self.histograms = {
            name: meter.create_histogram(name, unit, text, explicit_bucket_boundaries_advisory=bounds)
            for name, (unit, text, bounds) in BUCKETS.items()
        }

    def begin(self, scope: Scope) -> "TracedCall":
        kind = operation(scope)
        if kind is None:
            return TracedCall(self, None)
        parent = TraceContextTextMapPropagator().extract(dict(Headers(scope=scope).items()))
        return TracedCall(self, self._tracer.start_span(f"{kind} {self.model}", parent, SpanKind.SERVER))

    def close(self) -> None:
        """Export what is left; an endpoint that does not answer is waited for CLOSE_S seconds."""
        for end in [threading.Thread(target=one.shutdown, daemon=True) for one in (self._traces, self._metrics)]:
            end.start()
            end.join(CLOSE_S / 2)


@dataclass
class TracedCall:
    """span: None where the call does not generate."""

    telemetry: Telemetry
    span: Span | None

    def end(self, scope: Scope, status: int, meter: Meter) -> None:
        model = meter.model or self.telemetry.model
        for sample in samples(model, scope, status, meter):
            self.telemetry.histograms[sample.name].record(sample.value, sample.attributes)
        if self.span is not None:
            held = {**attributes(model, scope, status), **usage(meter), "http.response.status_code": status}
            self.span.set_attributes(held)
            if status >= 500:
                self.span.set_status(StatusCode.ERROR)
            self.span.end()


def telemetry(model: str) -> Telemetry | None:
    """Where the environment names an endpoint."""
    return Telemetry(model) if os.environ.get(ENDPOINT_VARIABLE) else None
