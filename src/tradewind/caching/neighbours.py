"""Past questions as unit vectors with their answers, the nearest found exactly, kept under a budget of bytes.

Questions are kept by group (one tenant, one context) and never compared across groups: there is no search that could
find another group's. The least recently used entry of all groups goes first. `nbytes` counts the vectors as allocated
(a group's matrix grows by doubling, from 64 rows on by 64), texts and an allowance for Python's own objects; while an
entry is added it may exceed the budget by that one entry and one growth of its matrix.
Not covered: approximate search (a group of 10,000 takes milliseconds), other processes, disk. Used from one thread.
"""

from collections import OrderedDict
from collections.abc import Hashable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

ENTRY_BYTES, GROUP_BYTES = 800, 1200
"""Allowance for an entry and for a group beyond their vectors and texts, checked against tracemalloc by a test."""
STEP = 64

Vector = NDArray[np.float32]


@dataclass(eq=False, slots=True)
class Past:
    """One question and its answer. tokens: that were sampled for it. stored: when, on the cache's clock."""

    question: str
    answer: str
    tokens: int
    stored: float
    group: "_Group"
    row: int


class _Group:
    """Rows 0 ... n - 1 of `vectors` [capacity, d] belong to `entries`, in the same order."""

    def __init__(self, key: Hashable, dimensions: int) -> None:
        self.key = key
        self.vectors = np.empty((1, dimensions), np.float32)
        self.entries: list[Past] = []
        self.by_question: dict[str, Past] = {}

    @property
    def nbytes(self) -> int:
        return self.vectors.nbytes + GROUP_BYTES

    def add(self, vector: Vector, question: str, answer: str, tokens: int, stored: float) -> Past:
        n = len(self.entries)
        if n == len(self.vectors):
            self._resize(n + min(n, STEP))
        self.vectors[n] = vector
        entry = Past(question, answer, tokens, stored, self, n)
        self.entries.append(entry)
        self.by_question[question] = entry
        return entry

    def remove(self, entry: Past) -> None:
        """The last row takes the place of the one removed."""
        last = self.entries.pop()
        if last is not entry:
            self.vectors[entry.row] = self.vectors[last.row]
            self.entries[entry.row] = last
            last.row = entry.row
        del self.by_question[entry.question]
        n = len(self.entries)
        if len(self.vectors) - n > max(n, 2 * STEP):
            self._resize(max(1, n))

    def _resize(self, rows: int) -> None:
        kept = len(self.entries)
        vectors = np.empty((rows, self.vectors.shape[1]), np.float32)
        vectors[:kept] = self.vectors[:kept]
        self.vectors = vectors


class Neighbours:
    """budget: bytes kept at most. dimensions: of the vectors, which are of unit length."""

    def __init__(self, budget: int, dimensions: int) -> None:
        self.budget, self.dimensions = budget, dimensions
        self.nbytes = self.evicted = 0
        self._groups: dict[Hashable, _Group] = {}
        self._used: OrderedDict[Past, None] = OrderedDict()

    def __len__(self) -> int:
        return len(self._used)

    def same(self, key: Hashable, question: str) -> Past | None:
        """The entry of the group with this very text."""
        group = self._groups.get(key)
        return group.by_question.get(question) if group else None

    def nearest(self, key: Hashable, vector: Vector) -> tuple[Past, float] | None:
        """The entry of the group with the highest cosine similarity to the unit vector, and that similarity."""
        group = self._groups.get(key)
        if group is None:
            return None
        scores = group.vectors[: len(group.entries)] @ vector
        best = int(scores.argmax())
        return group.entries[best], min(1.0, float(scores[best]))

    def check(self, vector: Vector) -> None:
        """Raises ValueError where the vector is not one of `dimensions` finite numbers of length 1."""
        if vector.shape != (self.dimensions,) or not abs(float(vector @ vector) - 1) < 1e-3:
            raise ValueError(f"not a unit vector of {self.dimensions} numbers: shape {vector.shape}")

    def touch(self, entry: Past) -> None:
        """It was of use: it goes last."""
        self._used.move_to_end(entry)

    def add(self, key: Hashable, vector: Vector, question: str, answer: str, tokens: int, stored: float) -> None:
        """Keep a question; one with the same text in the same group gives way. Raises ValueError as `check` does."""
        self.check(vector)
        if known := self.same(key, question):
            self.remove(known)
        group = self._groups.get(key)
        if group is None:
            group = self._groups[key] = _Group(key, self.dimensions)
            self.nbytes += group.nbytes
        before = group.nbytes
        entry = group.add(vector, question, answer, tokens, stored)
        self.nbytes += group.nbytes - before + _size(entry)
        self._used[entry] = None
        while self.nbytes > self.budget:
            self.remove(next(iter(self._used)))
            self.evicted += 1

    def remove(self, entry: Past) -> None:
        del self._used[entry]
        group = entry.group
        before = group.nbytes
        group.remove(entry)
        self.nbytes += group.nbytes - before - _size(entry)
        if not group.entries:
            self.nbytes -= group.nbytes
            del self._groups[group.key]


def _size(entry: Past) -> int:
    """Texts at 4 bytes a character, the most that Python takes."""
    return ENTRY_BYTES + 4 * (len(entry.question) + len(entry.answer))
