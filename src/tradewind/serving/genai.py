"""One call in OpenTelemetry's GenAI terms: its attributes and its measurements, whoever exports them.

Names, units and bucket boundaries are those of the semantic conventions (status: development). Prompts and answers are
never among them.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from time import monotonic

from opentelemetry.semconv._incubating.attributes import error_attributes
from opentelemetry.semconv._incubating.attributes import gen_ai_attributes as names
from opentelemetry.semconv._incubating.metrics import gen_ai_metrics
from starlette.types import Scope

from tradewind.serving.meter import Meter

OPERATIONS = {"/v1/chat/completions": "chat", "/v1/completions": "text_completion", "/v1/embeddings": "embeddings"}
"""Path -> gen_ai.operation.name."""
PROVIDER = "tradewind"
SECONDS = (0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92)
FIRST_TOKEN = (0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0)
EACH_TOKEN = (0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5)
TOKENS = tuple(float(4**power) for power in range(14))
DURATION = gen_ai_metrics.GEN_AI_SERVER_REQUEST_DURATION
TTFT = gen_ai_metrics.GEN_AI_SERVER_TIME_TO_FIRST_TOKEN
TPOT = gen_ai_metrics.GEN_AI_SERVER_TIME_PER_OUTPUT_TOKEN
USAGE = gen_ai_metrics.GEN_AI_CLIENT_TOKEN_USAGE
BUCKETS: dict[str, tuple[str, str, tuple[float, ...]]] = {
    DURATION: ("s", "From a call's begin to its end.", SECONDS),
    TTFT: ("s", "From a call's begin to its first token.", FIRST_TOKEN),
    TPOT: ("s", "From first to last token, over the tokens after the first; calls of one answer.", EACH_TOKEN),
    USAGE: ("{token}", "Tokens of a call.", TOKENS),
}
"""Metric -> unit, description, bucket boundaries."""

Attributes = Mapping[str, str | int | bool | tuple[str, ...]]


@dataclass(frozen=True)
class Sample:
    """One measurement of one call."""

    name: str
    value: float
    attributes: Attributes


def operation(scope: Scope) -> str | None:
    """None: a call that does not generate."""
    return OPERATIONS.get(scope["path"])


def attributes(model: str, scope: Scope, status: int) -> dict[str, str | int | bool | tuple[str, ...]]:
    """What all of a call's measurements carry."""
    held: dict[str, str | int | bool | tuple[str, ...]] = {
        names.GEN_AI_OPERATION_NAME: operation(scope) or "",
        names.GEN_AI_PROVIDER_NAME: PROVIDER,
        names.GEN_AI_REQUEST_MODEL: model,
        names.GEN_AI_RESPONSE_MODEL: model,
    }
    if status >= 400:
        held[error_attributes.ERROR_TYPE] = str(status)
    return held


def usage(meter: Meter) -> dict[str, str | int | bool | tuple[str, ...]]:
    """What a span adds: counts, and why the answers ended."""
    held: dict[str, str | int | bool | tuple[str, ...]] = {
        names.GEN_AI_USAGE_INPUT_TOKENS: meter.prompt_tokens,
        names.GEN_AI_USAGE_OUTPUT_TOKENS: meter.completion_tokens,
        names.GEN_AI_RESPONSE_FINISH_REASONS: tuple(meter.finish_reasons),
    }
    if meter.requests:
        first = meter.requests[0]
        held[names.GEN_AI_REQUEST_MAX_TOKENS] = first.max_tokens
        held[names.GEN_AI_REQUEST_CHOICE_COUNT] = sum(one.n for one in meter.requests)
    return held


def samples(model: str, scope: Scope, status: int, meter: Meter) -> Iterator[Sample]:
    """A finished call's measurements; none of a call that does not generate."""
    if operation(scope) is None:
        return
    common = attributes(model, scope, status)
    yield Sample(DURATION, monotonic() - meter.started, common)
    if meter.requests or meter.embedded:
        yield Sample(USAGE, meter.prompt_tokens, {**common, names.GEN_AI_TOKEN_TYPE: "input"})
    if meter.requests:
        yield Sample(USAGE, meter.completion_tokens, {**common, names.GEN_AI_TOKEN_TYPE: "output"})
    if meter.first_token is not None and meter.last_token is not None:
        yield Sample(TTFT, meter.first_token - meter.started, common)
        after = meter.completion_tokens - 1
        if after and sum(one.n for one in meter.requests) == 1:  # answers at once share the time
            yield Sample(TPOT, (meter.last_token - meter.first_token) / after, common)
