"""Errors as OpenAI shapes them: `{"error": {"message", "type", "param", "code"}}`, with the status of a table."""

import math
from collections.abc import Awaitable, Callable

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from tradewind.engine.requests import BadRequest, Closed, ContextTooLong, QueueFull, Refused, Unavailable

INVALID, OVERLOADED, FAULT = "invalid_request_error", "service_unavailable_error", "server_error"
PERMISSION, RATE = "permission_error", "rate_limit_error"
STATUS = {
    "invalid_value": (400, INVALID),
    "invalid_json": (400, INVALID),
    "unsupported_parameter": (400, INVALID),
    "context_length_exceeded": (400, INVALID),
    "invalid_api_key": (401, INVALID),
    "missing_scope": (403, PERMISSION),
    "model_not_found": (404, INVALID),
    "unknown_url": (404, INVALID),
    "method_not_allowed": (405, INVALID),
    "adapter_in_use": (409, INVALID),
    "body_timeout": (408, INVALID),
    "request_too_large": (413, INVALID),
    "slow_down": (429, OVERLOADED),
    "rate_limit_exceeded": (429, RATE),
    "insufficient_quota": (429, RATE),
    "engine_fault": (500, FAULT),
    "server_is_overloaded": (503, OVERLOADED),
    "request_timeout": (504, OVERLOADED),
}
"""code -> (HTTP status, type)."""
WITHOUT_CODE = ("missing_scope", "engine_fault")
"""These go out with code null, as OpenAI's do."""
CLIENT_GONE = 499
"""Status in logs and metrics of a call whose client left: nobody reads it."""
RETRY_AFTER = {"slow_down": 1.0, "server_is_overloaded": 5.0, "request_timeout": 5.0}
"""Seconds after which a client may try again, where the error itself says nothing."""


class ApiError(Exception):
    """An answer in the shape of an error. `code` is a key of STATUS; retry_after: seconds."""

    def __init__(self, code: str, message: str, param: str | None = None, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.code, self.message, self.param = code, message, param
        self.status, self.type = STATUS[code]
        self.retry_after = RETRY_AFTER.get(code) if retry_after is None else retry_after

    @property
    def body(self) -> dict[str, dict[str, str | None]]:
        code = None if self.code in WITHOUT_CODE else self.code
        return {"error": {"message": self.message, "type": self.type, "param": self.param, "code": code}}

    def response(self) -> JSONResponse:
        response = JSONResponse(self.body, self.status)
        if self.retry_after is not None:
            response.headers["Retry-After"] = str(max(1, math.ceil(self.retry_after)))
        if self.status == 401:
            response.headers["WWW-Authenticate"] = "Bearer"
        if self.code == "body_timeout":  # the rest of the body would be read as the next request
            response.headers["Connection"] = "close"
        return response


def refusal(error: Refused, param: str) -> ApiError:
    """The scheduler's refusal as an API error; `param` is the field at fault."""
    codes = {ContextTooLong: "context_length_exceeded", BadRequest: "invalid_value"}
    codes |= {QueueFull: "slow_down", Closed: "server_is_overloaded", Unavailable: "server_is_overloaded"}
    code = codes[type(error)]
    retry_after = error.retry_after if isinstance(error, QueueFull | Unavailable) else None
    return ApiError(code, str(error), param if STATUS[code][0] == 400 else None, retry_after)


def install(app: FastAPI) -> None:
    """Give every error of the app this shape; what nobody foresaw is the outermost middleware's."""

    async def own(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, ApiError)
        return error.response()

    async def of_framework(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, HTTPException)
        code = {404: "unknown_url", 405: "method_not_allowed"}.get(error.status_code, "invalid_value")
        text = f"{error.detail}: {request.method} {request.url.path}"
        return JSONResponse(ApiError(code, text).body, error.status_code, error.headers)

    async def of_a_client_gone(request: Request, error: Exception) -> Response:
        return Response(status_code=CLIENT_GONE)

    handlers: dict[type[Exception], Callable[[Request, Exception], Awaitable[Response]]]
    handlers = {ApiError: own, HTTPException: of_framework, ClientDisconnect: of_a_client_gone}
    for kind, handler in handlers.items():
        app.add_exception_handler(kind, handler)
