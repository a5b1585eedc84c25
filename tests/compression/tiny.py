"""A decoder of a few thousand random weights, its tokenizer, and what the tests of several folders do with it."""

from collections.abc import Sequence
from functools import cache
from pathlib import Path

import numpy as np

from tradewind.compression.export import write_variant
from tradewind.compression.kv_cache import Scales, kv_scales
from tradewind.compression.quantize import quantize
from tradewind.compression.rules import Rule
from tradewind.compression.variant import Manifest
from tradewind.model.decoder import DecoderConfig
from tradewind.model.tokenizer import Tokenizer
from tradewind.model.weights import Flat, to_model, weight_table
from tradewind.training.data import Batch, pack

VOCABULARY = 288
CONFIG = DecoderConfig(
    vocab_size=VOCABULARY,
    hidden_size=64,
    num_layers=2,
    num_heads=4,
    num_kv_heads=2,
    head_dim=16,
    mlp_size=96,
    max_position=128,
)
NORMS = Rule(r".*norm\.weight", "float32")
TABLE = Rule(r"model\.embed_tokens\.weight", "int8")


def rules(dtype: str) -> tuple[Rule, ...]:
    """Everything in one dtype, but the table of W8A8, which has no such form."""
    return (NORMS, *([TABLE] if dtype == "w8a8" else []), Rule(r".*", dtype))


def tiny_flat(config: DecoderConfig = CONFIG, seed: int = 0) -> Flat:
    """Weights large enough that logits spread over several units and every layer matters."""
    random = np.random.default_rng(seed)
    flat: Flat = {}
    for weight in weight_table(config):
        shape = weight.shape(config)
        values = random.standard_normal(shape, dtype=np.float32)
        flat[weight.hf] = 1 + 0.1 * values if len(shape) == 1 else 1.5 * values / np.float32(np.sqrt(shape[1]))
    return flat


def tiny_tokenizer() -> Tokenizer:
    return Tokenizer.train(["the array is returned as a copy of the array"] * 4, VOCABULARY)


def tiny_variant(folder: Path, precision: str, seed: int = 0, accuracy_level: int = 4) -> Manifest:
    """`base-<precision>` in `folder`; like the served ones, a quantized one has an int8 cache, but not with products in
    float32 (accuracy level 0)."""
    flat = tiny_flat(seed=seed)
    tensors = flat if precision == "fp32" else quantize(flat, rules(precision))
    scales = tiny_scales(seed) if precision != "fp32" and accuracy_level else None
    return write_variant(folder, f"base-{precision}", CONFIG, tensors, tiny_tokenizer(), {}, accuracy_level, scales)


def tiny_batch(rows: int = 1, length: int = 64, seed: int = 1) -> Batch:
    """Rows of random tokens, three quarters full."""
    samples = np.random.default_rng(seed).integers(VOCABULARY, size=(rows, 3 * length // 4))
    packed = pack([(ids.tolist(), [1] * len(ids)) for ids in samples], length)
    return packed.take(range(len(packed)))


@cache
def tiny_scales(seed: int = 0) -> Scales:
    """Of the int8 cache of `tiny_flat(seed=seed)`: enough text for every channel, as clipping costs the most."""
    return kv_scales(to_model(CONFIG, tiny_flat(seed=seed)), [tiny_batch(rows=64)])


def reference_logits(config: DecoderConfig, flat: Flat, tokens: Sequence[int]) -> np.ndarray:
    """float32 [len(tokens), vocab] of the JAX decoder."""
    import jax.numpy as jnp

    model = to_model(config, flat)
    ids = jnp.asarray([list(tokens)], jnp.int32)
    return np.asarray(model.logits(model.hidden(ids, jnp.arange(len(tokens))[None])))[0]
