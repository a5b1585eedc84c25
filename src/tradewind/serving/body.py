"""Reading a body: a size cap, strict JSON (no NaN, no lone surrogates, bounded depth), then the wire type.

Each failure is an ApiError naming the field at fault.
"""

import re
from typing import TypeVar

from fastapi import Request
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails, from_json

from tradewind.serving.errors import ApiError

T = TypeVar("T", bound=BaseModel)
DRAINED = 32 << 20
"""Bytes of an oversized body read and thrown away, so that its sender gets to read the answer. One that says it is larger
is answered before it comes."""
WORDS = (
    (re.compile(r"a valid dictionary( or instance of \w+)?"), "an object"),
    (re.compile("a valid tuple"), "an array"),
    (re.compile("^Dictionary"), "Object"),
    (re.compile("^Tuple"), "Array"),
    (re.compile(" after validation"), ""),
    (re.compile("True$"), "true"),
)
"""Pydantic's words for Python's values -> JSON's."""


async def read_bytes(request: Request, limit: int) -> bytes:
    """Raises ApiError."""
    pieces: list[bytes] = []
    size = 0
    if int(request.headers.get("content-length", 0)) > DRAINED:
        raise ApiError("request_too_large", f"The body is larger than {limit} bytes.")
    async for piece in request.stream():
        size += len(piece)
        if size <= limit:
            pieces.append(piece)
        elif size > DRAINED:
            break
    if size > limit:
        raise ApiError("request_too_large", f"The body is larger than {limit} bytes.")
    return b"".join(pieces)


def parse(raw: bytes, wire: type[T]) -> T:
    """The body as a wire type. Raises ApiError."""
    try:
        value = from_json(raw, allow_inf_nan=False)
    except ValueError as error:
        raise ApiError("invalid_json", f"The body is not valid JSON: {error}") from None
    if not isinstance(value, dict):
        raise ApiError("invalid_json", "The body is not a JSON object.")
    try:
        return wire.model_validate(value)
    except ValidationError as error:
        raise _api_error(error.errors(include_url=False, include_input=False)[0]) from None


def _api_error(detail: ErrorDetails) -> ApiError:
    kind, message, param = detail["type"], detail["msg"], _path(detail["loc"])
    if kind == "extra_forbidden":
        return ApiError("unsupported_parameter", f"Unsupported parameter: {param}.", param)
    if kind == "unsupported_parameter":
        return ApiError(kind, f"Unsupported parameter: {param}: {message}.", param)
    for python, plain in WORDS:
        message = python.sub(plain, message)
    if not param:  # a check over several fields names its field as its kind
        param = kind
    return ApiError("invalid_value", f"Invalid value for {param}: {message}.", param)


def _path(parts: tuple[int | str, ...]) -> str:
    """("messages", 0, "content") -> messages[0].content; which of several types it was tried as is left out."""
    text = ""
    for part in parts:
        if isinstance(part, str) and "[" in part:
            continue
        text += f"[{part}]" if isinstance(part, int) else f".{part}"
    return text.removeprefix(".")
