"""One set of integers, several runtimes: what they say of the same prompts, and whether their files hold the same codes.

1. Codes and scales are read back from every container and compared bit by bit.
2. The reference (JAX, float32, from the GGUF) answers each prompt greedily; prompt and answer are a text.
3. Every other runtime is run over the same texts; its log-probabilities at the answer's positions are compared.

All runtimes see the reference's tokens, so a runtime's own greedy answer is the reference's exactly if its likeliest
token is the same at every position of the text: no second generation is needed. Denominators: positions for
differences, KL and top-1 (differences over the vocabulary, too); prompts for answers.
"""

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from tradewind.compression.compare_integers import READERS, report
from tradewind.compression.compare_runtimes import (
    RUNTIMES,
    LogProbs,
    Missing,
    Setup,
    by_engine,
    greedy,
    reference_engine,
)
from tradewind.compression.variant import load_variant
from tradewind.errors import UserError
from tradewind.evaluation.divergence import ROUNDING
from tradewind.evaluation.questions import Codec, questions, stratified
from tradewind.evaluation.variant import load_codec, load_manifest
from tradewind.files import read_jsonl

REFERENCE = "jax"
COLUMNS = (
    "max, mean: difference of log-probabilities, nats; top-1: positions with the same likeliest token; KL: nats, mean; "
    "same answers: prompts whose greedy answer is the same. ort and llama.cpp round activations to 8 bits, so they differ "
    "more than the others"
)


@dataclass(frozen=True)
class Agreement:
    """max and mean: absolute differences of log-probabilities (nats). top1, same_answers: shares. kl: mean, nats."""

    max: float
    mean: float
    top1: float
    kl: float
    same_answers: float


@dataclass(frozen=True)
class Comparison:
    """rows: runtime -> how it agrees with the reference, or what is missing. integers: container -> tensors that differ
    from the GGUF's."""

    variant: str
    prompts: int
    positions: int
    integers: dict[str, int]
    lines: list[str]
    rows: dict[str, Agreement | str] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        rows = {name: {"missing": row} if isinstance(row, str) else asdict(row) for name, row in self.rows.items()}
        return {**{k: getattr(self, k) for k in ("variant", "prompts", "positions", "integers")}, "runtimes": rows}


def compare(setup: Setup, prompts: Sequence[Sequence[int]], tokens: int) -> Comparison:
    """Run every runtime over the prompts (token ids), each answered with at most `tokens` tokens.

    Raises:
        UserError: a prompt and its answer are longer than `setup.max_len`, that is longer than the variant's context, or
            the variant is not quantized.
    """
    most = setup.manifest.max_position
    if not 2 <= setup.max_len <= most:
        raise UserError(f"--max-len must be in 2..{most} for {setup.manifest.name}, not {setup.max_len}")
    for number, prompt in enumerate(prompts, 1):
        if len(prompt) + tokens > setup.max_len:
            text = f"prompt {number}: its {len(prompt)} tokens and {tokens} of answer"
            raise UserError(f"{text} exceed {setup.max_len} (--max-len)")
    engine = reference_engine(setup)
    lines, integers = report({name: read(setup.folder, setup.manifest) for name, read in READERS.items()})
    texts = [greedy(engine, prompt, tokens, setup.manifest.eos_token_ids) for prompt in prompts]
    reference = by_engine(engine, texts)
    made = Comparison(setup.manifest.name, len(texts), sum(map(len, reference)), integers, lines)
    for name, runtime in (bar := tqdm(RUNTIMES.items(), unit="runtime", leave=False, disable=None)):
        bar.set_description(f"{setup.manifest.name}: {name}")
        try:
            made.rows[name] = agreement(reference, runtime(setup, texts))
        except Missing as missing:
            made.rows[name] = str(missing)
    return made


def agreement(reference: Sequence[LogProbs], other: Sequence[LogProbs]) -> Agreement:
    """Over texts; each array [positions, vocabulary]."""
    same = [a.argmax(-1) == b.argmax(-1) for a, b in zip(reference, other, strict=True)]
    delta = [np.abs(a - b) for a, b in zip(reference, other, strict=True)]
    kl = [_kl(a, b) for a, b in zip(reference, other, strict=True)]
    return Agreement(
        max=float(max(part.max() for part in delta)),
        mean=float(np.concatenate([part.mean(-1) for part in delta]).mean()),
        top1=float(np.concatenate(same).mean()),
        kl=max(0.0, float(np.concatenate(kl).mean())),  # rounding can make it negative
        same_answers=float(np.mean([part.all() for part in same])),
    )


def _kl(reference: LogProbs, other: LogProbs) -> NDArray[np.float64]:
    """[positions]. Both sides normalised in float64: a runtime's probabilities may sum to 1 but for 1e-5, which is as much as
    what is looked for."""
    a, b = (part - np.logaddexp.reduce(part, -1, keepdims=True) for part in map(np.float64, (reference, other)))
    return np.einsum("pv,pv->p", np.exp(a), a - b)


def table(made: Comparison) -> str:
    """Lines for people."""
    head = ("runtime", "max", "mean", "top-1", "KL", "same answers")
    rows = [head, (f"{REFERENCE} (reference)", "0", "0", "1", "0", "1")]
    missing = []
    for name, row in made.rows.items():
        if isinstance(row, str):
            rows.append((name, "missing", "", "", "", ""))
            missing.append(f"{name}: {row}")
        else:
            kl = f"{row.kl:.2e}" if row.kl > ROUNDING else f"<{ROUNDING:.0e}"
            shares = f"{row.top1:.4f}", kl, f"{row.same_answers:.2f}"
            rows.append((name, f"{row.max:.2e}", f"{row.mean:.2e}", *shares))
    widths = [max(len(row[i]) for row in rows) for i in range(len(head))]
    text = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    title = f"{made.variant}: {made.prompts} prompts, {made.positions} positions; log-probabilities against {REFERENCE}"
    return "\n".join([title, *made.lines, *text, COLUMNS, *missing])


def read_prompts(path: Path) -> list[Any]:
    """Rows of a JSONL file (`messages`, or `prompt`: a string), or lines of a text file as prompts.

    Raises:
        UserError: no such file, a row that has neither key, or no prompt at all.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such file of prompts")
    if path.suffix == ".jsonl":
        rows: list[Any] = list(read_jsonl(path))
    else:
        try:
            rows = [{"prompt": line} for line in path.read_text("utf-8").splitlines() if line.strip()]
        except UnicodeDecodeError:
            raise UserError(f"{path}: not a text file in UTF-8") from None
    for number, row in enumerate(rows, 1):
        if not isinstance(row, dict) or not (isinstance(row.get("prompt"), str) or _are_messages(row.get("messages"))):
            raise UserError(f"{path}: row {number} has neither a string `prompt` nor a list of `messages`")
    if not rows:
        raise UserError(f"{path}: no prompts in it")
    return rows


def _are_messages(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(
        isinstance(m, dict) and isinstance(m.get("role"), str) and isinstance(m.get("content"), str) for m in value
    )  # fmt: skip


def as_tokens(rows: Iterable[Any], codec: Codec) -> list[list[int]]:
    """A `prompt` is one user message; of `messages`, an answer at the end is left out."""
    return [codec.chat(_asked(row)) for row in rows]


def _asked(row: dict[str, Any]) -> list[Any]:
    if isinstance(row.get("prompt"), str):
        return [{"role": "user", "content": row["prompt"]}]
    messages = row["messages"]
    return messages[:-1] if messages[-1]["role"] == "assistant" and len(messages) > 1 else messages


def compare_variant(
    name: str,
    variants: Path,
    prompts: Path | None,
    corpus: Path,
    count: int,
    tokens: int,
    max_len: int,
    threads: int,
    llama: str | None,
    litert: Path,
) -> Comparison:
    """`compare` of a variant by name on a file's prompts, or on `count` questions of the test set."""
    load_manifest(variants, name)
    folder = variants / name
    codec = load_codec(folder)
    if prompts is not None:
        asked: list[Sequence[int]] = [*as_tokens(read_prompts(prompts), codec)]
    else:
        asked = [q.prompt for q in stratified(questions(list(read_jsonl(corpus / "test.jsonl")), codec), count)]
    return compare(Setup(folder, load_variant(folder), max_len, threads, llama, litert), asked, tokens)
