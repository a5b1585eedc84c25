"""The bodies that go out: chat and text completions, whole and as chunks, in OpenAI's shapes.

One `Format` per endpoint; `Call` holds what all chunks of one call share. It knows no scheduler.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import orjson
from starlette.responses import Response

from tradewind.engine.requests import Delta, Done, FinishReason, TokenLogprob
from tradewind.serving.shapes import (
    ChatChoice,
    ChatChunkChoice,
    ChatDelta,
    ChatLogprobs,
    ScoredToken,
    TextChoice,
    TextChunkChoice,
    TextLogprobs,
    TokenScore,
    Usage,
)

Json = dict[str, Any]
TIERED = ("chat.completion", "chat.completion.chunk")
"""Objects that name their service tier."""


@dataclass(frozen=True)
class Call:
    """id, created (seconds since 1970), model and system_fingerprint of one call."""

    id: str
    created: int
    model: str
    fingerprint: str

    def frame(self, kind: str, choices: Sequence[object], usage: Usage | None = None) -> Json:
        head = {"id": self.id, "object": kind, "created": self.created, "model": self.model}
        tier = {"service_tier": "default"} if kind in TIERED else {}
        return {**head, **tier, "system_fingerprint": self.fingerprint, "choices": choices, "usage": usage}


@dataclass
class Choice:
    """One answer, gathered. echoed: how many of the log-probabilities are the prompt's."""

    texts: list[str] = field(default_factory=list)
    logprobs: list[TokenLogprob] = field(default_factory=list)
    finish_reason: FinishReason = "length"
    echoed: int = 0

    def add(self, delta: Delta) -> None:
        self.texts.append(delta.text)
        self.logprobs += delta.logprobs
        self.finish_reason = delta.finish_reason or self.finish_reason
        if not delta.tokens:
            self.echoed += len(delta.logprobs)

    @property
    def mean_logprob(self) -> float:
        """Over the tokens of its text; minus infinity where it has none."""
        own = [entry.logprob or 0.0 for entry in self.logprobs[self.echoed :]]
        return sum(own) / len(own) if own else -math.inf


def likeliest(choices: Sequence[Choice], made: int, kept: int) -> list[Choice]:
    """Of each `made` choices, which answer one prompt, the `kept` with the highest mean log-probability, best first; as
    they are where all are kept.
    """
    if made == kept:
        return list(choices)
    groups = [choices[start : start + made] for start in range(0, len(choices), made)]
    return [one for group in groups for one in sorted(group, key=lambda choice: -choice.mean_logprob)[:kept]]


class Format(Protocol):
    """An endpoint's shapes. `logprobs` says whether they were asked for."""

    whole: str
    chunk: str

    def choice(self, index: int, choice: Choice, logprobs: bool) -> ChatChoice | TextChoice: ...
    def opening(self, index: int) -> ChatChunkChoice | None: ...
    def delta(self, index: int, delta: Delta, logprobs: bool) -> ChatChunkChoice | TextChunkChoice: ...


class ChatFormat:
    whole, chunk = "chat.completion", "chat.completion.chunk"

    def choice(self, index: int, choice: Choice, logprobs: bool) -> ChatChoice:
        return {
            "index": index,
            "message": {"role": "assistant", "content": "".join(choice.texts), "refusal": None},
            "logprobs": chat_logprobs(choice.logprobs) if logprobs else None,
            "finish_reason": choice.finish_reason,
        }

    def opening(self, index: int) -> ChatChunkChoice:
        """The chunk that names the role; it holds no text, and time to first token does not count it."""
        delta: ChatDelta = {"role": "assistant", "content": "", "refusal": None}
        return {"index": index, "delta": delta, "logprobs": None, "finish_reason": None}

    def delta(self, index: int, delta: Delta, logprobs: bool) -> ChatChunkChoice:
        return {
            "index": index,
            "delta": {"content": delta.text} if delta.text else {},
            "logprobs": chat_logprobs(delta.logprobs) if logprobs and delta.logprobs else None,
            "finish_reason": delta.finish_reason,
        }


class TextFormat:
    whole = chunk = "text_completion"

    def choice(self, index: int, choice: Choice, logprobs: bool) -> TextChoice:
        entries = text_logprobs(choice.logprobs) if logprobs else None
        text, reason = "".join(choice.texts), choice.finish_reason
        return {"index": index, "text": text, "logprobs": entries, "finish_reason": reason}

    def opening(self, index: int) -> None:
        return None

    def delta(self, index: int, delta: Delta, logprobs: bool) -> TextChunkChoice:
        entries = text_logprobs(delta.logprobs) if logprobs else None
        return {"index": index, "text": delta.text, "logprobs": entries, "finish_reason": delta.finish_reason}


def usage(done: Iterable[Done]) -> Usage:
    """The sums over a call's requests."""
    ends = list(done)
    prompt, completion = sum(one.prompt_tokens for one in ends), sum(one.completion_tokens for one in ends)
    return {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
        "prompt_tokens_details": {"cached_tokens": sum(one.cached_tokens for one in ends)},
        "completion_tokens_details": {
            "accepted_prediction_tokens": sum(one.accepted_prediction_tokens for one in ends),
            "rejected_prediction_tokens": sum(one.rejected_prediction_tokens for one in ends),
        },
    }


def text_of(piece: bytes) -> str:
    return piece.decode("utf-8", "replace")


def chat_logprobs(entries: Sequence[TokenLogprob]) -> ChatLogprobs:
    """Of an answer's tokens, each of which has a log-probability."""

    def one(piece: bytes, logprob: float) -> TokenScore:
        return {"token": text_of(piece), "logprob": logprob, "bytes": list(piece)}

    content: list[ScoredToken] = [
        {**one(entry.piece, entry.logprob), "top_logprobs": [one(piece, value) for _, piece, value in entry.top]}
        for entry in entries
        if entry.logprob is not None
    ]
    return {"content": content, "refusal": None}


def text_logprobs(entries: Sequence[TokenLogprob]) -> TextLogprobs:
    """top_logprobs holds the chosen token too, so up to one more than asked for. The first token of an echoed prompt has
    null for both.
    """
    return {
        "tokens": [text_of(entry.piece) for entry in entries],
        "token_logprobs": [entry.logprob for entry in entries],
        "top_logprobs": [
            None
            if entry.logprob is None
            else {text_of(piece): value for _, piece, value in entry.top} | {text_of(entry.piece): entry.logprob}
            for entry in entries
        ],
        "text_offset": [entry.offset for entry in entries],
    }


class JsonReply(Response):
    media_type = "application/json"

    def render(self, content: Json) -> bytes:
        return orjson.dumps(content)


def sse(value: Json) -> bytes:
    """One server-sent event."""
    return b"data: %b\n\n" % orjson.dumps(value)
