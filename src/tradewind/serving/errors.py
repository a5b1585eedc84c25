"""Errors as OpenAI shapes them: `{"error": {"message", "type", "param", "code"}}`, with the status of a table."""

from collections.abc import Awaitable, Callable

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from tradewind.engine.requests import BadRequest, Closed, ContextTooLong, QueueFull, Refused

INVALID, OVERLOADED, FAULT = "invalid_request_error", "service_unavailable_error", "server_error"
STATUS = {
    "invalid_value": (400, INVALID),
    "invalid_json": (400, INVALID),
    "unsupported_parameter": (400, INVALID),
    "context_length_exceeded": (400, INVALID),
    "invalid_api_key": (401, INVALID),
    "model_not_found": (404, INVALID),
    "unknown_url": (404, INVALID),
    "method_not_allowed": (405, INVALID),
    "request_too_large": (413, INVALID),
    "slow_down": (429, OVERLOADED),
    "server_is_overloaded": (503, OVERLOADED),
    "engine_fault": (500, FAULT),
}
"""code -> (HTTP status, type)."""
RETRY_AFTER = {"slow_down": "1", "server_is_overloaded": "5"}
"""Seconds after which a client may try again."""


class ApiError(Exception):
    """An answer in the shape of an error. `code` is a key of STATUS; an `engine_fault` goes out with code null."""

    def __init__(self, code: str, message: str, param: str | None = None) -> None:
        super().__init__(message)
        self.code, self.message, self.param = code, message, param
        self.status, self.type = STATUS[code]

    @property
    def body(self) -> dict[str, dict[str, str | None]]:
        code = None if self.status == 500 else self.code
        return {"error": {"message": self.message, "type": self.type, "param": self.param, "code": code}}

    def response(self) -> JSONResponse:
        retry = RETRY_AFTER.get(self.code)
        return JSONResponse(self.body, self.status, {"Retry-After": retry} if retry else None)


def refusal(error: Refused, param: str) -> ApiError:
    """The scheduler's refusal as an API error; `param` is the field that holds the prompt."""
    codes = {ContextTooLong: "context_length_exceeded", BadRequest: "invalid_value"}
    codes |= {QueueFull: "slow_down", Closed: "server_is_overloaded"}
    code = codes[type(error)]
    return ApiError(code, str(error), param if STATUS[code][0] == 400 else None)


def install(app: FastAPI) -> None:
    """Give every error of the app this shape."""

    async def own(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, ApiError)
        return error.response()

    async def of_framework(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, HTTPException)
        code = {404: "unknown_url", 405: "method_not_allowed"}.get(error.status_code, "invalid_value")
        text = f"{error.detail}: {request.method} {request.url.path}"
        return JSONResponse(ApiError(code, text).body, error.status_code, error.headers)

    async def unforeseen(request: Request, error: Exception) -> JSONResponse:
        return ApiError("engine_fault", "The server failed on this request.").response()

    handlers: dict[type[Exception], Callable[[Request, Exception], Awaitable[JSONResponse]]]
    handlers = {ApiError: own, HTTPException: of_framework, Exception: unforeseen}
    for kind, handler in handlers.items():
        app.add_exception_handler(kind, handler)
