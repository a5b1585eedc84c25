"""The API: routes over schedulers, in OpenAI's shapes.

It knows no weights and no files: `create_app` takes a scheduler, its tokenizer and the model's name, and what stands in
front of them: keys, metrics, traces.
Not served: responses, audio, images, batches (404 `unknown_url`).
"""

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response
from limits.aio.storage import Storage

from tradewind.engine.text import Tokenizer
from tradewind.serving import errors
from tradewind.serving.backend import Backend
from tradewind.serving.body import read_body
from tradewind.serving.catalog import Alias, Catalog, Served
from tradewind.serving.embedding_wire import EmbeddingRequest
from tradewind.serving.embeddings import Embeddings
from tradewind.serving.errors import ApiError
from tradewind.serving.keys import Keyring
from tradewind.serving.limits import Limiter, open_storage
from tradewind.serving.metrics import Metrics
from tradewind.serving.middleware import ApiKeys, Deadlines, Observed, Observer, RateLimits, RequestId
from tradewind.serving.openapi import body_of, describe
from tradewind.serving.readiness import Readiness
from tradewind.serving.settings import ServeSettings
from tradewind.serving.wire import ChatRequest, CompletionRequest


def create_app(
    scheduler: Backend,
    tokenizer: Tokenizer,
    model: str,
    settings: ServeSettings | None = None,
    keys: Keyring | None = None,
    metrics: Metrics | None = None,
    traces: Observer | None = None,
    beside: Sequence[Served] = (),
    storage: Storage | None = None,
    aliases: Mapping[str, Alias] | None = None,
    embeddings: Embeddings | None = None,
) -> FastAPI:
    """The app that serves one model, and those `beside` it. All schedulers are closed when the app shuts down.

    metrics: whose `finished_by` the schedulers tell of their requests; without it their distributions stay empty.
    storage: of the limits; what the settings name where it is left out. `app.state.readiness` is what /ready asks.
    embeddings: what answers /v1/embeddings; without it that is a 404.
    Raises UserError where the store of limits cannot be used.
    """
    settings = settings or ServeSettings()
    served = (Served(model, scheduler, tokenizer), *beside)
    metrics = metrics or Metrics(model, scheduler.engine.max_len)
    for one in served:
        metrics.watch(one.scheduler.snapshot, one.name)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        yield
        for one in served:
            one.scheduler.close()

    # The documentation pages would load scripts from another host.
    app = FastAPI(title="Tradewind", lifespan=lifespan, docs_url=None, redoc_url=None, redirect_slashes=False)
    errors.install(app)
    if keys:
        storage = storage if storage is not None else open_storage(settings.limits_storage)
        app.add_middleware(RateLimits, limiter=Limiter(storage))
        app.add_middleware(ApiKeys, keys=keys)
    app.add_middleware(Deadlines, body_s=settings.receive_timeout_s, call_s=settings.request_timeout_s)
    app.add_middleware(Observed, observers=(metrics,) if traces is None else (metrics, traces))
    app.add_middleware(RequestId)
    app.state.readiness = Readiness(*(one.scheduler for one in served))
    _add_probes(app, app.state.readiness, metrics)
    _add_models(app, Catalog(served, settings, aliases), settings, embeddings)
    return app


def _add_probes(app: FastAPI, ready: Readiness, metrics: Metrics) -> None:
    @app.get("/health")
    async def health() -> dict[str, str]:
        """The process answers; nothing is said about the engine."""
        return {"status": "ok"}

    @app.get("/ready")
    async def readiness() -> Response:
        """The engine's loop makes tokens."""
        return JSONResponse({"status": "ready"}) if await ready() else JSONResponse({"status": "not ready"}, 503)

    @app.get("/metrics", include_in_schema=False)
    def numbers() -> Response:
        """In Prometheus' text format."""
        return metrics.response()


def _add_models(app: FastAPI, catalog: Catalog, settings: ServeSettings, embeddings: Embeddings | None = None) -> None:
    encoders = {} if embeddings is None else {embeddings.encoder.name: embeddings.model}

    @app.get("/v1/models")
    async def models() -> dict[str, Any]:
        return {"object": "list", "data": [*map(catalog.model, catalog.names), *encoders.values()]}

    @app.get("/v1/models/{name:path}")
    async def one_model(name: str) -> dict[str, Any]:
        return {**(encoders.get(name) or catalog.model(name))}

    @app.post("/v1/chat/completions", openapi_extra=body_of(ChatRequest))
    async def chat(request: Request) -> Response:
        wire = await read_body(request, ChatRequest, settings.max_body_bytes)
        return await catalog.answer(wire, "chatcmpl", request)

    @app.post("/v1/completions", openapi_extra=body_of(CompletionRequest))
    async def text(request: Request) -> Response:
        wire = await read_body(request, CompletionRequest, settings.max_body_bytes)
        return await catalog.answer(wire, "cmpl", request)

    @app.post("/v1/embeddings", openapi_extra=body_of(EmbeddingRequest))
    async def embed(request: Request) -> Response:
        if embeddings is None:
            raise ApiError("unknown_url", "This server has no encoder: it makes no embeddings.")
        return await embeddings.answer(await read_body(request, EmbeddingRequest, settings.max_body_bytes), request)

    describe(app, (ChatRequest, CompletionRequest, EmbeddingRequest))
