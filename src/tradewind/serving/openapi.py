"""The OpenAPI document's part on bodies, which handlers read and write themselves and the framework does not see.

`describe` adds the schemas of the bodies, the errors' shape to every operation, and the fields of OpenAI's specification
that are taken only where they ask for nothing.
"""

from typing import Any, Literal

from fastapi import FastAPI
from pydantic import BaseModel, TypeAdapter
from pydantic.json_schema import models_json_schema

from tradewind.serving.shapes import (
    ChatChunk,
    ChatReply,
    EmbeddingReply,
    ErrorReply,
    Model,
    ModelList,
    TextChunk,
    TextReply,
)
from tradewind.serving.wire import NOTHING

REF = "#/components/schemas/{model}"
REPLIES: dict[str, tuple[str, Any]] = {
    "/v1/chat/completions": ("post", ChatReply),
    "/v1/completions": ("post", TextReply),
    "/v1/embeddings": ("post", EmbeddingReply),
    "/v1/models": ("get", ModelList),
    "/v1/models/{name}": ("get", Model),
}
"""Path -> its method and what it answers with status 200."""
CHUNKS: dict[str, Any] = {"/v1/chat/completions": ChatChunk, "/v1/completions": TextChunk}
"""Path -> what each server-sent event holds, but the last, which is `[DONE]`, or an error."""
PROBES = ("/health", "/ready")
"""Paths whose errors are no bodies of the API's shape."""


def body_of(wire: type[BaseModel]) -> dict[str, Any]:
    """`openapi_extra` of a route whose body is `wire`."""
    schema = {"$ref": REF.format(model=wire.__name__)}
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": schema}}}}


def describe(app: FastAPI, wires: tuple[type[BaseModel], ...]) -> None:
    """Add the schemas of `wires` and of the replies to the app's document."""
    plain = app.openapi

    def document() -> dict[str, Any]:
        made = plain()
        schemas = made.setdefault("components", {}).setdefault("schemas", {})
        schemas.update(_requests(wires) | _replies())
        for path, operations in made["paths"].items():
            for method, operation in operations.items():
                _describe_responses(path, method, operation["responses"])
        return made

    app.openapi = document  # type: ignore[method-assign]


def _requests(wires: tuple[type[BaseModel], ...]) -> dict[str, Any]:
    schemas = models_json_schema([(wire, "validation") for wire in wires], ref_template=REF)[1]["$defs"]
    for wire in wires:
        properties = schemas[wire.__name__]["properties"]
        for field, values in NOTHING.items():
            properties.setdefault(field, {"enum": list(values), "description": "Without effect."})
    return schemas


def _replies() -> dict[str, Any]:
    shapes = (*(shape for _, shape in REPLIES.values()), *CHUNKS.values(), ErrorReply)
    adapters: list[tuple[Any, Literal["serialization"], TypeAdapter[Any]]]
    adapters = [(shape, "serialization", TypeAdapter(shape)) for shape in shapes]
    return TypeAdapter.json_schemas(adapters, ref_template=REF)[1]["$defs"]


def _describe_responses(path: str, method: str, responses: dict[str, Any]) -> None:
    responses.pop("422", None)  # the framework's own shape, which nothing here answers with
    if path == "/ready":
        responses["503"] = {"description": "The engine's loop makes no tokens."}
    if path in PROBES:
        return
    reply = REPLIES.get(path)
    if reply is not None and reply[0] == method:
        content = _json(reply[1])
        if path in CHUNKS:
            content["text/event-stream"] = {"itemSchema": _event(CHUNKS[path])}
        responses["200"] = {"description": "What was asked for.", "content": content}
    for status in ("4XX", "5XX"):
        responses[status] = {"description": "An error in OpenAI's shape.", "content": _json(ErrorReply)}


def _json(shape: Any) -> dict[str, Any]:
    return {"application/json": {"schema": {"$ref": REF.format(model=shape.__name__)}}}


def _event(chunk: Any) -> dict[str, Any]:
    """A server-sent event whose data is a chunk, an error or the mark of the end."""
    shapes = [{"$ref": REF.format(model=shape.__name__)} for shape in (chunk, ErrorReply)]
    held = {"type": "string", "contentMediaType": "application/json", "contentSchema": {"anyOf": shapes}}
    data = {"if": {"const": "[DONE]"}, "else": held}
    return {"type": "object", "properties": {"data": data}, "required": ["data"]}
