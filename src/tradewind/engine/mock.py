"""The mock engine: arithmetic behind the contract, no weights, checkable by hand, with delays on request.

After tokens t_0 .. t_n the best next token is `ALPHABET[(sum of (i + 1) * t_i) mod 9973 mod 32]`: every cached token
and its position counts, so that a mistake in slots, chunks or forks shows in the text. Logits fall by a half for each
id after the best one. It knows no language and says nothing about speed: its delays are the caller's.
"""

import hashlib
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray

from tradewind.engine.adapters import AdapterSet
from tradewind.engine.contract import Engine, Logits, Prefix
from tradewind.errors import UserError
from tradewind.model.adapters import WEIGHTS_FILE

BYTES = 256
IM_START, IM_END = 256, 257
"""Ids beyond the bytes; `IM_END` ends an answer."""
ALPHABET: tuple[int, ...] = (*range(ord("a"), ord("z") + 1), *(ord(" "),) * 4, ord("\n"), IM_END)
"""The 32 tokens that can be best: letters, spaces and, now and then, the end."""
MODULUS = 9973
FALL = 0.5

Tokens = NDArray[np.int64]


@dataclass(frozen=True)
class MockAdapter:
    """offset: what it adds to the sum; never a multiple of 32, so that it always answers otherwise than the base."""

    digest: str
    offset: int
    rank: int = 1

    @classmethod
    def of(cls, content: bytes) -> Self:
        digest = hashlib.sha256(content).hexdigest()[:16]
        return cls(digest, 1 + int(digest, 16) % (len(ALPHABET) - 1))


def best_next(tokens: Sequence[int] | Tokens, offset: int = 0) -> int:
    """The token that follows `tokens`; `offset` is 0 but for an adapter (`MockAdapter`)."""
    held = np.fromiter(tokens, np.int64, len(tokens))
    total = int(np.arange(1, len(held) + 1) @ held)
    return ALPHABET[(total + offset) % MODULUS % len(ALPHABET)]


@dataclass(frozen=True, eq=False)
class MockPrefix(Prefix):
    kv: Tokens = None  # type: ignore[assignment] # [length], what a real engine keeps as keys and values

    @property
    def nbytes(self) -> int:
        return self.length * 8


class MockEngine(Engine):
    """Rows [slots, max_len] of token ids play the KV cache.

    step_delay: seconds a step takes, however many rows it feeds. prefill_delay: seconds a prompt token takes.
    feed: tokens a row takes in one step. adapters: names whose answers differ from the base's, loaded from the start.
    """

    name = "mock"
    adapters: AdapterSet[MockAdapter]
    exact_feeds = True

    def __init__(
        self,
        slots: int = 4,
        max_len: int = 512,
        vocab_size: int = 258,
        step_delay: float = 0.0,
        prefill_delay: float = 0.0,
        feed: int = 4,
        adapters: Sequence[str] = (),
    ) -> None:
        self.slots, self.max_len, self.vocab_size = slots, max_len, vocab_size
        self.step_delay, self.prefill_delay, self.feed = step_delay, prefill_delay, feed
        self.adapters = AdapterSet[MockAdapter](slots)
        for place, name in enumerate(adapters):
            self.adapters.add(name, MockAdapter(f"mock {place}", 1 + place))
        self.weights_digest = hashlib.sha256(f"mock {vocab_size} {sorted(adapters)}".encode()).hexdigest()
        self._kv: Tokens = np.zeros((slots, max_len), np.int64)
        self.kv_bytes = self._kv.nbytes
        self._lengths = [0] * slots

    @classmethod
    def load(cls, folder: object, *, slots: int, max_len: int, threads: int) -> Self:
        """The same signature as the engines with weights; there is nothing to read and no thread to set."""
        return cls(slots=slots, max_len=max_len)

    def prefill(
        self,
        tokens: Sequence[int],
        past: Prefix | None = None,
        adapter: str | None = None,
        budget: int | None = None,
        keep_logits: bool = False,
    ) -> MockPrefix:
        self.check_prefill(tokens, past, adapter, budget)
        adapter = past.adapter if past is not None else adapter
        held = past.kv[: past.length] if isinstance(past, MockPrefix) else np.zeros(0, np.int64)
        waiting = (*(past.pending if past is not None else ()), *tokens)
        now, later = waiting[:budget], waiting[budget:] if budget is not None else ()
        self._wait(self.prefill_delay * len(now))
        kv = np.concatenate([held, np.asarray(now, np.int64)])
        return MockPrefix(
            length=len(kv),
            pending=later,
            logits=None if later else self._logits(kv, adapter),
            all_logits=self._lines(kv, len(now), adapter) if keep_logits else None,
            adapter=adapter,
            kv=kv,
        )

    def insert(self, prefix: Prefix, slot: int) -> None:
        self.check_insert(prefix, slot)
        assert isinstance(prefix, MockPrefix)
        self._kv[slot, : prefix.length] = prefix.kv[: prefix.length]
        self._lengths[slot], self.adapters.rows[slot] = prefix.length, prefix.adapter

    def step(self, feed: Mapping[int, Sequence[int]]) -> dict[int, Logits]:
        self.check_feed(feed)
        self._wait(self.step_delay)
        out = {}
        for slot, tokens in feed.items():
            start = self._lengths[slot]
            end = start + len(tokens)
            self._kv[slot, start:end] = tokens
            self._lengths[slot] = end
            out[slot] = self._lines(self._kv[slot, :end], len(tokens), self.adapters.rows[slot])
        return out

    def fork(self, slot: int) -> MockPrefix:
        self.check_slot(slot, occupied=True)
        length = self._lengths[slot]
        return MockPrefix(length=length, adapter=self.adapters.rows[slot], kv=self._kv[slot, :length].copy())

    def rewind(self, slot: int, length: int) -> None:
        self.check_rewind(slot, length)
        self._lengths[slot] = length

    def release(self, slot: int) -> None:
        self.check_slot(slot, occupied=True)
        self._lengths[slot], self.adapters.rows[slot] = 0, None

    def length(self, slot: int) -> int:
        if not 0 <= slot < self.slots:
            self.check_slot(slot, occupied=True)
        return self._lengths[slot]

    def max_feed(self, slot: int) -> int:
        length = self.length(slot)
        return min(self.feed, self.max_len - length) if length else 0

    def open_adapter(self, folder: str | Path) -> MockAdapter:
        """Of the bytes of its weights: any file will do."""
        path = Path(folder) / WEIGHTS_FILE
        if not path.is_file():
            raise UserError(f"{path}: no such file")
        return MockAdapter.of(path.read_bytes())

    def add_adapter(self, name: str, adapter: MockAdapter) -> None:
        self.adapters.add(name, adapter)

    def drop_adapter(self, name: str) -> None:
        self.adapters.drop(name)

    def _lines(self, kv: Tokens, count: int, adapter: str | None) -> Logits:
        """Logits [count, vocab] after each of the last `count` tokens."""
        return np.stack([self._logits(kv[: len(kv) - count + 1 + line], adapter) for line in range(count)])

    def _logits(self, kv: Tokens, adapter: str | None) -> Logits:
        offset = 0 if adapter is None else self.adapters[adapter].offset
        best = best_next(kv, offset) % self.vocab_size
        return (-FALL * ((np.arange(self.vocab_size) - best) % self.vocab_size)).astype(np.float32)

    @staticmethod
    def _wait(seconds: float) -> None:
        if seconds > 0:
            time.sleep(seconds)
