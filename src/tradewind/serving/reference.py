"""The API's reference as data for a page: operations and the shapes of bodies, from the OpenAPI document alone.

It knows no routes and no HTML. Not covered: parameters' styles, security schemes, callbacks, which the document has none
of.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

Schema = Mapping[str, Any]
SHAPES = "#/components/schemas/"


@dataclass(frozen=True)
class Part:
    """A piece of a type's name. shape: the one that it refers to."""

    text: str
    shape: str | None = None


Kind = tuple[Part, ...]


@dataclass(frozen=True)
class Field:
    name: str
    kind: Kind
    required: bool
    text: str
    default: str | None


@dataclass(frozen=True)
class Shape:
    """A named schema. kind: where it is no object with fields."""

    name: str
    text: str
    fields: tuple[Field, ...]
    kind: Kind


@dataclass(frozen=True)
class Reply:
    status: str
    text: str
    bodies: tuple[tuple[str, Kind], ...]
    """Media type, and what it holds."""


@dataclass(frozen=True)
class Operation:
    method: str
    path: str
    text: str
    body: Kind
    replies: tuple[Reply, ...]

    @property
    def anchor(self) -> str:
        return f"{self.method.lower()}{self.path}".replace("/", "-").replace("{", "").replace("}", "")


def operations(document: Schema) -> list[Operation]:
    return [
        Operation(
            method.upper(),
            path,
            one.get("description", ""),
            _first_body(one.get("requestBody", {})),
            tuple(_reply(status, reply) for status, reply in sorted(one["responses"].items())),
        )
        for path, methods in document["paths"].items()
        for method, one in methods.items()
    ]


def shapes(document: Schema) -> list[Shape]:
    """By name."""
    return [_shape(name, schema) for name, schema in sorted(document["components"]["schemas"].items())]


def _first_body(content: Schema) -> Kind:
    return next((kind for _, kind in _bodies(content)), ())


def _reply(status: str, reply: Schema) -> Reply:
    return Reply(status, reply.get("description", ""), tuple(_bodies(reply)))


def _bodies(content: Schema) -> Iterator[tuple[str, Kind]]:
    for media_type, held in content.get("content", {}).items():
        yield media_type, kind_of(held.get("schema") or held.get("itemSchema") or {})


def _shape(name: str, schema: Schema) -> Shape:
    needed = schema.get("required", ())
    fields = tuple(
        Field(field, kind_of(one), field in needed, one.get("description", ""), _default(one))
        for field, one in schema.get("properties", {}).items()
    )
    return Shape(name, schema.get("description", ""), fields, () if fields else kind_of(schema))


def _default(schema: Schema) -> str | None:
    return repr_of(schema["default"]) if "default" in schema else None


def repr_of(value: Any) -> str:
    """As JSON writes it."""
    return json.dumps(value, ensure_ascii=False)


def kind_of(schema: Any) -> Kind:
    """What a value may be, in words."""
    if not isinstance(schema, Mapping) or not schema:
        return (Part("anything"),)
    if "$ref" in schema:
        name = schema["$ref"].removeprefix(SHAPES)
        return (Part(name, name),)
    for several in ("anyOf", "oneOf", "allOf"):
        if several in schema:
            return _joined([kind_of(one) for one in schema[several]], " and " if several == "allOf" else " or ")
    if "const" in schema:
        return (Part(repr_of(schema["const"])),)
    if "enum" in schema:
        return (Part(" or ".join(map(repr_of, schema["enum"]))),)
    types = schema.get("type", "anything")
    if isinstance(types, list):
        return _joined([kind_of({**schema, "type": one}) for one in types], " or ")
    if types == "array":
        return (Part("array of "), *kind_of(schema.get("items")))
    if types == "object" and isinstance(schema.get("additionalProperties"), Mapping):
        return (Part("object of "), *kind_of(schema["additionalProperties"]))
    return (Part(types + _limits(schema)),)


def _joined(kinds: list[Kind], word: str) -> Kind:
    parts: list[Part] = []
    for kind in dict.fromkeys(kinds):
        parts += [Part(word), *kind] if parts else kind
    return tuple(parts)


LIMITS = {
    "minimum": "at least {}",
    "exclusiveMinimum": "above {}",
    "maximum": "at most {}",
    "exclusiveMaximum": "below {}",
    "minLength": "{} characters or more",
    "maxLength": "at most {} characters",
    "minItems": "{} items or more",
    "maxItems": "at most {} items",
}


def _limits(schema: Schema) -> str:
    said = [text.format(_number(schema[key])) for key, text in LIMITS.items() if key in schema]
    return f" ({', '.join(said)})" if said else ""


def _number(value: float) -> str:
    """Whole ones to the last digit."""
    return str(int(value)) if value == int(value) else repr(value)
