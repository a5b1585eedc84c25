"""Text measures of one answer against one gold answer: token F1, exact match, refusal; and bits per byte.

Not covered: paraphrase. A right answer in other words scores low, so F1 compares systems, it is no share of right
answers.
"""

import math
from collections import Counter
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from tradewind.corpus.prompt import REFUSAL

ARTICLES = frozenset({"a", "an", "the"})
OPENING, CLOSING = "\"'`([{", "\"'`)]}.,;:!?"
F1_FORMULA = (
    "2PR/(P+R) over the multiset of normalised tokens (SQuAD), mean of the kinds' means over answerable questions"
)
EXACT_FORMULA = "normalised token lists are equal, mean of the kinds' means over answerable questions"


def normalise(text: str) -> list[str]:
    """Tokens of an answer, after SQuAD's normalisation (Rajpurkar et al. 2016, lower case, no articles, no punctuation)
    with one change: only quotes and brackets before a word and sentence punctuation after it are dropped, so that
    `numpy.linalg.svd`, `-1`, `.5`, `1e-08` and `array-like` stay what they are. A word that is nothing but punctuation,
    such as `()`, is kept, and so is an article that is the whole answer."""
    words = [word.lstrip(OPENING).rstrip(CLOSING) or word for word in text.lower().split()]
    return [word for word in words if word not in ARTICLES] or words


def token_f1(answer: str, gold: str) -> float:
    """Harmonic mean of precision and recall over the multisets of tokens, 0 to 1; two empty answers agree."""
    said, wanted = normalise(answer), normalise(gold)
    if not said or not wanted:
        return float(said == wanted)
    shared = sum((Counter(said) & Counter(wanted)).values())
    return 2 * shared / (len(said) + len(wanted))


def exact_match(answer: str, gold: str) -> bool:
    return normalise(answer) == normalise(gold)


def is_refusal(answer: str) -> bool:
    """Whether the answer opens with the refusal that the system was trained on; other words of refusal do not count."""
    refusal = normalise(REFUSAL)
    return normalise(answer)[: len(refusal)] == refusal


def log_softmax(logits: NDArray[np.floating]) -> NDArray[np.float32]:
    """Log-probabilities over the last axis, in float32, stable for any finite logits."""
    shifted = logits.astype(np.float32) - logits.max(axis=-1, keepdims=True).astype(np.float32)
    total = np.exp(shifted).sum(axis=-1, keepdims=True, dtype=np.float64)
    return shifted - np.log(total).astype(np.float32)


def nats(logits: NDArray[np.floating], tokens: Sequence[int]) -> float:
    """-sum of log P(token) in nats; logits [n, vocab] stand before each of the n tokens."""
    return -float(log_softmax(logits)[np.arange(len(tokens)), list(tokens)].sum(dtype=np.float64))


def bits_per_byte(total_nats: float, total_bytes: int) -> float:
    """nats / ln 2 / UTF-8 bytes: comparable between tokenizers, as perplexity per token is not."""
    return total_nats / math.log(2) / total_bytes


def perplexity(total_nats: float, total_tokens: int) -> float:
    return math.exp(total_nats / total_tokens)
