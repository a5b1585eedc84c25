"""A tiny teacher, tokenizer and conversations, shared by the tests of pruning, the teacher cache and distillation."""

import numpy as np
from flax import nnx

from tradewind.model.decoder import Decoder, DecoderConfig
from tradewind.model.tokenizer import Tokenizer
from tradewind.model.weights import Flat, to_flat
from tradewind.training.data import Batch, Packed, pack

CONFIG = DecoderConfig(
    vocab_size=61, hidden_size=64, num_layers=5, num_heads=4, num_kv_heads=2, head_dim=16, mlp_size=96
)
WORDS = ["array", "shape", "axis", "return", "value", "default", "raise", "error", "matrix", "index"]


def tiny_teacher() -> Flat:
    """Random weights, large enough that every layer and neuron matters, and answers are far from uniform."""
    flat = to_flat(Decoder(CONFIG, rngs=nnx.Rngs(0)))
    scales = {name: 20.0 if "embed" in name else 5.0 for name, array in flat.items() if array.ndim == 2}
    return {name: array * scales.get(name, 1.0) for name, array in flat.items()}


def batches_of(packed: Packed, rows: int = 10) -> list[Batch]:
    return [packed.take(range(start, min(start + rows, len(packed)))) for start in range(0, len(packed), rows)]


def tiny_rows(count: int = 30, length: int = 32, vocab: int = CONFIG.vocab_size) -> Packed:
    rng = np.random.default_rng(1)
    lengths = rng.integers(6, length // 2, count)
    return pack([(rng.integers(0, vocab, n).tolist(), [int(i > n // 2) for i in range(n)]) for n in lengths], length)


def tiny_tokenizer(size: int = 340) -> Tokenizer:
    rng = np.random.default_rng(2)
    return Tokenizer.train([" ".join(rng.choice(WORDS, 12)) for _ in range(50)], size)
