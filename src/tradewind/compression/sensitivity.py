"""Which matrices rounding harms most: the divergence from the float model when one kind alone is quantized.

Weights alone, in float32 products: what a runtime's own rounding of activations adds is measured where variants are served.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from tradewind.compression.quantize import Tensor, dequantize, quantize
from tradewind.compression.rules import Rule
from tradewind.errors import UserError
from tradewind.model.decoder import DecoderConfig
from tradewind.model.weights import Flat, to_model
from tradewind.training.data import Batch

KINDS = {
    "table": r"model\.embed_tokens\.weight",
    **{part: rf".*\.self_attn\.{part}_proj\.weight" for part in "qkvo"},
    **{part: rf".*\.mlp\.{part}_proj\.weight" for part in ("gate", "up", "down")},
}
"""Kind of matrix -> the tensors that it stands for."""


@dataclass(frozen=True)
class Divergence:
    """kl: mean KL (nats) of the float model's next-token distribution from the other's. top1: share of places where both
    put the same token first. `answers`: places that predict a target of the batches; `all`: every token but padding."""

    kl_answers: float
    kl_all: float
    top1_answers: float
    top1_all: float


def sensitivity(
    config: DecoderConfig, flat: Flat, batches: Sequence[Batch], dtype: str = "int4"
) -> dict[str, dict[str, Any]]:
    """Kind -> its `parameters` and its divergence when it alone is `dtype`; JSON as it is."""
    table: dict[str, dict[str, Any]] = {}
    for kind, pattern in KINDS.items():
        made = quantize(flat, (Rule(pattern, dtype), Rule(".*", "float32")))
        count = sum(flat[name].size for name, tensor in made.items() if not isinstance(tensor, np.ndarray))
        table[kind] = {"parameters": int(count), **asdict(divergence(config, flat, made, batches))}
    return table


def divergence(
    config: DecoderConfig, flat: Flat, tensors: Mapping[str, Tensor], batches: Sequence[Batch]
) -> Divergence:
    """How far the model of `tensors` is from that of `flat` on these rows. Raises UserError without any target."""
    graph, exact = nnx.split(to_model(config, flat))
    _, rounded = nnx.split(to_model(config, dequantize(tensors)))
    answers, every = np.zeros(3), np.zeros(3)
    for batch in batches:
        kl, same = (np.asarray(part, np.float64) for part in _compare(graph, exact, rounded, batch))
        real = batch.segments > 0
        every += kl[real].sum(), same[real].sum(), real.sum()
        where = [np.take_along_axis(part, batch.where, axis=1) * batch.weights for part in (kl, same)]
        answers += where[0].sum(), where[1].sum(), batch.weights.sum()
    if not answers[2]:
        raise UserError("the rows on which models are compared hold no target")
    (kl_answers, top1_answers), (kl_all, top1_all) = answers[:2] / answers[2], every[:2] / every[2]
    return Divergence(*(float(f"{value:.6g}") for value in (kl_answers, kl_all, top1_answers, top1_all)))


@partial(jax.jit, static_argnums=0)
def _compare(graph: Any, exact: nnx.State, rounded: nnx.State, batch: Batch) -> tuple[jax.Array, jax.Array]:
    """KL [B,T] and whether the first choice is the same [B,T]."""
    one, two = (jax.nn.log_softmax(_logits(nnx.merge(graph, state), batch)) for state in (exact, rounded))
    return (jnp.exp(one) * (one - two)).sum(-1), one.argmax(-1) == two.argmax(-1)


def _logits(model: Any, batch: Batch) -> jax.Array:
    hidden = model.hidden(jnp.asarray(batch.tokens), jnp.asarray(batch.positions), jnp.asarray(batch.segments))
    return model.logits(hidden)
