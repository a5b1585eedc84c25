"""From a parsed body to a reply: build the engine's requests, run them, answer whole or as a stream.

The life of a call: 1. wire type -> `Request`s, a structure compiled in a thread; 2. submitted, or refused with an error;
3. the first event decides the status, so that a prompt that fails is a 500 and not a broken stream; 4. deltas, one
server-sent event each; 5. usage, `[DONE]`. An error after the first byte is an event `{"error": ...}` with no `[DONE]`.

Answers of several variants to one call are `serving.fanout`'s.
"""

from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any

from anyio import CapacityLimiter, to_thread
from fastapi import Request as HttpRequest
from starlette.concurrency import run_in_threadpool
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from tradewind.engine.backend import Backend
from tradewind.engine.grammar import BadStructure, Grammar, Grammars
from tradewind.engine.requests import (
    Cancelled,
    ContextTooLong,
    DeadlineExceeded,
    Delta,
    Done,
    Event,
    Failed,
    PromptLogprobs,
    Refused,
    Request,
)
from tradewind.engine.sampling import SamplingParams
from tradewind.engine.text import Tokenizer
from tradewind.serving.caches import CallCaches
from tradewind.serving.errors import CLIENT_GONE, ApiError, refusal
from tradewind.serving.generation import Generation, Numbered, Work
from tradewind.serving.keys import Principal
from tradewind.serving.meter import Meter
from tradewind.serving.replies import (
    Call,
    ChatFormat,
    Choice,
    Format,
    Json,
    JsonReply,
    TextFormat,
    likeliest,
    sse,
    text_of,
    usage,
)
from tradewind.serving.settings import ServeSettings
from tradewind.serving.shapes import ChatChunkChoice, TextChunkChoice
from tradewind.serving.wire import ChatRequest, CompletionRequest

Wire = ChatRequest | CompletionRequest
FORMATS: dict[type[Wire], Format] = {ChatRequest: ChatFormat(), CompletionRequest: TextFormat()}
PROMPT_FIELD: dict[type[Wire], str] = {ChatRequest: "messages", CompletionRequest: "prompt"}
MESSAGE_TEXT = 32
"""Characters that a message's markup counts as, beside its content."""
KNOWN = 256
"""Short chats whose tokens are kept, for those that come again."""
LONG_TEXT = 4096
"""Characters from which a text is tokenized outside the event loop."""


class Completions:
    """Both endpoints over one scheduler. identity: see `caching.key`. adapter: that its requests run with."""

    def __init__(
        self,
        scheduler: Backend,
        tokenizer: Tokenizer,
        settings: ServeSettings,
        identity: str = "",
        adapter: str | None = None,
    ) -> None:
        self.scheduler, self.tokenizer, self.settings, self.identity = scheduler, tokenizer, settings, identity
        self.adapter = adapter
        self.grammars = Grammars(tokenizer)
        self._known_chat = lru_cache(KNOWN)(self._chat)
        self._compiling = CapacityLimiter(1)  # others wait in the event loop, and hold no thread

    async def answer(self, wire: Wire, call: Call, http: HttpRequest, caches: CallCaches) -> Response:
        requests = await self.requests(wire, http)
        backend = caches.over(self.scheduler, self.identity, bool(wire.stream))
        if len(requests) == 1:
            backend = await caches.meaning(backend, wire, requests[0], self.identity)
        generation = await begin([(backend, one) for one in requests], wire, http)
        reply = Reply(generation, call, wire, self._echoes(wire, requests))
        if not wire.stream:
            return await reply.whole()
        return await EventStream.open(reply)

    async def requests(self, wire: Wire, http: HttpRequest) -> list[Request]:
        """One for each prompt. Raises ApiError."""
        prompts = await self._prompts(wire)
        if wire.candidates * len(prompts) > self.settings.max_choices:
            raise ApiError("invalid_value", f"At most {self.settings.max_choices} answers per request.", "n")
        grammar = await self._grammar(wire)
        return [self._request(wire, tuple(prompt), grammar, Meter.of(http.scope)) for prompt in prompts]

    async def _prompts(self, wire: Wire) -> list[list[int]]:
        if isinstance(wire, ChatRequest):
            messages = tuple((_role(one.role), one.content) for one in wire.messages)
            size = sum(len(content) + MESSAGE_TEXT for _, content in messages)
            return [await self._tokens(size, self._known_chat if size <= LONG_TEXT else self._chat, messages)]
        if len(wire.prompt) > self.settings.max_prompts:
            limit = self.settings.max_prompts
            raise ApiError("invalid_value", f"At most {limit} prompts go into one request.", "prompt")
        return [
            await self._tokens(len(one), self.tokenizer.encode, one) if isinstance(one, str) else list(one)
            for one in wire.prompt
        ]

    def _chat(self, messages: tuple[tuple[str, str], ...]) -> list[int]:
        return self.tokenizer.chat([{"role": role, "content": content} for role, content in messages])

    @staticmethod
    async def _tokens(size: int, encode: Any, text: object) -> list[int]:
        return await run_in_threadpool(encode, text) if size > LONG_TEXT else encode(text)

    async def _grammar(self, wire: Wire) -> Grammar | None:
        structure = wire.structure
        if structure is None:
            return None
        try:
            return await to_thread.run_sync(self.grammars.compile, structure, limiter=self._compiling)
        except BadStructure as error:
            raise ApiError(
                "invalid_value", f"Invalid value for {wire.structure_field}: {error}.", wire.structure_field
            ) from None

    def _echoes(self, wire: Wire, requests: Sequence[Request]) -> list[str] | None:
        """The prompts' texts, special tokens left out, where the answers are to begin with them."""
        if not (isinstance(wire, CompletionRequest) and wire.echo):
            return None
        specials = frozenset(self.tokenizer.special_ids)
        prompts = (one.prompt for one in requests)
        pieces = ((self.tokenizer.token_bytes(one) for one in prompt if one not in specials) for prompt in prompts)
        return [text_of(b"".join(prompt)) for prompt in pieces]

    def _request(self, wire: Wire, prompt: tuple[int, ...], grammar: Grammar | None, meter: Meter) -> Request:
        vocabulary = self.scheduler.engine.vocab_size
        if any(token >= vocabulary for token, _ in wire.logit_bias):
            raise ApiError("invalid_value", f"The vocabulary has {vocabulary} tokens.", "logit_bias")
        answer_tokens = wire.answer_tokens
        if answer_tokens is None:
            answer_tokens = max(1, self.scheduler.engine.max_len - len(prompt))
        ranked = wire.aggregate is not None or wire.candidates > (wire.n or 1)
        sampling = SamplingParams(
            temperature=_or(wire.temperature, 1.0),
            top_p=_or(wire.top_p, 1.0),
            top_k=wire.top_k or 0,
            seed=None if wire.seed is None else wire.seed % 2**64,
            logprobs=0 if ranked and wire.alternatives is None else wire.alternatives,
            min_p=_or(wire.min_p, 0.0),
            presence_penalty=_or(wire.presence_penalty, 0.0),
            frequency_penalty=_or(wire.frequency_penalty, 0.0),
            repetition_penalty=_or(wire.repetition_penalty, 1.0),
            logit_bias=wire.logit_bias,
        )
        return Request(
            prompt,
            answer_tokens,
            sampling,
            wire.candidates,
            wire.stop,
            ignore_eos=bool(wire.ignore_eos),
            adapter=self.adapter,
            grammar=grammar,
            priority=priority(wire, meter.principal),
            deadline=meter.started + self.settings.request_timeout_s,
            cache_salt=wire.cache_salt,
            prompt_logprobs=wire.logprobs if isinstance(wire, CompletionRequest) and wire.echo else None,
        )


def priority(wire: Wire, principal: Principal) -> int:
    """What the call asks for, 0 or the least that its key may ask for where it names none. Raises ApiError beyond that."""
    if wire.priority is None:
        return max(0, principal.priority)
    if wire.priority < principal.priority:
        text = f"Invalid value for priority: this key may ask for {principal.priority} or more."
        raise ApiError("invalid_value", text, "priority")
    return wire.priority


def at_fault(error: Refused, wire: Wire) -> str:
    """The field that a refusal is about: where the prompt alone would fit, the answer's length, if it was given."""
    if isinstance(error, ContextTooLong) and error.prompt_fits:
        given = [name for name in ("max_completion_tokens", "max_tokens") if getattr(wire, name, None)]
        return given[0] if given else PROMPT_FIELD[type(wire)]
    return PROMPT_FIELD[type(wire)]


async def begin(work: Sequence[Work], wire: Wire, http: HttpRequest) -> Generation:
    """Raises ApiError where a limit or a scheduler refuses."""
    try:
        return await Generation(work, http).start()
    except Refused as error:
        raise refusal(error, at_fault(error, wire)) from None


class Reply:
    """One call's events, gathered into a body or written as chunks. echoes: what the answers to each prompt begin with."""

    def __init__(
        self,
        generation: Generation,
        call: Call,
        wire: Wire,
        echoes: list[str] | None = None,
    ) -> None:
        self.generation, self.call, self.wire, self.echoes = generation, call, wire, echoes
        self.form = FORMATS[type(wire)]
        self.per_prompt = wire.candidates
        self.with_logprobs = wire.alternatives is not None
        self.done: dict[int, Done] = {}
        self._to_echo = set() if echoes is None else set(range(len(echoes)))

    async def whole(self) -> Response:
        """Raises ApiError where one of the requests failed."""
        try:
            choices = await self.gathered()
        except ClientGoneError:
            return Response(status_code=CLIENT_GONE)
        return JsonReply(self.body(likeliest(choices, self.per_prompt, self.wire.n or 1)))

    async def gathered(self) -> list[Choice]:
        """All answers, prompt by prompt. Raises ApiError, ClientGoneError; whatever runs then is cancelled."""
        choices = [Choice() for _ in range(self.per_prompt * len(self.generation.requests))]
        try:
            async for batch in self.generation.batches():
                deltas, failure = self._deltas(batch)
                if failure is not None:
                    raise failure
                for index, delta in deltas:
                    choices[index].add(delta)
        finally:
            self.generation.close()
        return choices

    def body(self, choices: Sequence[Choice]) -> Json:
        made = [self.form.choice(index, choice, self.with_logprobs) for index, choice in enumerate(choices)]
        return self.call.frame(self.form.whole, made, usage(self.done.values()))

    async def chunks(self) -> AsyncIterator[bytes]:
        """Server-sent events, those that are ready together in one piece. The first of them may raise ApiError; a later
        failure is an event after all that came before it.
        """
        first = True
        async for batch in self.generation.batches():
            deltas, failure = self._deltas(batch)
            if failure is not None and (first or not isinstance(failure, ApiError)):
                raise failure
            texts = [self._event(self.form.delta(index, delta, self.with_logprobs)) for index, delta in deltas]
            if first:
                texts = [*self._openings(), *texts]
                first = False
            if failure is not None:
                yield b"".join([*texts, sse(failure.body)])
                return
            if self.generation.ended:
                texts += self._ending()
            if texts:
                yield b"".join(texts)

    def _ending(self) -> list[bytes]:
        """After all answers."""
        if not self.wire.include_usage:
            return [b"data: [DONE]\n\n"]
        return [sse(self.call.frame(self.form.chunk, [], usage(self.done.values()))), b"data: [DONE]\n\n"]

    def _openings(self) -> list[bytes]:
        """A chunk for each answer ahead of its text, where the endpoint has such."""
        count = self.per_prompt * len(self.generation.requests)
        openings = (self.form.opening(index) for index in range(count))
        return [self._event(opening) for opening in openings if opening is not None]

    def _event(self, choice: ChatChunkChoice | TextChunkChoice) -> bytes:
        frame = self.call.frame(self.form.chunk, [choice])
        if not self.wire.include_usage:
            del frame["usage"]
        return sse(frame)

    def _deltas(self, batch: list[Numbered]) -> tuple[list[tuple[int, Delta]], "ApiError | ClientGoneError | None"]:
        """Deltas with the index of their answer in this call, as far as the first failure, and that; ends are noted."""
        deltas: list[tuple[int, Delta]] = []
        for place, event in batch:
            if isinstance(event, Delta):
                deltas += self._echo(place)
                deltas.append((place * self.per_prompt + event.index, self._shifted(place, event)))
            elif isinstance(event, PromptLogprobs):
                deltas += self._echo(place, event)
            elif isinstance(event, Done):
                self.done[place] = event
            else:
                return deltas, self._failure(event)
        return deltas, None

    def _echo(self, place: int, scored: PromptLogprobs | None = None) -> list[tuple[int, Delta]]:
        """What the answers to one prompt begin with, given once: with the prompt's scores, which come first, or before
        the first delta.
        """
        if self.echoes is None or place not in self._to_echo:
            return []
        self._to_echo.remove(place)
        delta = Delta(0, self.echoes[place], 0, () if scored is None else scored.entries)
        return [(place * self.per_prompt + index, replace(delta, index=index)) for index in range(self.per_prompt)]

    def _shifted(self, place: int, delta: Delta) -> Delta:
        """Offsets of log-probabilities count from the start of the text, the echo included."""
        if self.echoes is None or not delta.logprobs:
            return delta
        start = len(self.echoes[place])
        return replace(delta, logprobs=tuple(replace(one, offset=start + one.offset) for one in delta.logprobs))

    def _failure(self, event: Event) -> "ApiError | ClientGoneError":
        if isinstance(event, Failed) and isinstance(event.error, BadStructure):
            field = self.wire.structure_field
            return ApiError("invalid_value", f"Invalid value for {field}: {event.error}.", field)
        if isinstance(event, Failed) and isinstance(event.error, Refused):
            return refusal(event.error, at_fault(event.error, self.wire))
        if isinstance(event, Failed) and isinstance(event.error, DeadlineExceeded):
            return ApiError("request_timeout", "The request took longer than it may.")
        if isinstance(event, Failed):
            return ApiError("engine_fault", "The engine failed on this request.")
        assert isinstance(event, Cancelled)
        if self.generation.client_gone:
            return ClientGoneError()
        return ApiError("server_is_overloaded", "The server is shutting down.")


class ClientGoneError(Exception):
    """The client closed its connection: there is nobody to answer."""


class EventStream(Response):
    """Server-sent events. However this ends, the client's leaving included, the requests are cancelled."""

    media_type = "text/event-stream"

    def __init__(self, reply: Reply, first: bytes, rest: AsyncIterator[bytes]) -> None:
        self.reply, self.first, self.rest = reply, first, rest
        self.status_code, self.background = 200, None
        self.init_headers({"Cache-Control": "no-cache", "X-Accel-Buffering": "no"})

    @classmethod
    async def open(cls, reply: Reply) -> Response:
        """Wait for the first event: its failure is an error with a status of its own."""
        chunks = reply.chunks()
        try:
            first = await anext(chunks)
        except ClientGoneError:
            return Response(status_code=CLIENT_GONE)
        except BaseException:
            reply.generation.close()
            raise
        return cls(reply, first, chunks)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
            await self._send(send, self.first)
            async for events in self.rest:
                await self._send(send, events)
            await send({"type": "http.response.body", "body": b"", "more_body": False})
        except (ClientGoneError, OSError):
            scope.setdefault("state", {})["client_gone"] = True
        finally:
            self.reply.generation.close()

    @staticmethod
    async def _send(send: Send, events: bytes) -> None:
        await send({"type": "http.response.body", "body": events, "more_body": True})


def _or(value: float | None, default: float) -> float:
    return default if value is None else value


def _role(role: str) -> str:
    """`developer` is OpenAI's newer name for `system`; templates know the older one."""
    return "system" if role == "developer" else role
