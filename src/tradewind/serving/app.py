"""The API: routes over a scheduler, in OpenAI's shapes.

It knows no weights and no files: `create_app` takes a scheduler, its tokenizer and the model's name, and what stands in
front of them: keys, metrics, traces.
Not served: embeddings, responses, audio, images, batches (404 `unknown_url`).
"""

import time
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response

from tradewind.engine.scheduler import Scheduler
from tradewind.engine.text import Tokenizer
from tradewind.serving import errors
from tradewind.serving.body import read_body
from tradewind.serving.completions import Completions
from tradewind.serving.errors import ApiError
from tradewind.serving.keys import Keyring
from tradewind.serving.limits import Limiter, open_storage
from tradewind.serving.metrics import Metrics
from tradewind.serving.middleware import ApiKeys, Deadlines, Observed, Observer, RateLimits, RequestId
from tradewind.serving.openapi import body_of, describe
from tradewind.serving.readiness import Readiness
from tradewind.serving.replies import Call
from tradewind.serving.settings import ServeSettings
from tradewind.serving.wire import ChatRequest, CompletionRequest


def create_app(
    scheduler: Scheduler,
    tokenizer: Tokenizer,
    model: str,
    settings: ServeSettings | None = None,
    keys: Keyring | None = None,
    metrics: Metrics | None = None,
    traces: Observer | None = None,
) -> FastAPI:
    """The app that serves one model. The scheduler is closed when the app shuts down.

    metrics: whose `finished` the scheduler tells of its requests; without it their distributions stay empty.
    `app.state.readiness` is what /ready asks. Raises UserError where the store of limits cannot be used.
    """
    settings = settings or ServeSettings()
    metrics = metrics or Metrics(model, scheduler.engine.max_len)
    metrics.watch(scheduler.snapshot)
    created = int(time.time())
    fingerprint = f"{scheduler.engine.name}-{scheduler.engine.weights_digest[:12]}"
    completions = Completions(scheduler, tokenizer, settings)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        yield
        scheduler.close()

    # The documentation pages would load scripts from another host.
    app = FastAPI(title="Tradewind", lifespan=lifespan, docs_url=None, redoc_url=None, redirect_slashes=False)
    errors.install(app)
    if keys:
        app.add_middleware(RateLimits, limiter=Limiter(open_storage(settings.limits_storage)))
        app.add_middleware(ApiKeys, keys=keys)
    app.add_middleware(Deadlines, body_s=settings.receive_timeout_s, call_s=settings.request_timeout_s)
    app.add_middleware(Observed, observers=(metrics,) if traces is None else (metrics, traces))
    app.add_middleware(RequestId)
    ready = app.state.readiness = Readiness(scheduler)

    def known(name: str) -> dict[str, Any]:
        if name != model:
            raise ApiError("model_not_found", f"The model {name!r} does not exist; served: {model!r}.", "model")
        facts = {"id": model, "object": "model", "created": created, "owned_by": "tradewind"}
        return {**facts, "max_model_len": scheduler.engine.max_len}

    def call(prefix: str) -> Call:
        return Call(f"{prefix}-{uuid.uuid4().hex}", int(time.time()), model, fingerprint)

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

    @app.get("/v1/models")
    async def models() -> dict[str, Any]:
        return {"object": "list", "data": [known(model)]}

    @app.get("/v1/models/{name:path}")
    async def one_model(name: str) -> dict[str, Any]:
        return known(name)

    @app.post("/v1/chat/completions", openapi_extra=body_of(ChatRequest))
    async def chat(request: Request) -> Response:
        wire = await read_body(request, ChatRequest, settings.max_body_bytes)
        known(wire.model)
        return await completions.chat(wire, call("chatcmpl"), request)

    @app.post("/v1/completions", openapi_extra=body_of(CompletionRequest))
    async def text(request: Request) -> Response:
        wire = await read_body(request, CompletionRequest, settings.max_body_bytes)
        known(wire.model)
        return await completions.text(wire, call("cmpl"), request)

    describe(app, (ChatRequest, CompletionRequest))
    return app
