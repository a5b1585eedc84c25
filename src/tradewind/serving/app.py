"""The API: routes over schedulers, in OpenAI's shapes.

It knows no weights and no files: `create_app` takes a scheduler, its tokenizer and the model's name, and what stands in
front of them: keys, metrics, traces.
Not served: responses, audio, images, batches (404 `unknown_url`).
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response
from fastapi.routing import APIRoute
from limits.aio.storage import Storage
from pydantic import BaseModel

from tradewind.caching.observed import EmbeddingMetrics
from tradewind.caching.popular import CallLog, popular
from tradewind.engine.backend import Backend
from tradewind.engine.text import Tokenizer
from tradewind.serving import errors, reference, static
from tradewind.serving.adapters import Adapters, adapter_of, add_routes, named_folders
from tradewind.serving.body import parse, read_bytes
from tradewind.serving.caches import open_cache
from tradewind.serving.catalog import Alias, Catalog, Served
from tradewind.serving.embedding_wire import EmbeddingRequest
from tradewind.serving.embeddings import Embeddings
from tradewind.serving.errors import ApiError
from tradewind.serving.keys import Keyring
from tradewind.serving.limits import Limiter, open_storage
from tradewind.serving.meter import Meter
from tradewind.serving.metrics import Metrics
from tradewind.serving.middleware import ApiKeys, Deadlines, Observed, Observer, RateLimits, RequestId
from tradewind.serving.openapi import body_of, describe
from tradewind.serving.readiness import Readiness
from tradewind.serving.semantic import open_semantic
from tradewind.serving.settings import ServeSettings
from tradewind.serving.warming import warm
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
    identity: str = "",
    embeddings: Embeddings | None = None,
    adapters: Mapping[str, str] | None = None,
) -> FastAPI:
    """The app that serves one model, and those `beside` it. All schedulers are closed when the app shuts down.

    metrics: whose `finished_by` the schedulers tell of their requests; without it their distributions stay empty.
    identity: see `Served`. storage: of the limits; what the settings name where it is left out. `app.state.readiness` is
    what /ready asks. embeddings: what answers /v1/embeddings; without it that is a 404.
    adapters: name -> digest of those of the settings, which the main model's engine has loaded.
    Raises UserError where the store of limits cannot be used.
    """
    settings = settings or ServeSettings()
    served = (Served(model, scheduler, tokenizer, identity), *beside)
    metrics = metrics or Metrics(model, scheduler.engine.max_len)
    cache = open_cache(settings, metrics)
    semantic = open_semantic(settings, embeddings.encoder if embeddings else None, metrics)
    if embeddings is not None:
        metrics.registry.register(EmbeddingMetrics(embeddings.cache))
    folders = named_folders(settings.adapter)
    over = [adapter_of(served[0], name, folders[name], digest) for name, digest in (adapters or {}).items()]
    catalog = Catalog((*served, *over), settings, aliases, cache, semantic)
    calls = popular(Path(settings.warm_from), settings.warm_calls) if cache and settings.warm_from else ()
    call_log = CallLog(Path(settings.cache_log)) if settings.cache_log else None
    for one in served:
        metrics.watch(one.scheduler.snapshot, one.name)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        warming = asyncio.create_task(warm(catalog, calls)) if calls else None
        yield
        if warming is not None:
            warming.cancel()
        if cache is not None:
            await cache.close()
        if semantic is not None:
            semantic.close()
        if call_log is not None:
            call_log.close()
        for one in served:
            one.scheduler.close()

    # The framework's documentation pages would load scripts from another host; see `_add_pages`.
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
    _add_models(app, catalog, settings, embeddings, call_log)
    if settings.adapters_dir:
        add_routes(app, Adapters(catalog, served[0], Path(settings.adapters_dir)), settings.max_body_bytes)
    _add_pages(app, catalog, settings, keyed=bool(keys))
    return app


Handler = Callable[[Request], Coroutine[Any, Any, Response]]


class Handled(APIRoute):
    """Its handler takes the request and gives the response, so that nothing is to be injected, checked or converted: the
    framework's machinery for that takes a tenth of a cached answer's time."""

    def get_route_handler(self) -> Handler:
        return self.endpoint


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


def _add_models(
    app: FastAPI, catalog: Catalog, settings: ServeSettings, embeddings: Embeddings | None, call_log: CallLog | None
) -> None:
    encoders = {} if embeddings is None else {embeddings.encoder.name: embeddings.model}

    @app.get("/v1/models")
    async def models() -> dict[str, Any]:
        return {"object": "list", "data": [*map(catalog.model, catalog.names), *encoders.values()]}

    @app.get("/v1/models/{name:path}")
    async def one_model(name: str) -> dict[str, Any]:
        return {**(encoders.get(name) or catalog.model(name))}

    async def answered(request: Request, kind: type[ChatRequest | CompletionRequest], prefix: str) -> Response:
        raw = await read_bytes(request, settings.max_body_bytes)
        response = await catalog.answer(parse(raw, kind), prefix, request)
        meter = Meter.of(request.scope)
        if call_log is not None and meter.cached not in (None, "bypass"):
            call_log.add(request.url.path, meter.principal.tenant, raw)
        return response

    def post(path: str, wire: type[BaseModel]) -> Callable[[Handler], None]:
        extra = body_of(wire)
        return lambda handler: app.router.add_api_route(
            path, handler, methods=["POST"], openapi_extra=extra, route_class_override=Handled
        )

    @post("/v1/chat/completions", ChatRequest)
    async def chat(request: Request) -> Response:
        return await answered(request, ChatRequest, "chatcmpl")

    @post("/v1/completions", CompletionRequest)
    async def text(request: Request) -> Response:
        return await answered(request, CompletionRequest, "cmpl")

    @post("/v1/embeddings", EmbeddingRequest)
    async def embed(request: Request) -> Response:
        if embeddings is None:
            raise ApiError("unknown_url", "This server has no encoder: it makes no embeddings.")
        Meter.of(request.scope).model = embeddings.encoder.name
        raw = await read_bytes(request, settings.max_body_bytes)
        return await embeddings.answer(parse(raw, EmbeddingRequest), request)

    describe(app, (ChatRequest, CompletionRequest, EmbeddingRequest))


def _add_pages(app: FastAPI, catalog: Catalog, settings: ServeSettings, keyed: bool) -> None:
    """What a browser sees, without a key: so what only a key may list is not named."""

    def landing(site: static.Site) -> static.Content:
        models = [] if keyed else [catalog.model(name) for name in catalog.names]
        needs_key = ", with a key" if keyed else ""
        return site.page(
            "index.html", models=models, keyed=keyed, needs_key=needs_key, port=settings.port or ServeSettings.port
        )

    def documentation(site: static.Site) -> static.Content:
        document = app.openapi()
        return site.page("reference.html", operations=reference.operations(document), shapes=reference.shapes(document))

    static.install(app, {"/": landing, "/docs": documentation})
