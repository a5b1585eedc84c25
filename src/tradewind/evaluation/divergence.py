"""How far a variant's next-token distributions are from a reference's, at the same positions of the same text.

A reference (the variant's own fp32 weights, or the student's teacher) is kept as log-probabilities in float16, so that
the reference runs once for all that are compared with it. Rounding moves a mean KL by less than 1e-4 (tested). KL is
over the whole vocabulary, in nats, from the reference to the variant: sum of p_ref (log p_ref - log p).

Positions of one question: before each of the first `answer_positions` gold tokens, and, for the questions chosen for
it, after every `prompt_stride`-th of the prompt tokens that were run for it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from safetensors import safe_open
from safetensors.numpy import save_file

from tradewind.evaluation.generate import Scored
from tradewind.evaluation.metrics import log_softmax
from tradewind.files import atomic_path

KL_FORMULA = "mean over positions of sum p_ref (ln p_ref - ln p), whole vocabulary, in nats"
ROUNDING = 1e-8
"""A mean KL below is the rounding of its sum, which may fall below 0."""
AGREEMENT_FORMULA = "share of positions where both put the same token first"


@dataclass(frozen=True)
class Positions:
    answer_positions: int
    prompts: int
    prompt_stride: int

    def __str__(self) -> str:
        gold = f"before each of the first {self.answer_positions} tokens of the gold answers"
        prompts = f", after every {self.prompt_stride}th prompt token of {self.prompts} questions"
        return gold + (prompts if self.prompts else "")

    def block(self, item: Scored) -> NDArray[np.float32]:
        """Logits [m, vocab] of the question's positions; with `prompts` 0, of its gold answer's alone."""
        gold = item.gold_logits[: self.answer_positions]
        if not self.prompts or item.prompt_logits is None:
            return gold
        return np.concatenate([item.prompt_logits[:: self.prompt_stride], gold])


@dataclass(frozen=True)
class Reference:
    """logprobs [m, vocab] float16 and top [m], the first token of each position before rounding could make a tie."""

    logprobs: NDArray[np.float16]
    top: NDArray[np.int32]


class References(Protocol):
    """References by question id."""

    def __contains__(self, question: str) -> bool: ...
    def __getitem__(self, question: str) -> Reference: ...


class Recorder:
    """Collects float16 log-probabilities of each question's positions."""

    def __init__(self, positions: Positions, columns: Sequence[int] | None = None) -> None:
        """columns: token ids kept and renormalised over (a student's vocabulary in its teacher's ids); None: all."""
        self.positions, self.columns = positions, None if columns is None else np.asarray(columns)
        self.rows: dict[str, Reference] = {}

    def __call__(self, item: Scored) -> None:
        block = self.positions.block(item)
        kept = block if self.columns is None else block[:, self.columns]
        # safetensors writes memory as it lies, and picking columns lays it out by column
        rounded = np.ascontiguousarray(np.maximum(log_softmax(kept), -6e4), np.float16)
        self.rows[item.question.id] = Reference(rounded, kept.argmax(axis=-1).astype(np.int32))

    def save(self, path: Path) -> None:
        tensors = {f"logprobs {name}": row.logprobs for name, row in self.rows.items()}
        with atomic_path(path) as temporary:
            save_file(tensors | {f"top {name}": row.top for name, row in self.rows.items()}, temporary)


class Saved:
    """A recorded reference, read one question at a time."""

    def __init__(self, path: Path) -> None:
        self.file = safe_open(path, framework="numpy")
        self.names = frozenset(self.file.keys())

    def __contains__(self, question: str) -> bool:
        return f"top {question}" in self.names

    def __getitem__(self, question: str) -> Reference:
        return Reference(self.file.get_tensor(f"logprobs {question}"), self.file.get_tensor(f"top {question}"))


class Comparison:
    """Divergence of a variant from a reference, question by question."""

    def __init__(self, positions: Positions, references: References) -> None:
        self.positions, self.references = positions, references
        self.kl: dict[str, NDArray[np.float64]] = {}
        self.same: dict[str, NDArray[np.bool_]] = {}

    def __call__(self, item: Scored) -> None:
        if (name := item.question.id) in self.references:
            reference, block = self.references[name], self.positions.block(item)
            self.kl[name] = kl_divergence(reference.logprobs, log_softmax(block))
            self.same[name] = reference.top == block.argmax(axis=-1)


def kl_divergence(reference: NDArray[np.floating], logprobs: NDArray[np.floating]) -> NDArray[np.float64]:
    """KL [m] of rows of log-probabilities [m, vocab]; the reference is normalised again after its rounding."""
    exact = log_softmax(reference)
    return np.einsum("mv,mv->m", np.exp(exact), exact - logprobs, dtype=np.float64)


def clusters(values: Mapping[str, NDArray[np.generic]]) -> tuple[list[float], list[float]]:
    """Sums and counts per question, in the order of their ids: positions of one text are not independent."""
    names = sorted(values)
    return [float(values[name].sum()) for name in names], [float(len(values[name])) for name in names]
