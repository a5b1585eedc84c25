"""The OpenAPI document's part on bodies, which handlers read themselves and the framework therefore does not see."""

from typing import Any

from fastapi import FastAPI
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

REF = "#/components/schemas/{model}"


def body_of(wire: type[BaseModel]) -> dict[str, Any]:
    """`openapi_extra` of a route whose body is `wire`."""
    schema = {"$ref": REF.format(model=wire.__name__)}
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": schema}}}}


def describe(app: FastAPI, wires: tuple[type[BaseModel], ...]) -> None:
    """Add the schemas of `wires` to the app's document."""
    plain = app.openapi

    def document() -> dict[str, Any]:
        made = plain()
        schemas = models_json_schema([(wire, "validation") for wire in wires], ref_template=REF)[1]["$defs"]
        made.setdefault("components", {}).setdefault("schemas", {}).update(schemas)
        return made

    app.openapi = document  # type: ignore[method-assign]
