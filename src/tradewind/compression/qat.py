"""Distillation-aware quantization (KD-QAT): a model trained while it computes with its rounded weights.

1. GPTQ rounds the weights; what its codes stand for is where training starts.
2. The float model says what comes after every token of the text (its likeliest tokens, cached): it is the teacher.
3. Each step rounds the weights to the grids of `quantize` and computes with the result; the gradient there moves the float32
   weights (straight-through estimator, arXiv:1308.3432). The loss is the divergence from the teacher (as in LLM-QAT,
   arXiv:2305.17888), at every token, as a variant is judged there, too.
4. `quantize` gives the very codes that were trained.

Not covered: activations (w8a8), learned scales, int2, training in bfloat16 (codes times scales do not fit it).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from tradewind.compression.distill import DistillConfig, distill
from tradewind.compression.gptq import quantize_gptq
from tradewind.compression.quantize import BLOCK, Tensor, check_shapes, dequantize, quantize
from tradewind.compression.rules import Rule, assign
from tradewind.compression.teacher_cache import ask_teacher
from tradewind.errors import UserError
from tradewind.model.decoder import DecoderConfig
from tradewind.model.weights import Flat, to_model, weight_table
from tradewind.training.data import Batch, Packed
from tradewind.training.loop import OptimizerConfig, Seen


@dataclass(frozen=True)
class QatConfig:
    """Key `training` of a recipe. tokens: budget, of which the calibration text is passed over as often as that takes.

    k: the teacher's likeliest tokens kept at each place. optimizer: see `OptimizerConfig`. seed: of the rows' order.
    """

    tokens: int
    optimizer: OptimizerConfig
    k: int = 64
    seed: int = 0


def quantize_qat(
    config: DecoderConfig, flat: Flat, rules: Sequence[Rule], batches: Sequence[Batch], choice: QatConfig
) -> dict[str, Tensor]:
    """Codes and scales of a flat Hugging Face dict. Raises UserError for rules or text that do not fit."""
    seen = rounding(config, rules)
    start = dequantize(quantize_gptq(config, flat, rules, batches))
    cache = ask_teacher(to_model(config, flat), np.arange(config.vocab_size), every_token(batches), choice.k, rows=1)
    training = DistillConfig(choice.tokens, 1, choice.optimizer, {"logits": 1.0})
    trained, _ = distill(config, start, cache, training, seed=choice.seed, seen=seen)
    return quantize(trained, rules)


def every_token(batches: Sequence[Batch]) -> Packed:
    """The rows of batches with every token as a target that another of its sample comes before."""
    tokens, positions, segments = (
        np.concatenate([getattr(one, name) for one in batches]) for name in Batch._fields[:3]
    )
    follows = (segments[:, 1:] == segments[:, :-1]) & (segments[:, 1:] > 0)
    where = np.broadcast_to(np.arange(follows.shape[1], dtype=np.int32), follows.shape)
    rows = Batch(tokens, positions, segments, where, tokens[:, 1:], follows.astype(np.float32))
    return Packed(rows, int(segments.max(axis=1).sum()), 0)


def rounding(config: DecoderConfig, rules: Sequence[Rule]) -> Seen:
    """Weights of a decoder -> what their codes stand for, as `rules` say.

    Raises UserError for rules that do not fit, or that ask for another dtype than GRIDS has.
    """
    table = list(weight_table(config))
    check_shapes(rules, {weight.hf: np.broadcast_to(np.float32(0), weight.shape(config)) for weight in table})
    dtypes = assign(rules, [weight.hf for weight in table])
    if other := sorted(set(dtypes.values()) - {"float32", *GRIDS}):
        raise UserError(f"training with rounded weights: no grid for {other[0]!r} (choices: {', '.join(GRIDS)})")
    rounded = {
        weight.ours: (dtypes[weight.hf], 0 if weight.transposed else 1)
        for weight in table
        if dtypes[weight.hf] != "float32"
    }

    def seen(weights: nnx.State) -> nnx.State:
        out = []
        for path, variable in nnx.to_flat_state(weights):
            dtype, axis = rounded.get(".".join(map(str, path)), ("float32", 0))
            value = variable[...]
            out.append(
                (path, variable.replace(value.copy() if dtype == "float32" else fake_quantize(value, dtype, axis)))
            )
        return nnx.from_flat_state(out)

    return seen


@partial(jax.jit, static_argnames=("dtype", "axis"))
def fake_quantize(weight: jax.Array, dtype: str, axis: int) -> jax.Array:
    """The values of `quantize_tensor(weight, dtype).dequantize()`, blocks along `axis`.

    weight: [in, out] with axis 0, [out, in] with axis 1.
    """
    shape = weight.shape
    blocks = weight.reshape(*shape[:axis], shape[axis] // BLOCK, BLOCK, *shape[axis + 1 :])
    return GRIDS[dtype](blocks, axis + 1).reshape(shape)


def _int8(blocks: jax.Array, axis: int) -> jax.Array:
    scale = jnp.abs(blocks).max(axis=axis, keepdims=True) / 127
    scaled = blocks * _inverse(scale)
    whole = jnp.trunc(scaled)
    return (whole + jnp.trunc(2 * (scaled - whole))) * _stored(scale)


def _int4(blocks: jax.Array, axis: int) -> jax.Array:
    place = jnp.abs(blocks).argmax(axis=axis, keepdims=True)
    scale = jnp.take_along_axis(blocks, place, axis=axis) / -8
    codes = jnp.floor(blocks * _inverse(scale) + 8.5).clip(0, 15) - 8
    return codes * _stored(scale)


def _stored(scale: jax.Array) -> jax.Array:
    return scale.astype(jnp.float16).astype(jnp.float32)


def _inverse(scale: jax.Array) -> jax.Array:
    return jnp.where(_stored(scale) == 0, 0, 1 / scale)


GRIDS = {"int8": _int8, "int4": _int4}
