"""The API against its own document: Schemathesis sends what the document allows, and what it forbids.

Nothing may be a 5xx; every reply has a documented status, content type and body; what the document forbids is refused;
every slot comes back. Not asked for: that all the document allows is taken (no schema says what fits the context, or is
a regular expression).
"""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from schemathesis import Case, GenerationMode
from schemathesis.schemas import BaseSchema
from schemathesis.specs.openapi.checks import positive_data_acceptance
from starlette.types import Receive, Scope, Send

from tests.serving.conftest import until
from tradewind.caching.embedding import EmbeddingCache
from tradewind.caching.memory import LocalStore
from tradewind.encoder.folder import RandomEncoder, random_encoder
from tradewind.encoder.jax import JaxEncoder
from tradewind.encoder.model import to_model
from tradewind.engine.mock import MockEngine
from tradewind.engine.scheduler import Scheduler
from tradewind.engine.text import ByteTokenizer
from tradewind.serving.app import create_app
from tradewind.serving.embeddings import Embeddings
from tradewind.serving.settings import ServeSettings

POSTS = ("/v1/chat/completions", "/v1/completions")
EMBED = "/v1/embeddings"
GETS = ("/health", "/ready", "/v1/models", "/v1/models/{name}")
SLOTS = 4
Served = tuple[BaseSchema, Scheduler]


def in_process() -> JaxEncoder:
    """Random weights, no files; every function compiled."""
    config, flat, tokenizer = random_encoder(RandomEncoder(16, 1, 2, 16), seed=0)
    encoder = JaxEncoder(to_model(config, flat), tokenizer, "tiny")
    for words in (1, 20, 50, 100, 200):  # compiled here, for a call may take 10 seconds
        encoder.embed(["a " * words])
        encoder.embed(["a " * words] * 2)
    return encoder


@contextmanager
def document() -> Iterator[Served]:
    """The document of an app over the mock engine, called in this process; closed here, not after the first test as
    Schemathesis closes an app.
    """
    scheduler = Scheduler(MockEngine(slots=SLOTS, max_len=256), ByteTokenizer())
    settings = ServeSettings(max_choices=16, max_input_tokens=2048)
    embeddings = Embeddings(EmbeddingCache(in_process(), LocalStore(1 << 20)), settings)
    app = create_app(scheduler, ByteTokenizer(), "mock", settings, embeddings=embeddings)

    async def open_app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            raise NotImplementedError
        await app(scope, receive, send)

    yield schemathesis.openapi.from_asgi("/openapi.json", open_app), scheduler
    scheduler.close()


@pytest.fixture(scope="module")
def served() -> Iterator[Served]:
    with document() as made:
        yield made


def whole(value: object) -> object:
    """2.0 is an integer in a schema's eyes, not in the API's."""
    if isinstance(value, dict):
        return {key: whole(one) for key, one in value.items()}
    if isinstance(value, list):
        return [whole(one) for one in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


def fuzz(served: Served, path: str, method: str, mode: GenerationMode, examples: int) -> Counter[str]:
    """How many requests were answered with status 200, by content type."""
    schema, scheduler = served
    operation = schema[path][method]
    answered: Counter[str] = Counter()

    @settings(
        max_examples=examples,
        deadline=None,
        database=None,
        derandomize=True,
        phases=(Phase.generate,),
        suppress_health_check=list(HealthCheck),
    )
    @given(case=operation.as_strategy(generation_mode=mode), stream=st.booleans())
    def one(case: Case, stream: bool) -> None:
        if mode is GenerationMode.POSITIVE and isinstance(case.body, dict):
            alone = {key: value for key, value in case.body.items() if key != "aggregate" or not stream}
            ours = {"model": "tiny"} if path == EMBED else {"model": "mock", "stream": stream}
            case.body = whole({**alone, **ours})  # a fan-out is never streamed
        response = case.call()
        case.validate_response(response, excluded_checks=[positive_data_acceptance])
        if response.status_code == 200:
            answered[response.headers["content-type"][0].partition(";")[0]] += 1

    one()
    until(lambda: scheduler.snapshot().free_slots == SLOTS and scheduler.idle)
    return answered


@pytest.mark.parametrize("mode", GenerationMode)
@pytest.mark.parametrize("path", POSTS)
def test_bodies(served: Served, path: str, mode: GenerationMode) -> None:
    """Which requests are made depends on the modules that are imported: so many that both kinds of reply are among them."""
    answered = fuzz(served, path, "post", mode, 240)
    if mode is GenerationMode.POSITIVE:
        assert min(answered["application/json"], answered["text/event-stream"]) > 10
    else:
        assert not answered


@pytest.mark.parametrize("mode", GenerationMode)
def test_bodies_of_embeddings(served: Served, mode: GenerationMode) -> None:
    """Of what is allowed, most name dimensions that the encoder has not."""
    answered = fuzz(served, EMBED, "post", mode, 240)
    assert (answered["application/json"] > 10) == (mode is GenerationMode.POSITIVE)


@pytest.mark.parametrize("path", GETS)
def test_what_is_read(served: Served, path: str) -> None:
    fuzz(served, path, "get", GenerationMode.POSITIVE, 30)


def test_the_model_that_is_served(served: Served) -> None:
    case = served[0]["/v1/models/{name}"]["get"].Case(path_parameters={"name": "mock"})
    assert case.call_and_validate().status_code == 200


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("mode", GenerationMode)
@pytest.mark.parametrize("path", POSTS)
def test_ten_thousand(served: Served, path: str, mode: GenerationMode) -> None:
    """2,500 examples in each of four, a request each at least."""
    fuzz(served, path, "post", mode, 2500)
