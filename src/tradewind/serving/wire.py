"""The bodies that clients send: every field here has an effect, any other is refused by name.

Fields are OpenAI's (spec 2.3.0) and two that other servers have too: `top_k` and `ignore_eos` (the answer goes on to
max_tokens, as load tests want it). Not covered: tools, response formats, penalties, logit bias, echo, audio, images.
"""

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema, model_validator
from pydantic_core import PydanticCustomError

STOPS, STOP_LENGTH = 4, 256
NOTHING: dict[str, tuple[object, ...]] = {
    "frequency_penalty": (None, 0),
    "presence_penalty": (None, 0),
    "logit_bias": (None, {}),
    "response_format": (None, {"type": "text"}),
    "tools": (None, []),
    "tool_choice": (None, "none"),
    "functions": (None, []),
    "echo": (None, False),
    "best_of": (None, 1),
    "suffix": (None,),
    "store": (None, False),
    "metadata": (None, {}),
    "modalities": (None, ["text"]),
    "service_tier": (None, "auto", "default"),
    **dict.fromkeys(("function_call", "parallel_tool_calls", "audio", "prediction", "reasoning_effort"), (None,)),
    **dict.fromkeys(("user", "safety_identifier", "prompt_cache_key", "verbosity", "web_search_options"), (None,)),
    **dict.fromkeys(("name", "refusal", "annotations", "tool_calls", "tool_call_id"), (None,)),
}
"""Fields of the specification without effect here, and the values of each that ask for nothing."""


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    @model_validator(mode="before")
    @classmethod
    def drop_what_asks_for_nothing(cls, data: Any) -> Any:
        if not isinstance(data, Mapping):
            return data
        return {key: value for key, value in data.items() if key in cls.model_fields or not asks_nothing(key, value)}


def asks_nothing(field: str, value: object) -> bool:
    """False and 0 are equal in Python, not here."""
    return any(value == one and isinstance(value, bool) == isinstance(one, bool) for one in NOTHING.get(field, ()))


def _one_text(value: object) -> object:
    """Content parts of type text, joined."""
    if not isinstance(value, list):
        return value
    texts = []
    for part in value:
        if not isinstance(part, dict) or part.get("type") != "text":
            raise PydanticCustomError("unsupported_parameter", "only content parts of type text are supported")
        if set(part) != {"type", "text"} or not isinstance(part["text"], str):
            raise PydanticCustomError("invalid_value", "a content part is a type and a text")
        texts.append(part["text"])
    return "".join(texts)


def _stops(value: object) -> object:
    texts = [value] if isinstance(value, str) else value
    if texts is None:
        return ()
    if not isinstance(texts, list) or len(texts) > STOPS or not all(isinstance(text, str) for text in texts):
        raise PydanticCustomError("invalid_value", "stop is a string or an array of at most 4 strings")
    if not all(1 <= len(text) <= STOP_LENGTH for text in texts):
        raise PydanticCustomError("invalid_value", "a stop string has 1 to 256 characters")
    return tuple(texts)


def _prompts(value: object) -> object:
    """A string, strings, ids or arrays of ids -> a tuple of strings and tuples of ids."""
    if isinstance(value, str):
        return (value,)
    if isinstance(value, list) and value:
        if all(isinstance(one, str) for one in value):
            return tuple(value)
        if all(map(_is_id, value)):
            return (tuple(value),)
        if all(isinstance(one, list) and one and all(map(_is_id, one)) for one in value):
            return tuple(map(tuple, value))
    text = "prompt is a string, an array of strings, an array of token ids or an array of such arrays, none empty"
    raise PydanticCustomError("invalid_value", text)


def _is_id(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


TEXT, IDS = {"type": "string"}, {"type": "array", "items": {"type": "integer", "minimum": 0}, "minItems": 1}
PART = {"type": "object", "properties": {"type": {"const": "text"}, "text": TEXT}, "required": ["type", "text"]}
STOP_TEXT = {"type": "string", "minLength": 1, "maxLength": STOP_LENGTH}
Content = Annotated[
    str, BeforeValidator(_one_text), WithJsonSchema({"anyOf": [TEXT, {"type": "array", "items": PART}]})
]
Stop = Annotated[
    tuple[str, ...],
    BeforeValidator(_stops),
    WithJsonSchema({"anyOf": [STOP_TEXT, {"type": "array", "items": STOP_TEXT, "maxItems": STOPS}, {"type": "null"}]}),
]
Prompts = Annotated[
    tuple[str | tuple[int, ...], ...],
    BeforeValidator(_prompts),
    WithJsonSchema({"anyOf": [TEXT, *({"type": "array", "items": one, "minItems": 1} for one in (TEXT, IDS)), IDS]}),
]
Temperature = Annotated[float | None, Field(ge=0, le=2, allow_inf_nan=False)]
Share = Annotated[float | None, Field(ge=0, le=1, allow_inf_nan=False)]
Seed = Annotated[int | None, Field(ge=-(2**63), lt=2**63)]
Count = Annotated[int | None, Field(ge=1, lt=2**31)]
TopK = Annotated[int | None, Field(ge=0, lt=2**31)]


class StreamOptions(Strict):
    include_usage: bool | None = None


class Message(Strict):
    role: Literal["system", "developer", "user", "assistant"]
    content: Content


class Generate(Strict):
    """What chat and text completions share. None is the default of each."""

    model: str
    n: Count = None
    temperature: Temperature = None
    top_p: Share = None
    top_k: TopK = None
    seed: Seed = None
    stop: Stop = ()
    max_tokens: Count = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    ignore_eos: bool | None = None

    @model_validator(mode="after")
    def check_stream_options(self) -> Self:
        if self.stream_options is not None and not self.stream:
            raise PydanticCustomError("stream_options", "stream_options goes with stream: true only")
        return self

    @property
    def include_usage(self) -> bool:
        return bool(self.stream_options and self.stream_options.include_usage)


class ChatRequest(Generate):
    messages: Annotated[tuple[Message, ...], Field(min_length=1, strict=False)]
    max_completion_tokens: Count = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int | None, Field(ge=0, le=20)] = None

    @model_validator(mode="after")
    def check_pairs(self) -> Self:
        if self.top_logprobs is not None and not self.logprobs:
            raise PydanticCustomError("top_logprobs", "top_logprobs goes with logprobs: true only")
        if self.max_tokens and self.max_completion_tokens and self.max_tokens != self.max_completion_tokens:
            raise PydanticCustomError("max_tokens", "max_tokens and max_completion_tokens differ; give one of them")
        return self

    @property
    def answer_tokens(self) -> int | None:
        return self.max_completion_tokens or self.max_tokens

    @property
    def alternatives(self) -> int | None:
        """How many alternatives to report for each token; None: no log-probabilities."""
        return (self.top_logprobs or 0) if self.logprobs else None


class CompletionRequest(Generate):
    prompt: Prompts
    logprobs: Annotated[int | None, Field(ge=0, le=5)] = None

    @property
    def answer_tokens(self) -> int:
        return self.max_tokens or 16

    @property
    def alternatives(self) -> int | None:
        return self.logprobs
