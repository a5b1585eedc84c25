"""Vocabulary: the tokens of the domain's texts, most frequent first, then the earliest merges, up to a size.

How a tokenizer is cut down so that it stays one is in `model.vocabulary`.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace

import numpy as np

from tradewind.model.decoder import DecoderConfig
from tradewind.model.tokenizer import Tokenizer
from tradewind.model.vocabulary import frequent, trim
from tradewind.model.weights import Flat

EMBEDDING = "model.embed_tokens.weight"


def trim_vocabulary(tokenizer: Tokenizer, texts: Iterable[Sequence[int]], size: int) -> tuple[Tokenizer, list[int]]:
    """The tokenizer with at most `size` tokens (0: all) that cover these texts best, and each one's old id.

    Args:
        texts: token ids of the domain's texts.
    """
    total = tokenizer.vocab_size
    if size == 0 or size >= total:
        return trim(tokenizer, range(total))
    used = Counter(token for text in texts for token in text)
    ranked = {token: used[token] * total + total - token for token in range(total)}  # by use, then the earliest merges
    return trim(tokenizer, frequent(tokenizer, ranked, size))


def slice_vocabulary(
    config: DecoderConfig, flat: Flat, kept: Sequence[int], tokenizer: Tokenizer
) -> tuple[DecoderConfig, Flat]:
    """Shape and weights with only these rows of the embedding; `tokenizer` is the one that numbers them anew."""
    ends = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
    return replace(config, vocab_size=len(kept), **ends), flat | {EMBEDDING: flat[EMBEDDING][np.asarray(kept)]}
