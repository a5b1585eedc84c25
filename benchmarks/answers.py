"""Answers that must not change: questions of every kind, asked over HTTP, and what is the same in two answers to one.

What is compared is the text of every choice, its finish reason and log-probabilities, and the usage; not the ids, the
times, and how a stream is cut into events. Not covered: tools, several prompts in one call, echoed prompts.
"""

import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import httpx

FRESH = {"Cache-Control": "no-store"}
"""No answer from a cache: it is the engines that are asked."""
CHAT, TEXT = "/v1/chat/completions", "/v1/completions"
SCHEMA = {
    "type": "object",
    "properties": {"name": {"type": "string"}, "count": {"type": "integer"}, "kept": {"type": "boolean"}},
    "required": ["name", "count", "kept"],
    "additionalProperties": False,
}
STRUCTURE = {"type": "json_schema", "json_schema": {"name": "facts", "schema": SCHEMA, "strict": True}}
DRAWN = {"temperature": 0.8, "top_p": 0.95, "seed": 11}
KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    "chat": (CHAT, {}),
    "chat logprobs": (CHAT, {"logprobs": True, "top_logprobs": 3}),
    "chat structure": (CHAT, {"response_format": STRUCTURE, "ignore_eos": False}),
    "chat drawn n=2": (CHAT, {"n": 2, **DRAWN}),
    "text": (TEXT, {}),
    "text stop": (TEXT, {"stop": ["\n\n", " returns "]}),
    "text logprobs": (TEXT, {"logprobs": 2}),
    "text drawn": (TEXT, DRAWN),
}
"""Each is asked as a stream and as a whole."""


@dataclass(frozen=True)
class Question:
    kind: str
    path: str
    body: dict[str, Any]

    @property
    def streamed(self) -> bool:
        return bool(self.body["stream"])


@dataclass
class Answer:
    """Times are `time.monotonic`. status 0: no reply. told: what must be the same each time, by part. error: why it is no
    whole answer. events: when each event of a stream came."""

    begun: float
    status: int = 0
    told: dict[str, Any] = field(default_factory=dict)
    error: str | None = None
    events: list[float] = field(default_factory=list)
    retry_after: str | None = None
    ended: float = 0.0

    @property
    def refused(self) -> bool:
        return self.status in (429, 503)

    @property
    def cut(self) -> bool:
        """It had begun to tell."""
        return self.error is not None and bool(self.events)

    def longest_gap(self, begin: float, end: float) -> float | None:
        """Seconds between two of its events, of the gaps that any of that time is in; None where there is none."""
        pairs = zip(self.events, self.events[1:], strict=False)
        return max((after - before for before, after in pairs if before < end and begin <= after), default=None)


def questions(model: str, texts: Sequence[str], tokens: int) -> list[Question]:
    """Every kind about every text, as a stream and as a whole."""
    return [
        Question(f"{kind}, {'stream' if stream else 'whole'}", path, body | {"model": model, "max_tokens": tokens})
        for text in texts
        for kind, (path, extra) in KINDS.items()
        for stream in (True, False)
        for body in (_body(path, text, stream) | extra,)
    ]


def _body(path: str, text: str, stream: bool) -> dict[str, Any]:
    asked = {"messages": [{"role": "user", "content": text}]} if path == CHAT else {"prompt": text}
    body = asked | {"temperature": 0, "ignore_eos": True, "stream": stream}
    return body | {"stream_options": {"include_usage": True}} if stream else body


async def ask(http: httpx.AsyncClient, question: Question) -> Answer:
    """Never raises for what a server does."""
    answer = Answer(time.monotonic())
    try:
        async with http.stream("POST", question.path, json=question.body, headers=FRESH) as response:
            answer.status = response.status_code
            answer.retry_after = response.headers.get("retry-after")
            if question.streamed and response.status_code == httpx.codes.OK:
                await _read_stream(response, answer)
            else:
                _read_whole(await response.aread(), answer)
    except (httpx.TransportError, ValueError, LookupError, TypeError) as error:
        answer.error = f"{type(error).__name__}: {error}"
    answer.ended = time.monotonic()
    return answer


async def _read_stream(response: httpx.Response, answer: Answer) -> None:
    done = False
    told: dict[str, Any] = {"usage": None, "reasons": {}, "texts": {}, "logprobs": {}}
    async for line in response.aiter_lines():
        if not line.startswith("data: "):
            continue
        if line == "data: [DONE]":
            done = True
            continue
        answer.events.append(time.monotonic())
        chunk = json.loads(line.removeprefix("data: "))
        if "error" in chunk:
            answer.error = f"error event: {chunk['error']['code']}"
            return
        _gather(told, chunk)
    if done:
        answer.told = told
    else:
        answer.error = "the stream ended without [DONE]"


def _read_whole(data: bytes, answer: Answer) -> None:
    if answer.status != httpx.codes.OK:
        answer.error = f"status {answer.status}: {_named(data)}"
        return
    reply = json.loads(data)
    told: dict[str, Any] = {"usage": None, "reasons": {}, "texts": {}, "logprobs": {}}
    _gather(told, reply)
    answer.told = told


def _named(data: bytes) -> str:
    """An error's code or type; its text where it has not OpenAI's shape."""
    try:
        error = json.loads(data)["error"]
        return str(error["code"] or error["type"])
    except (ValueError, LookupError, TypeError):
        return f"not of OpenAI's shape, {data[:60]!r}"


def _gather(told: dict[str, Any], chunk: dict[str, Any]) -> None:
    """Add what a chunk, or a whole reply, says."""
    if chunk.get("usage"):
        told["usage"] = {name: chunk["usage"][name] for name in ("prompt_tokens", "completion_tokens")}
    for choice in chunk["choices"]:
        index, message = (
            choice["index"],
            choice.get("delta") or choice.get("message") or {"content": choice.get("text")},
        )
        told["texts"][index] = told["texts"].get(index, "") + (message.get("content") or "")
        if choice.get("finish_reason"):
            told["reasons"][index] = choice["finish_reason"]
        if choice.get("logprobs"):
            scores = told["logprobs"].setdefault(index, {})
            for name, values in choice["logprobs"].items():
                scores.setdefault(name, []).extend(values or ())


def differences(one: Answer, other: Answer) -> Iterator[str]:
    """The parts in which two whole answers are not the same."""
    return (name for name in one.told if _same(one.told[name]) != _same(other.told.get(name)))


def _same(told: Any) -> str:
    return json.dumps(told, sort_keys=True)
