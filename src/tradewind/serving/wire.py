"""The bodies that clients send: every field here has an effect or is a label, any other is refused by name.

Fields are OpenAI's (spec 2.3.0) and some that other servers have too, spelled as vLLM 0.33 does: `top_k`, `min_p`,
`repetition_penalty`, `ignore_eos` (the answer goes on to max_tokens, as load tests want it), `structured_outputs`,
`priority` (smaller goes first) and `cache_salt` (a prompt is found in the prefix cache by calls of the same tenant and
salt only). `aggregate` is this server's own: one answer chosen from those of several variants. Labels (`user`,
`safety_identifier`, `prompt_cache_key`, `metadata`) are checked and change nothing.
Not covered: tools, suffix, audio, images, predicted outputs, storing.
"""

import json
import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema, model_validator
from pydantic.config import JsonDict
from pydantic_core import PydanticCustomError

from tradewind.engine.grammar import ANY_OBJECT, Structure
from tradewind.serving.keys import FIRST, LAST

STOPS, STOP_LENGTH = 4, 256
BIASES, TOKEN_ID = 1024, "(0|[1-9][0-9]{0,8})"
CHOICES, CHOICE_LENGTH = 1024, 4096
STRUCTURES = ("json", "json_object", "regex", "choice", "grammar")
NOTHING: dict[str, tuple[object, ...]] = {
    "tools": (None, []),
    "tool_choice": (None, "none"),
    "functions": (None, []),
    "echo": (None, False),
    "best_of": (None, 1),
    "suffix": (None,),
    "store": (None, False),
    "include_obfuscation": (None, False),
    "modalities": (None, ["text"]),
    "service_tier": (None, "auto", "default"),
    **dict.fromkeys(("function_call", "parallel_tool_calls", "audio", "prediction", "reasoning_effort"), (None,)),
    **dict.fromkeys(("verbosity", "web_search_options", "moderation", "prompt_cache_options"), (None,)),
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
        if all(map(is_id, value)):
            return (tuple(value),)
        if all(isinstance(one, list) and one and all(map(is_id, one)) for one in value):
            return tuple(map(tuple, value))
    text = "prompt is a string, an array of strings, an array of token ids or an array of such arrays, none empty"
    raise PydanticCustomError("invalid_value", text)


def is_id(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**31


def _given(name: str) -> JsonDict:
    """The schema of an object in which this field is not null."""
    return {"required": [name], "properties": {name: {"not": {"type": "null"}}}}


def _bias(value: object) -> object:
    """{"token id": bias} -> pairs."""
    if value is None:
        return ()
    if not isinstance(value, dict) or len(value) > BIASES:
        raise PydanticCustomError("invalid_value", f"logit_bias maps at most {BIASES} token ids to numbers")
    if not all(isinstance(key, str) and re.fullmatch(TOKEN_ID, key) for key in value):
        raise PydanticCustomError("invalid_value", "the keys of logit_bias are token ids")
    if not all(
        isinstance(one, int | float) and not isinstance(one, bool) and abs(one) <= 100 for one in value.values()
    ):
        raise PydanticCustomError("invalid_value", "the values of logit_bias are numbers from -100 to 100")
    return tuple((int(key), float(one)) for key, one in value.items())


TEXT, IDS = {"type": "string"}, {"type": "array", "items": {"type": "integer", "minimum": 0}, "minItems": 1}
PROMPT = {"type": "string", "minLength": 1}
PART = {
    "type": "object",
    "properties": {"type": {"const": "text"}, "text": TEXT},
    "required": ["type", "text"],
    "additionalProperties": False,
}
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
    WithJsonSchema(
        {"anyOf": [PROMPT, *({"type": "array", "items": one, "minItems": 1} for one in (PROMPT, IDS)), IDS]}
    ),
]
Temperature = Annotated[float | None, Field(ge=0, le=2, allow_inf_nan=False)]
Share = Annotated[float | None, Field(ge=0, le=1, allow_inf_nan=False)]
Seed = Annotated[int | None, Field(ge=-(2**63), lt=2**63)]
Count = Annotated[int | None, Field(ge=1, lt=2**31)]
TopK = Annotated[int | None, Field(ge=0, lt=2**31)]
Penalty = Annotated[float | None, Field(ge=-2, le=2, allow_inf_nan=False)]
Repetition = Annotated[float | None, Field(ge=0.1, le=10, allow_inf_nan=False)]
BIAS = {"type": "number", "minimum": -100, "maximum": 100}
BIASED = {"type": "object", "propertyNames": {"pattern": f"^{TOKEN_ID}$"}, "additionalProperties": BIAS}
LogitBias = Annotated[
    tuple[tuple[int, float], ...],
    BeforeValidator(_bias),
    WithJsonSchema({"anyOf": [BIASED | {"maxProperties": BIASES}, {"type": "null"}]}),
]
Label = Annotated[str | None, Field(max_length=512)]
Metadata = Annotated[
    dict[Annotated[str, Field(max_length=64)], Annotated[str, Field(max_length=512)]] | None, Field(max_length=16)
]


def _distinct(models: tuple[str, ...]) -> tuple[str, ...]:
    if len(set(models)) < len(models):
        raise PydanticCustomError("invalid_value", "one model is named twice")
    return models


Models = Annotated[
    tuple[str, ...],
    Field(min_length=2, max_length=8, strict=False, json_schema_extra={"uniqueItems": True}),
    AfterValidator(_distinct),
]
Priority = Annotated[int | None, Field(ge=FIRST, le=LAST)]
Salt = Annotated[str | None, Field(min_length=1, max_length=512)]


class StreamOptions(Strict):
    include_usage: bool | None = None


class JsonSchema(Strict):
    """`schema` is kept to with or without `strict`; name and description tell people apart what it is for."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,64}$")]
    description: str | None = None
    schema_: Annotated[dict[str, Any] | None, Field(alias="schema")] = None
    strict: bool | None = None


class ResponseFormat(Strict):
    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchema | None = None

    @model_validator(mode="after")
    def check_schema(self) -> Self:
        if (self.type == "json_schema") != (self.json_schema is not None):
            raise PydanticCustomError("invalid_value", "json_schema goes with the type json_schema, and only with it")
        return self

    @property
    def structure(self) -> Structure | None:
        if self.json_schema is not None:
            return Structure("json_schema", json.dumps(self.json_schema.schema_ or {}))
        return ANY_OBJECT if self.type == "json_object" else None


class StructuredOutputs(Strict):
    """Exactly one of the fields. json: a schema, or one as a string. choice: the answer is one of these texts.
    grammar: Lark or GBNF.
    """

    model_config = ConfigDict(json_schema_extra={"oneOf": [_given(name) for name in STRUCTURES]})

    json_: Annotated[dict[str, Any] | str | None, Field(alias="json")] = None
    json_object: Literal[True] | None = None
    regex: str | None = None
    choice: Annotated[
        tuple[Annotated[str, Field(min_length=1, max_length=CHOICE_LENGTH)], ...] | None,
        Field(min_length=1, max_length=CHOICES, strict=False),
    ] = None
    grammar: str | None = None

    @model_validator(mode="after")
    def check_one(self) -> Self:
        if sum(value is not None for _, value in self) != 1:
            raise PydanticCustomError("invalid_value", "exactly one of json, json_object, regex, choice, grammar")
        return self

    @property
    def structure(self) -> Structure:
        if self.regex is not None:
            return Structure("regex", self.regex)
        if self.grammar is not None:
            return Structure("grammar", self.grammar)
        if self.choice is not None:
            return Structure("choice", json.dumps(self.choice))
        if self.json_ is None:
            return ANY_OBJECT
        return Structure("json_schema", self.json_ if isinstance(self.json_, str) else json.dumps(self.json_))


class Aggregate(Strict):
    """The same prompt goes to each of the models, and one of their answers is given: the one with the highest mean
    log-probability of its tokens, or the text that most of them wrote, ties broken by log-probability. It goes with one
    prompt in words and one answer to it, not streamed.
    """

    models: Models
    method: Literal["logprob", "majority"] = "logprob"


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
    min_p: Share = None
    presence_penalty: Penalty = None
    frequency_penalty: Penalty = None
    repetition_penalty: Repetition = None
    logit_bias: LogitBias = ()
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    ignore_eos: bool | None = None
    response_format: ResponseFormat | None = None
    structured_outputs: StructuredOutputs | None = None
    priority: Priority = None
    cache_salt: Salt = None
    aggregate: Aggregate | None = None
    user: Label = None
    safety_identifier: Label = None
    prompt_cache_key: Label = None
    metadata: Metadata = None

    @model_validator(mode="after")
    def check_stream_options(self) -> Self:
        if self.stream_options is not None and not self.stream:
            raise PydanticCustomError("stream_options", "stream_options goes with stream: true only")
        return self

    @model_validator(mode="after")
    def check_one_structure(self) -> Self:
        if self.structured_outputs is not None and self.response_format is not None:
            raise PydanticCustomError("structured_outputs", "structured_outputs does not go with response_format")
        return self

    @model_validator(mode="after")
    def check_aggregate(self) -> Self:
        if self.aggregate is not None and (field := self.not_aggregated):
            raise PydanticCustomError(field, "{field} does not go with aggregate", {"field": field})
        return self

    @property
    def not_aggregated(self) -> str | None:
        """A field whose value a fan-out has no meaning for: token ids, say, are of one vocabulary."""
        held = {"stream": self.stream, "n": self.candidates > 1, "logit_bias": self.logit_bias}
        return next((field for field, value in held.items() if value), None)

    @property
    def candidates(self) -> int:
        """Answers made to each prompt."""
        return self.n or 1

    @property
    def structure(self) -> Structure | None:
        asked = self.structured_outputs or self.response_format
        return None if asked is None else asked.structure

    @property
    def structure_field(self) -> str:
        """The field that asks for the structure."""
        return "structured_outputs" if self.structured_outputs is not None else "response_format"

    @property
    def include_usage(self) -> bool:
        return bool(self.stream_options and self.stream_options.include_usage)


class ChatRequest(Generate):
    messages: Annotated[tuple[Message, ...], Field(min_length=1, strict=False)]
    max_tokens: Count = None
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
    """echo: the prompt's text, and its log-probabilities where asked for, come ahead of the answer's. best_of: so many
    answers are made and the n with the highest mean log-probability given. max_tokens 0 makes no answer.
    """

    prompt: Prompts
    max_tokens: Annotated[int | None, Field(ge=0, lt=2**31)] = None
    logprobs: Annotated[int | None, Field(ge=0, le=5)] = None
    echo: bool | None = None
    best_of: Annotated[int | None, Field(ge=1, le=20)] = None

    @model_validator(mode="after")
    def check_best_of(self) -> Self:
        if self.best_of is not None and self.best_of < (self.n or 1):
            raise PydanticCustomError("best_of", "best_of is at least n")
        if self.best_of is not None and self.best_of > 1 and self.stream:
            raise PydanticCustomError("best_of", "best_of does not go with stream")
        return self

    @property
    def not_aggregated(self) -> str | None:
        words = len(self.prompt) == 1 and isinstance(self.prompt[0], str)
        held = {"echo": self.echo, "best_of": (self.best_of or 1) > 1, "prompt": not words}
        return next((field for field, value in held.items() if value), None) or super().not_aggregated

    @property
    def candidates(self) -> int:
        return self.best_of or self.n or 1

    @property
    def answer_tokens(self) -> int:
        return 16 if self.max_tokens is None else self.max_tokens

    @property
    def alternatives(self) -> int | None:
        return self.logprobs
