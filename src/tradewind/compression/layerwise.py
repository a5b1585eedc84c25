"""A decoder run one layer at a time on fixed rows, for work that looks inside: importance, refitting, teacher caches.

One layer is compiled once and called for each, so there is no compilation of the whole model. Forward only.
"""

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from tradewind.model.decoder import Decoder, Layer, attend_causal, causal_mask, rotary
from tradewind.training.data import Batch


class Place(NamedTuple):
    """What every layer needs beside its input: rotation and mask of a batch."""

    rotation: tuple[jax.Array, jax.Array]
    mask: jax.Array


def enter(model: Decoder, batch: Batch) -> tuple[jax.Array, Place]:
    """The residual stream [B,T,D] that enters layer 0, and the batch's place."""
    rotation = rotary(jnp.asarray(batch.positions), model.config.head_dim, model.config.rope_base)
    return model.embed(jnp.asarray(batch.tokens)), Place(
        rotation, causal_mask(batch.tokens.shape, jnp.asarray(batch.segments))
    )


def through(layers: Iterable[Layer], x: jax.Array, place: Place) -> Iterator[jax.Array]:
    """The residual stream [B,T,D] after each of the layers."""
    for layer in layers:
        x = run_layer(layer, x, place)
        yield x


def leave(model: Decoder, x: jax.Array, batch: Batch) -> tuple[jax.Array, jax.Array]:
    """Final-norm hidden states [B,A,D] and logits [B,A,V] at the batch's target places."""
    chosen = jnp.take_along_axis(x, jnp.asarray(batch.where)[..., None], axis=1)
    hidden = model.norm(chosen)
    return hidden, model.logits(hidden)


def answer_loss(model: Decoder, x: jax.Array, batch: Batch) -> tuple[float, float]:
    """Summed negative log-likelihood (nats) of the batch's targets given the last residual stream, and their number."""
    logits = leave(model, x, batch)[1]
    picked = jnp.take_along_axis(logits, jnp.asarray(batch.targets)[..., None], axis=-1)[..., 0]
    loss = ((jax.nn.logsumexp(logits, axis=-1) - picked) * batch.weights).sum()
    return float(loss), float(np.sum(batch.weights))


def last(layers: Iterable[Layer], x: jax.Array, place: Place) -> jax.Array:
    """The residual stream [B,T,D] after all of the layers."""
    for layer in layers:
        x = run_layer(layer, x, place)
    return x


@nnx.jit
def run_layer(layer: Layer, x: jax.Array, place: Place) -> jax.Array:
    """One layer: [B,T,D] -> [B,T,D]."""
    return layer(x, place.rotation, place.mask)


@nnx.jit
def run_attention(layer: Layer, x: jax.Array, place: Place) -> jax.Array:
    """The residual stream after a layer's attention, before its MLP."""
    q, k, v = layer.attention.project(layer.attention_norm(x), place.rotation)
    return x + layer.attention.output(attend_causal(q, k, v, place.mask))


@nnx.jit
def attention_mix(layer: Layer, x: jax.Array, place: Place) -> jax.Array:
    """What enters `o` [B,T,H*F], the heads' mixed values, given the residual stream before a layer."""
    q, k, v = layer.attention.project(layer.attention_norm(x), place.rotation)
    return attend_causal(q, k, v, place.mask).reshape(*x.shape[:2], -1)


@nnx.jit
def mlp_activations(layer: Layer, x: jax.Array) -> jax.Array:
    """What enters `down` [B,T,M], given the residual stream after attention."""
    normed = layer.mlp_norm(x)
    return jax.nn.silu(layer.mlp.gate(normed)) * layer.mlp.up(normed)
