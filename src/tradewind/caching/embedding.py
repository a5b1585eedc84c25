"""Vectors by what the encoder reads: a call with k texts that were not there computes k, each once.

The life of a call: 1. its texts, as tokens, are looked up, and equal ones become one; 2. what is missing is computed, in
the groups that the encoder makes; 3. each group is kept as soon as it is there.

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
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from tradewind.encoder.contract import Encoder, Tokens, Vectors

DTYPE = "<f4"
DAY_S = 86400.0


class Kept(Protocol):
    @property
    def value(self) -> bytes: ...


class Store(Protocol):
    """`caching.memory.LocalStore` is one."""

    def get(self, key: bytes) -> Kept | None: ...
    def put(self, key: bytes, value: bytes, ttl_s: float) -> bool: ...


class EmbeddingCache:
    """An encoder that remembers. May be used from several threads, the store from one at a time."""

    def __init__(self, encoder: Encoder, store: Store, ttl_s: float = DAY_S) -> None:
        self.encoder, self.store, self.ttl_s = encoder, store, ttl_s
        self.digest, self.dimensions = encoder.digest, encoder.dimensions
        self.lock = threading.Lock()

    def embed(self, texts: Sequence[str], tenant: str = "") -> NDArray[np.float32]:
        """[texts, dimensions], each of length 1. Raises TextTooLong."""
        job = self.job(self.encoder.tokenizer.encode(texts), tenant)
        while job.waiting:
            job.step()
        return job.vectors

    def job(self, texts: Sequence[Tokens], tenant: str = "") -> "Job":
        """Raises TextTooLong."""
        self.encoder.check(texts)
        return Job(self, texts, tenant)

    def key(self, tokens: Tokens, tenant: str) -> bytes:
        facts = json.dumps(["embedding", self.digest, self.dimensions, DTYPE, tenant])
        return hashlib.sha256(facts.encode() + b"\n" + np.asarray(tokens, "<i4").tobytes()).digest()

    def find(self, keys: Sequence[bytes]) -> list[bytes | None]:
        """Values of another size than a vector's are as good as none."""
        with self.lock:
            entries = [self.store.get(key) for key in keys]
        size = 4 * self.dimensions
        return [entry.value if entry is not None and len(entry.value) == size else None for entry in entries]

    def keep(self, keys: Sequence[bytes], vectors: Vectors) -> None:
        values = [vector.tobytes() for vector in vectors.astype(DTYPE, copy=False)]
        with self.lock:
            for key, value in zip(keys, values, strict=True):
                self.store.put(key, value, self.ttl_s)


class Job:
    """One call's texts. vectors: [texts, dimensions], whole once nothing is `waiting`. hits: texts that were found."""

    def __init__(self, cache: EmbeddingCache, texts: Sequence[Tokens], tenant: str) -> None:
        self.cache, self.texts = cache, texts
        self.vectors: Vectors = np.empty((len(texts), cache.dimensions), np.float32)
        self._places: dict[bytes, list[int]] = {}
        for place, tokens in enumerate(texts):
            self._places.setdefault(cache.key(tokens, tenant), []).append(place)
        keys = list(self._places)
        missing = [key for key, value in zip(keys, cache.find(keys), strict=True) if not self._found(key, value)]
        self.hits = len(texts) - sum(len(self._places[key]) for key in missing)
        groups = cache.encoder.batches([len(self._text(key)) for key in missing])
        self.waiting = [[missing[place] for place in group] for group in groups]

    def step(self) -> None:
        """Compute the next group and keep it."""
        keys = self.waiting.pop(0)
        vectors = self.cache.encoder.run([self._text(key) for key in keys])
        for key, vector in zip(keys, vectors, strict=True):
            self.vectors[self._places[key]] = vector
        self.cache.keep(keys, vectors)

    def _found(self, key: bytes, value: bytes | None) -> bool:
        if value is not None:
            self.vectors[self._places[key]] = np.frombuffer(value, DTYPE)
        return value is not None

    def _text(self, key: bytes) -> Tokens:
        return self.texts[self._places[key][0]]
