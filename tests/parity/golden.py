"""The golden file of the base checkpoint, and how an engine is held against it.

golden.npz is written by make_golden.py with another implementation. Every comparison first needs the digest of the
weights at hand: a file made of other weights is refused.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest

GOLDEN = Path(__file__).with_name("golden.npz")
MAX_DELTA = 2e-3
"""float32 sums of some 1,500 products in another order, through 30 layers, of logits up to 30: 1e-4 is seen."""
TIE = 2 * MAX_DELTA
"""Where the golden best two are closer than this, either is right."""

LogitsFunction = Callable[[Sequence[int]], np.ndarray]
"""Tokens -> logits [len(tokens), vocab]."""
GreedyFunction = Callable[[Sequence[int], int], Sequence[int]]
"""Prompt and count -> that many greedy tokens, whether or not they end the text."""


@dataclass(frozen=True)
class Prompt:
    """tokens [n]; top_ids, top_logits [n, 32] of each position; greedy, margin [64]: tokens and their lead."""

    tokens: list[int]
    top_ids: np.ndarray
    top_logits: np.ndarray
    greedy: list[int]
    margin: np.ndarray


@dataclass(frozen=True)
class Golden:
    prompts: list[Prompt]
    digest: str
    versions: str


@dataclass
class Comparison:
    """max_delta: largest difference of a golden top-32 logit. wrong, ties: (prompt, step) where greedy tokens part."""

    max_delta: float = 0.0
    wrong: list[tuple[int, int]] = field(default_factory=list)
    ties: list[tuple[int, int]] = field(default_factory=list)


def load_golden(digest: str, path: Path = GOLDEN) -> Golden:
    """The golden file, if it was made of weights with this digest; otherwise the test fails and says so."""
    with np.load(path) as stored:
        made_of = str(stored["digest"])
        if made_of != digest:
            pytest.fail(f"{path.name} was made of weights {made_of}, these are {digest}: run make_golden.py again")
        cuts = np.cumsum(stored["lengths"])[:-1]
        parts = (np.split(stored[name], cuts) for name in ("tokens", "top_ids", "top_logits"))
        rows = zip(*parts, stored["greedy"], stored["greedy_margin"], strict=True)
        prompts = [Prompt(t.tolist(), i.astype(int), x, g.tolist(), m) for t, i, x, g, m in rows]
        return Golden(prompts, made_of, str(stored["versions"]))


def compare(golden: Golden, logits: LogitsFunction | None = None, greedy: GreedyFunction | None = None) -> Comparison:
    """Hold an implementation against every prompt. After its first tie a prompt is done: texts may then differ."""
    result = Comparison()
    for number, prompt in enumerate(golden.prompts):
        if logits is not None:
            made = np.take_along_axis(np.asarray(logits(prompt.tokens)), prompt.top_ids, axis=1)
            result.max_delta = max(result.max_delta, float(np.abs(made - prompt.top_logits).max()))
        if greedy is not None:
            tokens = list(greedy(prompt.tokens, len(prompt.greedy)))
            step = next((i for i, (a, b) in enumerate(zip(tokens, prompt.greedy, strict=True)) if a != b), None)
            if step is not None:
                (result.ties if prompt.margin[step] <= TIE else result.wrong).append((number, step))
    return result
