"""Distillation-aware quantization (KD-QAT): a model trained while it computes with its rounded weights.

It is `distill(..., seen=rounding(config, rules))`: each step rounds the weights to the grids of `quantize` and computes with
the result; the gradient there moves the float32 weights (straight-through estimator, arXiv:1308.3432), which end where
rounding harms least. The loss holds the rounded model against a float model's cached answers, as in LLM-QAT
(arXiv:2305.17888). What comes out is float weights; `quantize` then gives the very codes that were trained. Not covered:
activations (w8a8), learned scales, int2.
"""

from collections.abc import Sequence
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from tradewind.compression.quantize import BLOCK, check_shapes
from tradewind.compression.rules import Rule, assign
from tradewind.compression.teacher_cache import TeacherCache, ask_teacher
from tradewind.errors import UserError
from tradewind.model.decoder import DecoderConfig
from tradewind.model.weights import Flat, to_model, weight_table
from tradewind.training.data import ChatTokenizer, draw, pack
from tradewind.training.loop import Seen


def self_cache(
    config: DecoderConfig,
    flat: Flat,
    tokenizer: ChatTokenizer,
    conversations: Sequence[Sequence[dict[str, str]]],
    tokens: int,
    length: int,
    k: int,
    seed: int,
) -> TeacherCache:
    """What a model itself says after every token of conversations, prompts included: a variant is held against its float
    weights there, too. tokens: budget. length: of a row. k: tokens kept at each place.
    """
    everywhere = [(ids, [1] * len(ids)) for ids, _ in draw(conversations, tokenizer, tokens, length, seed)]
    return ask_teacher(to_model(config, flat), np.arange(config.vocab_size), pack(everywhere, length), k, rows=2)


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
