"""What Ray Serve's proxy says by itself, said as the API says it: the one part of Serve that clients see.

Serve takes the API's route away before its replicas have drained, and has none before the first is there: its own reply is
a 404 in plain text then, which a client takes for a wrong URL. Here it is the 503 of a server that is ending or starting.
Named by RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH. Not covered: `server: uvicorn`, which comes from below.
"""

from starlette.datastructures import Headers
from starlette.middleware import Middleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from tradewind.serving.errors import ApiError

ID = b"x-request-id"


def middlewares() -> list[Middleware]:
    """Outside all of Serve's own."""
    return [Middleware(InOurWords)]


class InOurWords:
    """503 where no API is there, and one X-Request-Id, the API's, where Serve has added the same."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        nowhere = False

        async def reworded(message: Message) -> None:
            nonlocal nowhere
            if message["type"] == "http.response.start":
                message["headers"] = once(message["headers"])
                nowhere = of_proxy(message)
                if nowhere:
                    await unavailable(message["headers"])(scope, receive, send)
            if not nowhere:
                await send(message)

        await self.app(scope, receive, reworded)


def of_proxy(start: Message) -> bool:
    """Whether this is its 404: the API's are JSON."""
    kind = Headers(raw=start["headers"]).get("content-type", "")
    return start["status"] == 404 and kind.startswith("text/plain")


def once(headers: list[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    """With the first request id only."""
    ids = [pair for pair in headers if pair[0].lower() == ID]
    return [*(pair for pair in headers if pair[0].lower() != ID), *ids[:1]]


def unavailable(headers: list[tuple[bytes, bytes]]) -> ASGIApp:
    """With the request id of the reply whose place it takes."""
    reply = ApiError("server_is_overloaded", "The server is starting or shutting down.").response()
    reply.raw_headers += [pair for pair in headers if pair[0].lower() == ID]
    return reply
