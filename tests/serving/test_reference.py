"""Types in words, and what a reference holds of a document."""

import pytest

from tradewind.serving.reference import Part, Reply, kind_of, operations, shapes


def said(schema: object) -> str:
    return "".join(part.text for part in kind_of(schema))


@pytest.mark.parametrize(
    ("schema", "text"),
    [
        ({}, "anything"),
        (None, "anything"),
        (True, "anything"),
        ({"type": "string"}, "string"),
        ({"type": "integer", "minimum": 1, "exclusiveMaximum": 2**31}, "integer (at least 1, below 2147483648)"),
        ({"type": "number", "minimum": 0.1, "maximum": 10.0}, "number (at least 0.1, at most 10)"),
        ({"type": "string", "minLength": 1}, "string (1 characters or more)"),
        ({"type": ["string", "null"]}, "string or null"),
        ({"anyOf": [{"type": "string"}, {"type": "null"}, {"type": "string"}]}, "string or null"),
        ({"allOf": [{"$ref": "#/components/schemas/A"}, {"$ref": "#/components/schemas/B"}]}, "A and B"),
        ({"const": "[DONE]"}, '"[DONE]"'),
        ({"enum": ["auto", None, 1]}, '"auto" or null or 1'),
        ({"type": "array", "items": {"$ref": "#/components/schemas/Message"}}, "array of Message"),
        ({"type": "array"}, "array of anything"),
        ({"type": "object", "additionalProperties": {"type": "number"}}, "object of number"),
        ({"type": "object", "additionalProperties": False}, "object"),
    ],
)
def test_types_in_words(schema: object, text: str) -> None:
    assert said(schema) == text


def test_a_named_shape_can_be_followed() -> None:
    assert kind_of({"$ref": "#/components/schemas/Message"}) == (Part("Message", "Message"),)


def test_a_document() -> None:
    schema = {
        "required": ["a"], "description": "One.",
        "properties": {"a": {"type": "string"}, "b": {"type": "integer", "default": 2, "description": "Two."}},
    }  # fmt: skip
    body = {"content": {"application/json": {"schema": {"$ref": "#/components/schemas/S"}}}}
    operation = {"summary": "Named by the framework", "requestBody": body, "responses": {"200": {"description": "Yes"}}}
    document = {"paths": {"/v1/{x}": {"post": operation}}, "components": {"schemas": {"S": schema, "E": {"enum": [1]}}}}
    (one,) = operations(document)
    assert (one.method, one.path, one.text, one.anchor) == ("POST", "/v1/{x}", "", "post-v1-x")
    assert one.body == (Part("S", "S"),)
    assert one.replies == (Reply("200", "Yes", ()),)
    plain, full = shapes(document)
    assert (plain.name, plain.kind, plain.fields) == ("E", (Part("1"),), ())
    assert [(f.name, f.required, f.default, f.text) for f in full.fields] == [
        ("a", True, None, ""),
        ("b", False, "2", "Two."),
    ]
