"""The semantic cache, in shadow: it finds the nearest past question and scores what its answer would have been worth.

The life of an observation:
1. `context_of` says whether a chat request takes part: one user turn and nothing but system messages before it. The
   question is the turn's last paragraph; all else must match exactly: tenant, model, system messages, what stands
   before the question in the turn (the passage), and every field that sampling depends on.
2. The engine answers, as if this cache were not there.
3. `observe` embeds the question in a thread of its own, finds the nearest past question of the same tenant and context,
   asks the guard (`guard.differs`), and scores the past answer against the one generated (`shadow`). It then keeps the
   question with its answer. Nothing of this reaches the client.

Serving is opt-in: for a tenant named in `tenants`, `look_up` before the engine and `served` give an answer where the
similarity is at least `threshold`, the guard finds nothing and the answer is younger than `max_age_s` and no older than
the caller's own `max-age`; such a reply is marked with `headers`. No tenant is named by default. A tenant's own users can
plant questions for each other (crafted collisions: arXiv 2601.23088), and a fixed threshold promises no error rate (arXiv
2502.03771): the study measures both sides on documentation, not on an attacker.

Not covered: conversations of several turns, questions beyond MAX_QUESTION characters, answers that `length` cut off, a
second neighbour where the nearest is refused or too old, sharing between replicas, keeping across restarts. Lookups come
after generation, so of two alike that run together the later finds the earlier one.
"""

import asyncio
import hashlib
import json
import logging
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from tradewind.caching.guard import differs
from tradewind.caching.neighbours import Neighbours, Vector
from tradewind.caching.shadow import THRESHOLDS, Agreement, Shadow, agreement
from tradewind.encoder.contract import Encoder

MAX_QUESTION = 240
"""Characters: the encoder reads 256 tokens and would compare longer questions by their beginning only."""
MAX_PENDING = 64
"""Questions waiting for the encoder beyond which new ones are left out."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Question:
    """A question's text and the digest of everything that must match beside it."""

    tenant: str
    context: bytes
    text: str


def context_of(
    tenant: str, model: str, messages: Sequence[Mapping[str, str]], sampling: Mapping[str, Any]
) -> Question | None:
    """What of a chat request is the question, and what its context; None where the request takes no part.

    model: the digest of weights, adapter, precision and template. messages: role and content. sampling: every other
    field of the request that an answer depends on, as JSON.
    """
    *before, last = messages or [{}]
    if last.get("role") != "user" or any(message["role"] not in ("system", "developer") for message in before):
        return None
    passage, _, question = last["content"].rpartition("\n\n")
    if not question.strip() or len(question) > MAX_QUESTION:
        return None
    head = [[message["role"], message["content"]] for message in before]
    everything = json.dumps([tenant, model, head, passage, sampling], sort_keys=True)
    return Question(tenant, hashlib.sha256(everything.encode()).digest(), question)


@dataclass(frozen=True)
class Neighbour:
    """The nearest past question. tokens: sampled for its answer. refused: why the guard will not have it, or None.
    age_s: of its answer."""

    question: str
    answer: str
    tokens: int
    similarity: float
    age_s: float
    refused: str | None


@dataclass(frozen=True)
class Lookup:
    """repeated: a question with the very same text is known, which is no semantic hit."""

    asked: Question
    vector: Vector
    nearest: Neighbour | None
    repeated: bool


@dataclass(frozen=True)
class Observation:
    """What was found, and how the past answer compares with the one generated (None where there was none)."""

    lookup: Lookup
    agreed: Agreement | None


class SemanticCache:
    """budget: bytes. tenants: who is served from it; none by default. Used from one event loop; the encoder is called
    in one thread. skipped, failed: questions that were left out because the encoder was behind, or raised."""

    def __init__(
        self,
        encoder: Encoder,
        budget: int,
        tenants: Collection[str] = (),
        threshold: float = 0.99,
        max_age_s: float = 3600.0,
        strict: bool = True,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        if not 0 < threshold <= 1:
            raise ValueError(f"threshold {threshold} is not in (0, 1]")
        self.encoder, self.tenants, self.threshold = encoder, frozenset(tenants), threshold
        self.max_age_s, self.strict, self.clock = max_age_s, strict, clock
        self.past = Neighbours(budget, encoder.dimensions)
        self.shadow = Shadow()
        self.skipped = self.failed = 0
        self._pending = 0
        self._broken = False
        self._thread = ThreadPoolExecutor(1, "semantic-cache")

    async def look_up(self, asked: Question) -> Lookup | None:
        """The nearest past question; None where the encoder is behind or failed. Changes nothing but use."""
        vector = await self._embed(asked.text)
        return None if vector is None else self.nearest(asked, vector)

    def nearest(self, asked: Question, vector: Vector) -> Lookup:
        """`look_up` for a question that was embedded elsewhere."""
        key = (asked.tenant, asked.context)
        repeated = self.past.same(key, asked.text) is not None
        found = self.past.nearest(key, vector)
        if found is None:
            return Lookup(asked, vector, None, repeated)
        entry, similarity = found
        if similarity >= THRESHOLDS[0]:
            self.past.touch(entry)
        refused = differs(asked.text, entry.question, self.strict)
        age = max(0.0, self.clock() - entry.stored)
        near = Neighbour(entry.question, entry.answer, entry.tokens, similarity, age, refused)
        return Lookup(asked, vector, near, repeated)

    def served(self, lookup: Lookup, max_age: float | None = None) -> Neighbour | None:
        """The neighbour whose answer may be given instead of the engine's; None for any tenant that did not opt in.
        max_age: seconds, as the caller has it; None: as the cache has it."""
        near = lookup.nearest
        if lookup.asked.tenant not in self.tenants or near is None or near.refused:
            return None
        young = near.age_s < self.max_age_s and (max_age is None or near.age_s <= max_age)
        return near if young and near.similarity >= self.threshold else None

    async def observe(self, asked: Question, answer: str, tokens: int) -> Observation | None:
        """Score the nearest past answer against the engine's, which ended by `stop` after so many tokens, and keep it.
        None where the question was left out. To be awaited after the reply has gone out."""
        vector = await self._embed(asked.text)
        return None if vector is None else self.learn(self.nearest(asked, vector), answer, tokens)

    def learn(self, lookup: Lookup, answer: str, tokens: int) -> Observation:
        """`observe` for a question that was looked up already."""
        asked, near = lookup.asked, lookup.nearest
        agreed = None
        if lookup.repeated:
            self.shadow.repeated += 1
        elif near is None:
            self.shadow.empty += 1
        else:
            agreed = agreement(near.answer, answer)
            self.shadow.add(near.similarity, near.refused is not None, agreed)
        self.past.add((asked.tenant, asked.context), lookup.vector, asked.text, answer, tokens, self.clock())
        return Observation(lookup, agreed)

    def close(self) -> None:
        """Ends the thread; questions that wait are left out."""
        self._thread.shutdown(wait=False, cancel_futures=True)

    async def _embed(self, question: str) -> Vector | None:
        """One line is logged when the encoder begins to fail, and one when it works again."""
        if self._pending >= MAX_PENDING:
            self.skipped += 1
            return None
        self._pending += 1
        try:
            running = asyncio.get_running_loop().run_in_executor(self._thread, self.encoder.embed, [question])
            vector = (await running)[0]
            self.past.check(vector)
        except Exception as error:
            self.failed += 1
            if not self._broken:
                log.warning("the semantic cache stands aside: %s: %s", type(error).__name__, error)
            self._broken = True
            return None
        finally:
            self._pending -= 1
        if self._broken:
            log.warning("the semantic cache is back")
        self._broken = False
        return vector


def headers(near: Neighbour) -> dict[str, str]:
    """What marks a reply that was served from here."""
    return {
        "X-Cache": "semantic",
        "X-Cache-Similarity": f"{near.similarity:.4f}",
        "Age": str(int(near.age_s)),
    }
