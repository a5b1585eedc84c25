"""What every call passes: a request id, the access log, and the API keys where there are any. Plain ASGI.

Keys are kept as SHA-256 digests and compared in constant time. Not covered: scopes, limits per key.
"""

import hashlib
import hmac
import logging
import re
import time
import uuid

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from tradewind.serving.errors import ApiError

log = logging.getLogger(__name__)
OPEN_PATHS = ("/health", "/ready")
"""Served without a key: probes have none."""
GIVEN_ID = re.compile(r"[A-Za-z0-9._-]{1,128}")


class RequestId:
    """X-Request-Id on every reply: the client's own where it is harmless, a fresh one elsewhere. Logs a line a call."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        given = Headers(scope=scope).get("x-request-id", "")
        request_id = given if GIVEN_ID.fullmatch(given) else uuid.uuid4().hex
        status, start = 499, time.perf_counter()

        async def with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                MutableHeaders(scope=message)["X-Request-Id"] = request_id
            await send(message)

        try:
            await self.app(scope, receive, with_id)
        finally:
            if scope.get("state", {}).get("client_gone"):
                status = 499
            milliseconds = 1000 * (time.perf_counter() - start)
            log.info("%s %s %d %.1f ms %s", scope["method"], scope["path"], status, milliseconds, request_id)


class ApiKeys:
    """401 for every path but the probes' where no known key is given."""

    def __init__(self, app: ASGIApp, keys: tuple[str, ...]) -> None:
        self.app = app
        self._digests = [_digest(key) for key in keys]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] in OPEN_PATHS or self._known(Headers(scope=scope)):
            await self.app(scope, receive, send)
            return
        error = ApiError("invalid_api_key", "Give a valid API key as Authorization: Bearer KEY.")
        response = error.response()
        response.headers["WWW-Authenticate"] = "Bearer"
        await response(scope, receive, send)

    def _known(self, headers: Headers) -> bool:
        scheme, _, key = headers.get("authorization", "").partition(" ")
        given = _digest(key.strip())
        matches = [hmac.compare_digest(given, known) for known in self._digests]  # all: the time taken tells nothing
        return scheme.lower() == "bearer" and any(matches)


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()
