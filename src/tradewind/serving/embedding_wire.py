"""The body of `/v1/embeddings`: OpenAI's fields (spec 2.3.0), each with an effect or a label; any other is refused."""

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, WithJsonSchema
from pydantic_core import PydanticCustomError

from tradewind.serving.wire import IDS, PROMPT, Label, Strict, is_id

Input = str | tuple[int, ...]


def _inputs(value: object) -> object:
    """A string, strings, ids or arrays of ids -> a tuple of strings, or of tuples of ids."""
    if isinstance(value, str) and value:
        return (value,)
    if isinstance(value, list) and value:
        if all(isinstance(one, str) and one for one in value):
            return tuple(value)
        if all(map(is_id, value)):
            return (tuple(value),)
        if all(isinstance(one, list) and one and all(map(is_id, one)) for one in value):
            return tuple(map(tuple, value))
    text = "input is a string, an array of strings, an array of token ids or an array of such arrays, none empty"
    raise PydanticCustomError("invalid_value", text)


class EmbeddingRequest(Strict):
    """Ids are those of a text's own tokens; what frames a text is added to them. dimensions: the encoder's own, or left
    out: a vector of this encoder cannot be cut."""

    model: str
    input: Annotated[
        tuple[Input, ...],
        BeforeValidator(_inputs),
        WithJsonSchema(
            {"anyOf": [PROMPT, *({"type": "array", "items": one, "minItems": 1} for one in (PROMPT, IDS)), IDS]}
        ),
    ]
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: Annotated[int | None, Field(ge=1, lt=2**31)] = None
    user: Label = None
