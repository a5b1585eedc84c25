"""Vectors by what the encoder reads: a call with k texts that were not there computes k, each once.

The life of a call: 1. its texts, as tokens, are looked up, and equal ones become one; 2. what is missing is computed, in
the groups that the encoder makes; 3. each group is kept as soon as it is there. `Cache-Control` is kept to: `no-store`
leaves the store alone, `no-cache` computes anew, `max-age=N` takes what was computed at most N seconds ago.

A key is the SHA-256 of the encoder's digest (weights, precision, tokenizer, runtime), dimensions, dtype, tenant and
tokens: two texts that differ and give the same tokens have one vector, and one entry. The tenant is part of it, because
a hit tells that the text was there before. A vector never becomes stale; the time to live only bounds how long a text
that was embedded once leaves a trace. Two calls at once may compute the same text twice. Not covered: other processes
(any store with `get` and `put` may be shared, but nothing here authenticates what it gives).
"""

import hashlib
import json
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from tradewind.caching.directives import UNSAID, Directives
from tradewind.encoder.contract import Encoder, Tokens, Vectors

DTYPE = "<f4"
DAY_S = 86400.0


class Kept(Protocol):
    """stored: seconds on the store's clock."""

    @property
    def value(self) -> bytes: ...
    @property
    def stored(self) -> float: ...


class Store(Protocol):
    """`caching.memory.LocalStore` is one."""

    def __len__(self) -> int: ...
    @property
    def nbytes(self) -> int: ...
    def now(self) -> float: ...
    def get(self, key: bytes) -> Kept | None: ...
    def put(self, key: bytes, value: bytes, ttl_s: float) -> bool: ...


@dataclass
class TextCounts:
    """Texts since the start: found here, not found or wanted anew, and those that leave the store alone."""

    hit: int = 0
    miss: int = 0
    bypass: int = 0


class EmbeddingCache:
    """An encoder that remembers. May be used from several threads, the store from one at a time."""

    def __init__(self, encoder: Encoder, store: Store, ttl_s: float = DAY_S) -> None:
        self.encoder, self.store, self.ttl_s = encoder, store, ttl_s
        self.digest, self.dimensions = encoder.digest, encoder.dimensions
        self.counts, self.lock = TextCounts(), threading.Lock()

    def embed(self, texts: Sequence[str], tenant: str = "") -> NDArray[np.float32]:
        """[texts, dimensions], each of length 1. Raises TextTooLong."""
        job = self.job(self.encoder.tokenizer.encode(texts), tenant)
        while job.waiting:
            job.step()
        return job.vectors

    def job(self, texts: Sequence[Tokens], tenant: str = "", directives: Directives = UNSAID) -> "Job":
        """Raises TextTooLong."""
        self.encoder.check(texts)
        return Job(self, texts, tenant, directives)

    def key(self, tokens: Tokens, tenant: str) -> bytes:
        facts = json.dumps(["embedding", self.digest, self.dimensions, DTYPE, tenant])
        return hashlib.sha256(facts.encode() + b"\n" + np.asarray(tokens, "<i4").tobytes()).digest()

    def find(self, keys: Sequence[bytes], max_age: int | None = None) -> list[bytes | None]:
        """Values of another size than a vector's, and older ones than `max_age` seconds, are as good as none."""
        with self.lock:
            entries, now = [self.store.get(key) for key in keys], self.store.now()

        def usable(entry: Kept) -> bool:
            return len(entry.value) == 4 * self.dimensions and (max_age is None or now - entry.stored <= max_age)

        return [entry.value if entry is not None and usable(entry) else None for entry in entries]

    def count(self, directives: Directives, hits: int, texts: int) -> None:
        """Once for each call."""
        with self.lock:
            if directives.no_store:
                self.counts.bypass += texts
                return
            self.counts.hit += hits
            self.counts.miss += texts - hits

    def keep(self, keys: Sequence[bytes], vectors: Vectors) -> None:
        values = [vector.tobytes() for vector in vectors.astype(DTYPE, copy=False)]
        with self.lock:
            for key, value in zip(keys, values, strict=True):
                self.store.put(key, value, self.ttl_s)


class Job:
    """One call's texts. vectors: [texts, dimensions], whole once nothing is `waiting`. hits: texts that were found."""

    def __init__(self, cache: EmbeddingCache, texts: Sequence[Tokens], tenant: str, directives: Directives) -> None:
        self.cache, self.texts, self.directives = cache, texts, directives
        self.vectors: Vectors = np.empty((len(texts), cache.dimensions), np.float32)
        self._places: dict[bytes, list[int]] = {}
        for place, tokens in enumerate(texts):
            self._places.setdefault(cache.key(tokens, tenant), []).append(place)
        keys = list(self._places)
        missing = keys
        if not (directives.no_store or directives.no_cache):
            values = cache.find(keys, directives.max_age)
            missing = [key for key, value in zip(keys, values, strict=True) if not self._found(key, value)]
        self.hits = len(texts) - sum(len(self._places[key]) for key in missing)
        cache.count(directives, self.hits, len(texts))
        groups = cache.encoder.batches([len(self._text(key)) for key in missing])
        self.waiting = [[missing[place] for place in group] for group in groups]

    def step(self) -> None:
        """Compute the next group and keep it."""
        keys = self.waiting.pop(0)
        vectors = self.cache.encoder.run([self._text(key) for key in keys])
        for key, vector in zip(keys, vectors, strict=True):
            self.vectors[self._places[key]] = vector
        if not self.directives.no_store:
            self.cache.keep(keys, vectors)

    def _found(self, key: bytes, value: bytes | None) -> bool:
        if value is not None:
            self.vectors[self._places[key]] = np.frombuffer(value, DTYPE)
        return value is not None

    def _text(self, key: bytes) -> Tokens:
        return self.texts[self._places[key][0]]
