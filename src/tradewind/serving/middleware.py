"""What every call passes, outermost first: request id and access log, measurement, deadlines, API key, limits.

All are plain ASGI, so that streams pass unbuffered. Each leaves what it found out in the scope's `state` (see `Meter`).
Not covered: cross-origin rules, compression, proxies' headers.
"""

import asyncio
import logging
import re
import time
import uuid
from typing import Protocol
from urllib.parse import quote

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from tradewind.serving.errors import CLIENT_GONE, ApiError
from tradewind.serving.keys import Keyring
from tradewind.serving.limits import Limiter
from tradewind.serving.meter import Meter
from tradewind.serving.replies import sse

log = logging.getLogger(__name__)
SCOPE_OF = (
    ("/health", None),
    ("/ready", None),
    ("/static", None),
    ("/docs", None),
    ("/metrics", "metrics"),
    ("/v1/models", "models"),
    ("/v1/load_lora_adapter", "admin"),
    ("/v1/unload_lora_adapter", "admin"),
    ("/v1/", "generate"),
    ("/admin/", "admin"),
    ("/", ""),
)
"""Path prefix -> scope that its key needs; the first that fits. None: no key, for probes and browsers have none; "": any
key."""
GENERATE = "generate"
GIVEN_ID = re.compile(r"[A-Za-z0-9._-]{1,128}")


def scope_of(path: str) -> str | None:
    if path == "/":  # the page, not all that begins so
        return None
    for prefix, needed in SCOPE_OF:
        if path == prefix or path.startswith(prefix if prefix.endswith("/") else f"{prefix}/"):
            return needed
    return ""


class RequestId:
    """X-Request-Id on every reply: the client's own where it is harmless, a fresh one elsewhere. Logs a line a call.

    An error that nobody foresaw is logged and answered here, so that this reply has an id too.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        given = Headers(scope=scope).get("x-request-id", "")
        request_id = given if GIVEN_ID.fullmatch(given) else uuid.uuid4().hex
        status, start = CLIENT_GONE, time.perf_counter()

        async def with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                MutableHeaders(scope=message)["X-Request-Id"] = request_id
            await send(message)

        try:
            await self.app(scope, receive, with_id)
        except Exception:
            log.exception("%s %s failed, request %s", scope["method"], path_of(scope), request_id)
            if status != CLIENT_GONE:
                raise  # too late for another status: the connection is cut
            error = ApiError("engine_fault", "The server failed on this request.")
            await error.response()(scope, receive, with_id)
        finally:
            if scope.get("state", {}).get("client_gone"):
                status = CLIENT_GONE
            milliseconds = 1000 * (time.perf_counter() - start)
            log.info("%s %s %d %.1f ms %s", scope["method"], path_of(scope), status, milliseconds, request_id)


def path_of(scope: Scope) -> str:
    """The path as it may stand in a log: percent-encoded, so that no client writes lines of its own."""
    return quote(scope["path"])


class ObservedCall(Protocol):
    """One call, from the observer's side."""

    def end(self, scope: Scope, status: int, meter: Meter) -> None: ...


class Observer(Protocol):
    """Told of the begin of every call."""

    def begin(self, scope: Scope) -> ObservedCall: ...


class Observed:
    """Tells the observers of every call and of its end: its status, and what its meter says."""

    def __init__(self, app: ASGIApp, observers: tuple[Observer, ...]) -> None:
        self.app, self.observers = app, observers

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        status = CLIENT_GONE

        async def noting(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        meter = Meter.of(scope)
        calls = [observer.begin(scope) for observer in self.observers]
        try:
            await self.app(scope, receive, noting)
        except Exception:
            status = 500
            raise
        finally:
            if scope["state"].get("client_gone"):
                status = CLIENT_GONE
            for call in calls:
                call.end(scope, status, meter)


class Deadlines:
    """A body has `body_s` seconds to arrive, a call `call_s` to be answered to its last byte.

    The first is a 408; the second a 504, or in a stream that has begun an error event with no `[DONE]`; a call that is
    cancelled by the server's end likewise, with 503. What the call runs is cancelled each time; where another body than a
    stream has begun, the connection is closed.
    """

    def __init__(self, app: ASGIApp, body_s: float, call_s: float) -> None:
        self.app, self.body_s, self.call_s = app, body_s, call_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        started = streams = False

        async def noting(message: Message) -> None:
            nonlocal started, streams
            if message["type"] == "http.response.start":
                started = True
                streams = Headers(raw=message["headers"]).get("content-type", "").startswith("text/event-stream")
            else:
                streams = streams and message.get("more_body", False)  # nothing can follow a last piece
            await send(message)

        async def end(error: ApiError) -> None:
            if not started:
                await error.response()(scope, receive, send)
            elif streams:
                await send({"type": "http.response.body", "body": sse(error.body), "more_body": False})

        try:
            async with asyncio.timeout(self.call_s) as deadline:
                await self.app(scope, self._timed(receive), noting)
        except TimeoutError:
            if not deadline.expired():
                raise
            await end(ApiError("request_timeout", f"The request took longer than {self.call_s:g} seconds."))
        except asyncio.CancelledError:  # only a server that ends cancels calls, when their drain time is over
            await end(ApiError("server_is_overloaded", "The server is shutting down."))
            raise

    def _timed(self, receive: Receive) -> Receive:
        """`receive` until the body's last piece, by a deadline for all of them together."""
        latest, complete = asyncio.get_running_loop().time() + self.body_s, False

        async def timed() -> Message:
            nonlocal complete
            if complete:
                return await receive()
            try:
                async with asyncio.timeout_at(latest):
                    message = await receive()
            except TimeoutError:
                raise ApiError(
                    "body_timeout", f"The body took longer than {self.body_s:g} seconds to arrive."
                ) from None
            complete = not message.get("more_body", False)
            return message

        return timed


class ApiKeys:
    """401 without a known key, 403 without the scope that the path needs; who calls is noted in the meter."""

    def __init__(self, app: ASGIApp, keys: Keyring) -> None:
        self.app, self.keys = app, keys

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        needed = scope_of(scope["path"]) if scope["type"] == "http" else None
        if needed is None:
            await self.app(scope, receive, send)
            return
        principal = self.keys.find(bearer(Headers(scope=scope)))
        if principal is None:
            error = ApiError("invalid_api_key", "Give a valid API key as Authorization: Bearer KEY.")
        elif needed and needed not in principal.scopes:
            error = ApiError("missing_scope", f"This key may not: the scope {needed!r} is missing.")
        else:
            Meter.of(scope).principal = principal
            await self.app(scope, receive, send)
            return
        await error.response()(scope, receive, send)


class RateLimits:
    """The limits of the caller's key and tenant, on calls that generate: 429 beyond them, `x-ratelimit-*` on replies."""

    def __init__(self, app: ASGIApp, limiter: Limiter) -> None:
        self.app, self.limiter = app, limiter

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] != "POST" or scope_of(scope["path"]) != GENERATE:
            await self.app(scope, receive, send)
            return
        meter = Meter.of(scope)
        account = self.limiter.account(meter.principal)
        meter.admit = account.take_tokens

        async def with_limits(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(account.headers)
            await send(message)

        try:
            await account.take_request()
        except ApiError as error:
            await error.response()(scope, receive, with_limits)
            return
        try:
            await self.app(scope, receive, with_limits)
        finally:
            await account.settle(meter.unsettled)


def bearer(headers: Headers) -> str:
    """The key of an Authorization header; empty where there is none."""
    scheme, _, key = headers.get("authorization", "").partition(" ")
    return key.strip() if scheme.lower() == "bearer" else ""
