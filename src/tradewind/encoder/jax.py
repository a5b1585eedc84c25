"""The encoder in JAX: lengths and numbers of texts are rounded up to a few, so that few functions are compiled."""

from collections.abc import Iterator, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from tradewind.encoder.contract import Encoder, Tokens, Vectors
from tradewind.encoder.model import SentenceEncoder, to_flat
from tradewind.encoder.text import EncoderTokenizer
from tradewind.model.weights import weights_digest

LENGTHS = (16, 32, 64, 128, 256)
"""Tokens that texts are padded to; beyond the last, the longest that the encoder takes."""
ROWS = (1, 8)
"""Texts that run together, the rest empty."""


class JaxEncoder(Encoder):
    """A text's vector differs by rounding (1e-7) with the length that it is padded to, which is its own, not its
    neighbours'."""

    runtime = "jax"

    def __init__(self, model: SentenceEncoder, tokenizer: EncoderTokenizer, name: str) -> None:
        config = model.config
        super().__init__(name, tokenizer, weights_digest(to_flat(model)), config.hidden_size, config.max_tokens)
        self.lengths = (*(length for length in LENGTHS if length < config.max_tokens), config.max_tokens)
        graph, state = nnx.split(model)
        compiled = jax.jit(lambda state, tokens, lengths: nnx.merge(graph, state)(tokens, lengths))
        self._run = lambda tokens, lengths: compiled(state, tokens, lengths)

    def batches(self, lengths: Sequence[int]) -> Iterator[list[int]]:
        by_bucket: dict[int, list[int]] = {}
        for place, length in enumerate(lengths):
            by_bucket.setdefault(self._bucket(length), []).append(place)
        for places in by_bucket.values():
            for start in range(0, len(places), ROWS[-1]):
                yield places[start : start + ROWS[-1]]

    def run(self, texts: Sequence[Tokens]) -> Vectors:
        rows = next(count for count in ROWS if count >= len(texts))
        padded = np.full((rows, self._bucket(max(map(len, texts)))), self.tokenizer.pad, np.int32)
        for row, tokens in zip(padded, texts, strict=False):
            row[: len(tokens)] = tokens
        lengths = np.zeros(rows, np.int32)
        lengths[: len(texts)] = [len(tokens) for tokens in texts]
        return np.asarray(self._run(jnp.asarray(padded), jnp.asarray(lengths)))[: len(texts)]

    def _bucket(self, length: int) -> int:
        return next(bucket for bucket in self.lengths if bucket >= length)
