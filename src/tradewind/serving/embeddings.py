"""`/v1/embeddings`: vectors of texts, in OpenAI's shapes, from an encoder behind a cache.

The life of a call: 1. its texts become tokens, in a worker thread; what is too long or too much is refused by name;
2. the caller's limits admit the tokens; 3. what the cache lacks is computed, group by group: between two groups another
call has its turn, and a client that left ends it; 4. the body is written in a worker thread, too. A call that finds
everything waits for none that computes.

`X-Cache` says `hit` where every vector was found, `bypass` with `no-store` (`Cache-Control` is kept to as for answers), else
`miss`; `X-Cache-Hits: k/n` says how many of the texts were. The body is the same either way. Not covered:
`dimensions` other than the encoder's, which was not trained to be cut.
"""

import base64
import json
import time
from collections.abc import Callable
from typing import TypeVar

from anyio import CapacityLimiter, to_thread
from fastapi import Request as HttpRequest
from starlette.responses import Response

from tradewind.caching.embedding import EmbeddingCache, Job
from tradewind.encoder.contract import Encoder, Vectors
from tradewind.serving.caches import directives_of
from tradewind.serving.embedding_wire import EmbeddingRequest, Input
from tradewind.serving.errors import CLIENT_GONE, ApiError
from tradewind.serving.meter import Meter
from tradewind.serving.settings import ServeSettings
from tradewind.serving.shapes import EmbeddingUsage, Model

T = TypeVar("T")


class Embeddings:
    """One encoder. One thread computes and one reads and writes, whatever the number of calls."""

    def __init__(self, cache: EmbeddingCache, settings: ServeSettings) -> None:
        self.cache, self.settings = cache, settings
        self.encoder: Encoder = cache.encoder
        self._created = int(time.time())
        self.computing = 0
        self._one, self._other = CapacityLimiter(1), CapacityLimiter(1)  # who waits, in order, holds no thread

    @property
    def model(self) -> Model:
        longest = self.encoder.max_tokens
        return Model(
            id=self.encoder.name, object="model", created=self._created, owned_by="tradewind", max_model_len=longest
        )

    async def answer(self, wire: EmbeddingRequest, http: HttpRequest) -> Response:
        """Raises ApiError."""
        self._check(wire)
        directives = directives_of(http)
        meter = Meter.of(http.scope)
        texts = await self._work(lambda: self._tokens(wire.input))
        used = self._count(texts)
        await meter.embed(used)
        tenant = meter.principal.tenant
        job = await self._work(lambda: self.cache.job(texts, tenant, directives))
        if job.waiting and not await self._compute(job, http):
            return Response(status_code=CLIENT_GONE)
        usage = EmbeddingUsage(prompt_tokens=used, total_tokens=used)
        body = await self._work(lambda: render(job.vectors, wire.encoding_format, self.encoder.name, usage))
        return Response(body, media_type="application/json", headers=found(job))

    async def _work(self, call: Callable[[], T]) -> T:
        return await to_thread.run_sync(call, limiter=self._other)

    async def _compute(self, job: Job, http: HttpRequest) -> bool:
        """Whether the client stayed. Raises ApiError where too many calls wait already."""
        if self.computing > self.settings.max_waiting:
            Meter.of(http.scope).embedded = 0
            raise ApiError("slow_down", f"{self.computing} calls wait for the encoder already.")
        self.computing += 1
        try:
            while job.waiting and not await http.is_disconnected():
                await to_thread.run_sync(job.step, limiter=self._one)
        finally:
            self.computing -= 1
        return not job.waiting

    def _check(self, wire: EmbeddingRequest) -> None:
        name, dimensions, most = self.encoder.name, self.encoder.dimensions, self.settings.max_inputs
        if wire.model != name:
            raise ApiError("model_not_found", f"The model {wire.model!r} makes no embeddings; {name!r} does.", "model")
        if wire.dimensions not in (None, dimensions):
            text = f"{name} makes vectors of {dimensions} dimensions and was not trained to be cut."
            raise ApiError("invalid_value", f"Invalid value for dimensions: {text}", "dimensions")
        if len(wire.input) > most:
            raise ApiError("invalid_value", f"At most {most} texts go into one request.", "input")

    def _tokens(self, inputs: tuple[Input, ...]) -> list[list[int]]:
        """Each input's tokens, framed. Raises ApiError for ids that are none of a text."""
        tokenizer = self.encoder.tokenizer
        frames = (tokenizer.start, tokenizer.end, tokenizer.pad)
        for ids in inputs:
            if isinstance(ids, tuple) and any(one >= tokenizer.vocab_size or one in frames for one in ids):
                text = f"ids are from 0 to {tokenizer.vocab_size - 1}, without those that frame or pad a text"
                raise ApiError(
                    "invalid_value", f"Invalid value for input: {text}: {', '.join(map(str, frames))}.", "input"
                )
        texts = tokenizer.encode([one for one in inputs if isinstance(one, str)])
        return texts or [tokenizer.frame(one) for one in inputs if not isinstance(one, str)]

    def _count(self, texts: list[list[int]]) -> int:
        """Tokens of all. Raises ApiError where one text, or all together, have too many."""
        longest, most = self.encoder.max_tokens, self.settings.max_input_tokens
        for place, tokens in enumerate(texts):
            if len(tokens) > longest:
                text = f"input {place} has {len(tokens)} tokens; {self.encoder.name} reads at most {longest}."
                raise ApiError("context_length_exceeded", f"A text is too long: {text}", "input")
        if (used := sum(map(len, texts))) > most:
            raise ApiError("invalid_value", f"At most {most} tokens go into one request, these are {used}.", "input")
        return used


def found(job: Job) -> dict[str, str]:
    """The headers that tell what the cache had."""
    return {
        "X-Cache": "bypass" if job.directives.no_store else "hit" if job.hits == len(job.texts) else "miss",
        "X-Cache-Hits": f"{job.hits}/{len(job.texts)}",
    }


def render(vectors: Vectors, encoding: str | None, model: str, usage: EmbeddingUsage) -> bytes:
    """The body (see `shapes.EmbeddingReply`), vector by vector: one call for all would hold the interpreter for long.

    base64 is of float32 in little-endian order.
    """
    data = []
    for index, vector in enumerate(vectors):
        if encoding == "base64":
            value = f'"{base64.b64encode(vector.astype("<f4").tobytes()).decode()}"'
        else:
            value = json.dumps(vector.tolist(), separators=(",", ":"))
        data.append(f'{{"object":"embedding","index":{index},"embedding":{value}}}')
    ends = f'"model":{json.dumps(model)},"usage":{json.dumps(usage, separators=(",", ":"))}'
    return f'{{"object":"list","data":[{",".join(data)}],{ends}}}'.encode()
