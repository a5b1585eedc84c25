"""The streaming client that all load tests share: one user, one connection, server-sent events, timed as they arrive.

Each request that ends well then fires three kinds of Locust's events: TTFT (send to first text), ITL (each gap between two
texts) and E2E (send to `[DONE]`); nothing but the clock is looked at while it is read. It is a failure where the stream
breaks the protocol. The chunk that only names the role counts as no text. A refusal for want of room (429, 503) is an event
REJECTED, no failure. It knows no scenario: those are the files beside it; for arrivals that wait for no answer see
`loadtests.arrivals`.
"""

import argparse
import json
import math
import os
import random
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any, ClassVar

import gevent
import orjson
from geventhttpclient import HTTPClient
from locust import User, events
from locust.argument_parser import LocustArgumentParser
from locust.env import Environment

WORDS = [
    "array", "axis", "class", "code", "column", "count", "data", "default", "error", "example", "file",
    "float", "frame", "function", "graph", "index", "integer", "key", "label", "layer", "length", "line",
    "list", "loop", "matrix", "mean", "method", "module", "name", "node", "number", "object", "order",
    "path", "plot", "point", "return", "row", "sample", "shape", "size", "sort", "string", "sum",
    "table", "test", "time", "tree", "type", "unit", "value", "vector", "weight",
]  # fmt: skip
PULSE = 0.05
"""Seconds between two looks at how late the client wakes up."""
CPU_WARNING = 0.5
"""Share of a core from which the client, not the server, may be what was measured."""


@dataclass
class Timing:
    """One request. Times are seconds since the run's start. texts: when each piece of text came; due: when it was to be
    sent, where that did not depend on answers. rejected: seconds that the server asked to wait with a refusal. altered:
    whether the answer differs from an earlier one to the same question, where a scenario asks that. cache, age: what the
    server said of its cache, and of the answer's seconds in it. question, tenant: numbers, where a scenario has such.
    streamed: else the answer came in one piece, and `texts` holds its end."""

    start: float
    due: float | None = None
    texts: list[float] = field(default_factory=list)
    end: float | None = None
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    error: str | None = None
    rejected: float | None = None
    answer: str = ""
    altered: bool | None = None
    cache: str | None = None
    age: str | None = None
    question: int | None = None
    tenant: int | None = None
    streamed: bool = True


@dataclass
class Phase:
    """A part of a run under one load, of which several may have one name. load: users, or arrivals a second."""

    name: str
    load: float
    start: float
    end: float


@dataclass
class Recording:
    """What a run leaves behind for `--raw`: requests, phases, how late the client woke, its share of a core.

    stopping: when users were told to stop; ended: when they had, `--stop-timeout` later at most."""

    origin: float = field(default_factory=time.perf_counter)
    requests: list[Timing] = field(default_factory=list)
    phases: list[Phase] = field(default_factory=list)
    delays: list[float] = field(default_factory=list)
    stopping: float | None = None
    ended: float | None = None
    cpu_start: float = field(default_factory=time.process_time)
    cpu_share: float = 0.0

    def now(self) -> float:
        return time.perf_counter() - self.origin

    def phase(self, name: str, load: float, seconds: float) -> Phase:
        """Begins one."""
        self.phases.append(Phase(name, load, self.now(), self.now() + seconds))
        return self.phases[-1]

    def finish(self) -> None:
        self.ended = self.now()
        self.cpu_share = (time.process_time() - self.cpu_start) / max(self.ended, 1e-9)

    def pulse(self) -> None:
        """Runs until it is killed."""
        while True:
            asleep = time.perf_counter()
            gevent.sleep(PULSE)
            self.delays.append(time.perf_counter() - asleep - PULSE)


class ProtocolError(Exception):
    """The stream is not what the API promises."""


class Questions:
    """An endless row of them, which a seed decides."""

    def __init__(self, options: argparse.Namespace, seed: str) -> None:
        self.options, self.random = options, random.Random(seed)

    def draw(self) -> tuple[list[dict[str, str]], int, int]:
        """Messages, tokens of the answer, a seed: what `StreamingUser.ask` takes.

        Lengths are the options, or log-normal around them as medians, with the standard deviation `--spread` of the
        logarithm, within an eighth and four times. The words are always the same in an order of their own: no shared
        prefix to speak of.
        """
        words, tokens = self._length(self.options.prompt_words), self._length(self.options.answer_tokens)
        text = [WORDS[place % len(WORDS)] for place in range(words)]
        self.random.shuffle(text)
        messages = [{"role": "user", "content": "Say these words again: " + " ".join(text)}]
        return messages, tokens, self.random.getrandbits(32)

    def _length(self, median: int) -> int:
        if not self.options.spread:
            return median
        drawn = median * math.exp(self.random.gauss(0, self.options.spread))
        return max(1, round(min(max(drawn, median / 8), 4 * median)))


class RejectedError(Exception):
    """The server has no room. seconds: how long to wait, as it says."""

    def __init__(self, status: int, seconds: float) -> None:
        super().__init__(f"status {status}")
        self.seconds = seconds


class StreamingUser(User):
    """Subclass it with tasks that call `ask`. extra: fields of every request."""

    abstract = True
    extra: ClassVar[dict[str, Any]] = {}

    def __init__(self, environment: Environment) -> None:
        super().__init__(environment)
        assert environment.parsed_options is not None
        self.options: argparse.Namespace = environment.parsed_options
        self.http = self.connect()
        self.headers = {"Content-Type": "application/json", "Cache-Control": "no-store"}  # the engine is measured
        if key := os.environ.get("TRADEWIND_API_KEY"):
            self.headers["Authorization"] = f"Bearer {key}"
        self.recording: Recording = environment.recording  # type: ignore[attr-defined]
        self.model = self.options.model or self._served()
        number = environment.user_numbers = getattr(environment, "user_numbers", -1) + 1  # type: ignore[attr-defined]
        self.questions = Questions(self.options, f"{self.options.seed} {number}")

    def connect(self) -> HTTPClient:
        base = (self.host or "http://127.0.0.1:8000").rstrip("/").removesuffix("/v1")
        return HTTPClient.from_url(base, network_timeout=120, connection_timeout=10)

    def _served(self) -> str:
        return str(json.loads(self.http.get("/v1/models", headers=self.headers).read())["data"][0]["id"])

    def ask(
        self,
        messages: list[dict[str, str]],
        answer_tokens: int,
        seed: int,
        due: float | None = None,
        http: HTTPClient | None = None,
        fields: Mapping[str, Any] | None = None,
    ) -> Timing:
        """One chat completion of exactly `answer_tokens` tokens, streamed unless `fields`, those of this request, say
        otherwise."""
        http = http or self.http
        body = {
            "model": self.model,
            "messages": messages,
            "max_tokens": answer_tokens,
            "ignore_eos": True,
            "seed": seed,
            "stream": True,
            "stream_options": {"include_usage": True},
            **self.extra,
            **(fields or {}),
        }
        if not body["stream"]:
            del body["stream_options"]
        timing = Timing(self.recording.now(), due, streamed=body["stream"])
        self.recording.requests.append(timing)
        try:
            self._read(http, json.dumps(body).encode(), answer_tokens, timing)
        except RejectedError as refusal:
            timing.end, timing.rejected = self.recording.now(), refusal.seconds
            self._fire("REJECTED", timing.end - timing.start, timing)
        except (OSError, ValueError, KeyError, ProtocolError) as error:
            # The connection may hold the rest of a broken reply.
            http.close()
            timing.error = f"{type(error).__name__}: {error}"[:200]
            self._fire("E2E", self.recording.now() - timing.start, timing, error)
        finally:
            if timing.end is None and timing.error is None:  # cut off by the end of the run, not by the server
                self.recording.requests = [one for one in self.recording.requests if one is not timing]
        return timing

    def _read(self, http: HTTPClient, body: bytes, answer_tokens: int, timing: Timing) -> None:
        response = http.post("/v1/chat/completions", body=body, headers=self.headers)
        if response.status_code in (429, 503):
            response.read()
            raise RejectedError(response.status_code, float(str(response.get("retry-after") or 1)))
        if response.status_code != 200:
            raise ProtocolError(f"status {response.status_code}: {response.read().decode('utf-8', 'replace')[:120]}")
        timing.cache, timing.age = (
            None if (told := response.get(name)) is None else str(told) for name in ("x-cache", "age")
        )
        reasons: list[str] = []
        usage: dict[str, Any] | None = None
        done = False
        for chunk in events_of(response) if timing.streamed else whole(response):
            if done:
                raise ProtocolError("an event after [DONE]")
            if chunk is None:
                done = True
                continue
            if "error" in chunk:
                raise ProtocolError(f"error in mid-stream: {chunk['error']['message']}")
            usage = chunk.get("usage") or usage
            for choice in chunk["choices"]:
                reasons += [choice["finish_reason"]] if choice["finish_reason"] else []
                if text := choice["delta" if timing.streamed else "message"].get("content"):
                    timing.answer += text
                    timing.texts.append(self.recording.now())
        end = self.recording.now()
        self._check(done, reasons, usage, answer_tokens)
        assert usage is not None
        timing.end = end
        timing.prompt_tokens, timing.completion_tokens = usage["prompt_tokens"], usage["completion_tokens"]
        for before, after in pairwise(timing.texts):
            self._fire("ITL", after - before, timing)
        if timing.texts:
            self._fire("TTFT", timing.texts[0] - timing.start, timing)
        self._fire("E2E", end - timing.start, timing)

    @staticmethod
    def _check(done: bool, reasons: list[str], usage: dict[str, Any] | None, answer_tokens: int) -> None:
        if not done:
            raise ProtocolError("the stream ended without [DONE]")
        if reasons != ["length"]:
            raise ProtocolError(f"finish reasons {reasons}, not one 'length'")
        if usage is None or usage["completion_tokens"] != answer_tokens:
            raise ProtocolError(f"usage {usage}, not {answer_tokens} completion tokens")

    def _fire(self, kind: str, seconds: float, timing: Timing, error: Exception | None = None) -> None:
        """Hits and misses are rows of their own."""
        self.environment.events.request.fire(
            request_type=kind,
            name=f"chat, {timing.cache}" if timing.cache else "chat",
            response_time=1000 * seconds,
            response_length=0,
            exception=error,
            context={},
        )


def events_of(response: Any) -> Iterator[dict[str, Any] | None]:
    """The JSON of each event as it arrives; None for `[DONE]`. Raises ProtocolError for anything else."""
    while event := response.readline(b"\n\n"):
        text = bytes(event).strip()
        if not text.startswith(b"data: "):
            raise ProtocolError(f"not an event: {text[:60]!r}")
        yield None if text == b"data: [DONE]" else orjson.loads(text[6:])


def whole(response: Any) -> Iterator[dict[str, Any] | None]:
    """A reply in one piece, as its only event and the end."""
    yield orjson.loads(response.read())
    yield None


@events.init_command_line_parser.add_listener
def add_options(parser: LocustArgumentParser) -> None:
    group = parser.add_argument_group("Tradewind")
    group.add_argument("--model", default="", help="model to ask; the first that the server lists, if left out")
    group.add_argument("--prompt-words", type=int, default=64, help="words in each prompt")
    group.add_argument("--answer-tokens", type=int, default=64, help="tokens in each answer")
    group.add_argument("--spread", type=float, default=0.0, help="of both lengths; 0: all the same")
    group.add_argument("--rate", type=float, default=0.0, help="arrivals a second, where a scenario has such")
    group.add_argument("--seed", type=int, default=0, help="of prompts and of sampling")
    group.add_argument("--raw", default="", help="write the timings of every request to this file")


@events.test_start.add_listener
def start(environment: Environment, **_: object) -> None:
    environment.recording = Recording()  # type: ignore[attr-defined]
    environment.user_numbers = -1  # type: ignore[attr-defined]
    environment.pulse = gevent.spawn(environment.recording.pulse)  # type: ignore[attr-defined]


@events.test_stopping.add_listener
def stopping(environment: Environment, **_: object) -> None:
    environment.recording.stopping = environment.recording.now()  # type: ignore[attr-defined]


@events.test_stop.add_listener
def stop(environment: Environment, **_: object) -> None:
    recording: Recording = environment.recording  # type: ignore[attr-defined]
    environment.pulse.kill()  # type: ignore[attr-defined]
    recording.finish()
    late = sorted(recording.delays) or [0.0]
    note = " (much: it may be what was measured)" if recording.cpu_share > CPU_WARNING else ""
    middle, tail = (1000 * late[int(share * (len(late) - 1))] for share in (0.5, 0.95))
    print(f"client: {recording.cpu_share:.0%} of a core{note}, woke late by {middle:.1f} ms (p50), {tail:.1f} ms (p95)")
    options = environment.parsed_options
    if options is not None and options.raw:
        Path(options.raw).write_text(json.dumps(asdict(recording)), encoding="utf-8")
