"""The bodies that go out: chat and text completions, whole and as chunks, in OpenAI's shapes.

One `Format` per endpoint; `Call` holds what all chunks of one call share. It knows no HTTP and no scheduler.
"""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from tradewind.engine.requests import Delta, Done, TokenLogprob

Json = dict[str, Any]


@dataclass(frozen=True)
class Call:
    """id, created (seconds since 1970), model and system_fingerprint of one call."""

    id: str
    created: int
    model: str
    fingerprint: str

    def frame(self, kind: str, choices: list[Json], usage: Json | None = None) -> Json:
        head = {"id": self.id, "object": kind, "created": self.created, "model": self.model}
        return {**head, "system_fingerprint": self.fingerprint, "choices": choices, "usage": usage}


@dataclass
class Choice:
    """One answer, gathered."""

    texts: list[str] = field(default_factory=list)
    logprobs: list[TokenLogprob] = field(default_factory=list)
    finish_reason: str | None = None

    def add(self, delta: Delta) -> None:
        self.texts.append(delta.text)
        self.logprobs += delta.logprobs
        self.finish_reason = delta.finish_reason or self.finish_reason


class Format(Protocol):
    """An endpoint's shapes. `logprobs` says whether they were asked for."""

    whole: str
    chunk: str

    def choice(self, index: int, choice: Choice, logprobs: bool) -> Json: ...
    def opening(self, index: int) -> Json | None: ...
    def delta(self, index: int, delta: Delta, logprobs: bool) -> Json: ...


class ChatFormat:
    whole, chunk = "chat.completion", "chat.completion.chunk"

    def choice(self, index: int, choice: Choice, logprobs: bool) -> Json:
        message = {"role": "assistant", "content": "".join(choice.texts), "refusal": None}
        return {
            "index": index,
            "message": message,
            "logprobs": chat_logprobs(choice.logprobs) if logprobs else None,
            "finish_reason": choice.finish_reason,
        }

    def opening(self, index: int) -> Json:
        """The chunk that names the role; it holds no text, and time to first token does not count it."""
        delta = {"role": "assistant", "content": "", "refusal": None}
        return {"index": index, "delta": delta, "logprobs": None, "finish_reason": None}

    def delta(self, index: int, delta: Delta, logprobs: bool) -> Json:
        return {
            "index": index,
            "delta": {"content": delta.text} if delta.text else {},
            "logprobs": chat_logprobs(delta.logprobs) if logprobs and delta.logprobs else None,
            "finish_reason": delta.finish_reason,
        }


class TextFormat:
    whole = chunk = "text_completion"

    def choice(self, index: int, choice: Choice, logprobs: bool) -> Json:
        return self._choice(index, "".join(choice.texts), choice.logprobs if logprobs else None, choice.finish_reason)

    def opening(self, index: int) -> None:
        return None

    def delta(self, index: int, delta: Delta, logprobs: bool) -> Json:
        return self._choice(index, delta.text, delta.logprobs if logprobs else None, delta.finish_reason)

    @staticmethod
    def _choice(index: int, text: str, entries: Sequence[TokenLogprob] | None, reason: str | None) -> Json:
        logprobs = None if entries is None else text_logprobs(entries)
        return {"index": index, "text": text, "logprobs": logprobs, "finish_reason": reason}


def usage(done: Iterable[Done]) -> Json:
    """The sums over a call's requests."""
    ends = list(done)
    prompt, completion = sum(one.prompt_tokens for one in ends), sum(one.completion_tokens for one in ends)
    return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}


def text_of(piece: bytes) -> str:
    return piece.decode("utf-8", "replace")


def chat_logprobs(entries: Sequence[TokenLogprob]) -> Json:
    def one(piece: bytes, logprob: float) -> Json:
        return {"token": text_of(piece), "logprob": logprob, "bytes": list(piece)}

    content = [
        one(entry.piece, entry.logprob) | {"top_logprobs": [one(piece, value) for _, piece, value in entry.top]}
        for entry in entries
    ]
    return {"content": content, "refusal": None}


def text_logprobs(entries: Sequence[TokenLogprob]) -> Json:
    """top_logprobs holds the chosen token too, so up to one more than asked for."""
    return {
        "tokens": [text_of(entry.piece) for entry in entries],
        "token_logprobs": [entry.logprob for entry in entries],
        "top_logprobs": [
            {text_of(piece): value for _, piece, value in entry.top} | {text_of(entry.piece): entry.logprob}
            for entry in entries
        ],
        "text_offset": [entry.offset for entry in entries],
    }


def dumps(value: Json) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)


def sse(value: Json) -> str:
    """One server-sent event."""
    return f"data: {dumps(value)}\n\n"
