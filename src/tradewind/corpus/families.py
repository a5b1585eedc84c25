"""Near-duplicates among records, and the side of the split each family falls on.

Two records are near-duplicates when their texts share most word triples (MinHash with banding; Broder 1997), when their
summaries are the same sentence, or when they are the same function in numpy, scipy and jax. Being near is made
transitive. Paraphrases without common words are not found.
"""

import hashlib
import re
from collections import defaultdict
from collections.abc import Iterable, Sequence

import numpy as np

from tradewind.corpus.records import Record

SPLITS = ("train", "validation", "test")
SIMILAR = 0.6  # Jaccard similarity of word triples from which two texts are one family
_BANDS, _ROWS = 24, 4  # two texts meet in a band with probability 1 - (1 - s^4)^24: 0.96 at 0.6, 0.19 at 0.3
_MIRRORS = ("jax.scipy", "jax.numpy", "numpy", "scipy", "jax")
_PRIME = (1 << 61) - 1


def assign_families(records: Sequence[Record]) -> None:
    """Sets `family` of every record, in place: the smallest id of its cluster of near-duplicates."""
    groups = _Groups(len(records))
    texts = [_triples(record) for record in records]
    for i, j in _pairs(texts):
        if groups.find(i) != groups.find(j) and _jaccard(texts[i], texts[j]) >= SIMILAR:
            groups.join(i, j)
    for same in _same_key(records):
        for other in same[1:]:
            groups.join(same[0], other)
    names: dict[int, str] = {}
    for i, record in enumerate(records):
        root = groups.find(i)
        names[root] = min(names.get(root, record.id), record.id)
    for i, record in enumerate(records):
        record.family = names[groups.find(i)]


def split_of(family: str, validation: float, test: float) -> str:
    """The split of a family: by its name's hash alone, so that it stays where it is when other packages come or go."""
    position = int.from_bytes(hashlib.sha256(f"split:{family}".encode()).digest()[:8]) / 2**64
    return "test" if position < test else "validation" if position < test + validation else "train"


class _Groups:
    """Union-find over 0 ... n - 1."""

    def __init__(self, size: int) -> None:
        self.parent = list(range(size))

    def find(self, i: int) -> int:
        while self.parent[i] != i:
            self.parent[i] = self.parent[self.parent[i]]
            i = self.parent[i]
        return i

    def join(self, i: int, j: int) -> None:
        a, b = sorted((self.find(i), self.find(j)))
        self.parent[b] = a


def words_of(text: str) -> list[str]:
    return re.findall(r"[a-z0-9_]+", text.lower())


def _triples(record: Record) -> np.ndarray:
    """Sorted hashes of the word triples of a record's text, its own name left out."""
    sections = record.sections
    parts = [sections.summary, sections.description[:600]]
    parts += [f"{item.name} {item.text}" for item in sections.parameters]
    parts += [item.text for item in sections.returns] + [item.text for item in sections.raises]
    words = [word for word in words_of(" ".join(parts)) if word != record.name.lower()][:400]
    triples = {" ".join(words[i : i + 3]) for i in range(max(1, len(words) - 2))}
    hashes = [int.from_bytes(hashlib.blake2b(t.encode(), digest_size=4).digest()) for t in sorted(triples)]
    return np.unique(np.array(hashes, dtype=np.uint64))


def _pairs(texts: Sequence[np.ndarray]) -> Iterable[tuple[int, int]]:
    """Candidate pairs: texts that agree on all rows of at least one band, each with the first of its bucket."""
    rng = np.random.default_rng(0)
    scale = rng.integers(1, 1 << 29, size=(_BANDS * _ROWS, 1), dtype=np.uint64)
    shift = rng.integers(0, 1 << 60, size=(_BANDS * _ROWS, 1), dtype=np.uint64)
    buckets: dict[tuple[int, bytes], int] = {}
    for i, text in enumerate(texts):
        signature = ((text[None, :] * scale + shift) % np.uint64(_PRIME)).min(axis=1).reshape(_BANDS, _ROWS)
        for band in range(_BANDS):
            first = buckets.setdefault((band, signature[band].tobytes()), i)
            if first != i:
                yield first, i


def _jaccard(a: np.ndarray, b: np.ndarray) -> float:
    common = len(np.intersect1d(a, b, assume_unique=True))
    return common / (len(a) + len(b) - common)


def _same_key(records: Sequence[Record]) -> Iterable[list[int]]:
    keys: dict[tuple[str, str], list[int]] = defaultdict(list)
    for i, record in enumerate(records):
        for symbol in record.symbols:
            if tail := _mirrored(symbol):
                keys["mirror", tail].append(i)
        summary = words_of(record.sections.summary)
        if len(summary) >= 4:
            keys["summary", " ".join(summary)].append(i)
    return keys.values()


def _mirrored(symbol: str) -> str:
    """`linalg.svd` for numpy.linalg.svd, scipy.linalg.svd, jax.numpy.linalg.svd and jax.scipy.linalg.svd."""
    for root in _MIRRORS:
        if symbol.startswith(root + "."):
            return symbol[len(root) + 1 :]
    return ""
