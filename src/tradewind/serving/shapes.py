"""The bodies that go out, as types: replies are checked against them by mypy, the OpenAPI document is made of them."""

from typing import Literal, NotRequired

from typing_extensions import TypedDict

from tradewind.engine.requests import FinishReason


class TokenScore(TypedDict):
    token: str
    logprob: float
    bytes: list[int]


class ScoredToken(TokenScore):
    top_logprobs: list[TokenScore]


class ChatLogprobs(TypedDict):
    content: list[ScoredToken]
    refusal: None


class ChatMessage(TypedDict):
    role: Literal["assistant"]
    content: str
    refusal: None


class ChatChoice(TypedDict):
    index: int
    message: ChatMessage
    logprobs: ChatLogprobs | None
    finish_reason: FinishReason


class TextLogprobs(TypedDict):
    tokens: list[str]
    token_logprobs: list[float | None]
    top_logprobs: list[dict[str, float] | None]
    text_offset: list[int]


class TextChoice(TypedDict):
    index: int
    text: str
    logprobs: TextLogprobs | None
    finish_reason: FinishReason


class PromptTokensDetails(TypedDict):
    cached_tokens: int


class CompletionTokensDetails(TypedDict):
    accepted_prediction_tokens: int
    rejected_prediction_tokens: int


class Usage(TypedDict):
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptTokensDetails
    completion_tokens_details: CompletionTokensDetails


class ChatDelta(TypedDict, total=False):
    role: Literal["assistant"]
    content: str
    refusal: None


class ChatChunkChoice(TypedDict):
    index: int
    delta: ChatDelta
    logprobs: ChatLogprobs | None
    finish_reason: FinishReason | None


class TextChunkChoice(TypedDict):
    index: int
    text: str
    logprobs: TextLogprobs | None
    finish_reason: FinishReason | None


class Candidate(TypedDict):
    """One variant's answer in a fan-out. mean_logprob: over its tokens; null where it has none. votes: candidates whose
    text is the same but for case, spacing and the punctuation around it, itself included.
    """

    model: str
    text: str
    mean_logprob: float | None
    votes: int
    finish_reason: FinishReason
    completion_tokens: int
    chosen: bool


class Aggregated(TypedDict):
    """An extension: how the one choice of a fan-out was made. Candidates are in the order asked for."""

    method: Literal["logprob", "majority"]
    candidates: list[Candidate]


class Head(TypedDict):
    id: str
    created: int
    model: str
    system_fingerprint: str


class ChatReply(Head):
    object: Literal["chat.completion"]
    service_tier: Literal["default"]
    choices: list[ChatChoice]
    usage: Usage
    aggregate: NotRequired[Aggregated]


class ChatChunk(Head):
    """usage: null but in the last chunk, and there only where `stream_options.include_usage` asked for it."""

    object: Literal["chat.completion.chunk"]
    service_tier: Literal["default"]
    choices: list[ChatChunkChoice]
    usage: NotRequired[Usage | None]


class TextReply(Head):
    object: Literal["text_completion"]
    choices: list[TextChoice]
    usage: Usage
    aggregate: NotRequired[Aggregated]


class TextChunk(Head):
    """usage: as in a chunk of a chat."""

    object: Literal["text_completion"]
    choices: list[TextChunkChoice]
    usage: NotRequired[Usage | None]


class Embedding(TypedDict):
    """embedding: numbers, or float32 in little-endian order as base64."""

    object: Literal["embedding"]
    index: int
    embedding: list[float] | str


class EmbeddingUsage(TypedDict):
    prompt_tokens: int
    total_tokens: int


class EmbeddingReply(TypedDict):
    object: Literal["list"]
    data: list[Embedding]
    model: str
    usage: EmbeddingUsage


class Model(TypedDict):
    id: str
    object: Literal["model"]
    created: int
    owned_by: str
    max_model_len: int


class AdapterModel(Model):
    """A LoRA adapter, as vLLM lists it. root: its folder. parent: the model that it is over."""

    root: str
    parent: str


class AliasModel(Model):
    """models: the variants behind the name. exact: whether they all give the same answers."""

    models: list[str]
    exact: bool


class ModelList(TypedDict):
    object: Literal["list"]
    data: list[Model]


class Error(TypedDict):
    message: str
    type: str
    param: str | None
    code: str | None


class ErrorReply(TypedDict):
    error: Error
