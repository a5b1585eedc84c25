"""What a loss looks at inside a decoder beside its logits: residual streams and attention relations at the target places.

Teacher and student are looked at through the same functions. This file does not know losses and caches.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp

from tradewind.errors import UserError
from tradewind.model.decoder import MASKED, Decoder, Layer
from tradewind.training.data import Batch
from tradewind.training.losses import Outputs

PROJECTION = "projection"
"""Attribute of a model in training, [n + 1, D, D of the teacher]: for each stream, then for the final hidden state."""


@dataclass(frozen=True)
class Taps:
    """streams: the layers whose inputs are asked for (the number of layers: what enters the final norm).
    relation_heads: into how many heads the last layer's projections are split to relate them; 0: not asked for."""

    streams: tuple[int, ...] = ()
    relation_heads: int = 0


def run_model(model: Decoder, batch: Batch, remat: bool = False, taps: Taps | None = None) -> Outputs:
    """Hidden states, logits and what `taps` ask for at the target places of a batch, and nowhere else."""
    taps = taps or Taps()
    whole, states = model.hidden(
        jnp.asarray(batch.tokens), jnp.asarray(batch.positions), jnp.asarray(batch.segments), remat, return_layers=True
    )
    hidden, related = at_places(whole, batch), None
    streams = jnp.stack([at_places(states[i], batch) for i in taps.streams], axis=2) if taps.streams else None
    if taps.relation_heads:
        related = relations(model.layers[-1], at_places(states[-2], batch), batch, taps.relation_heads)
    logits = model.logits(hidden)
    if hasattr(model, PROJECTION):
        projection = getattr(model, PROJECTION)[...].astype(hidden.dtype)
        hidden = hidden @ projection[-1]
        streams = None if streams is None else jnp.einsum("band,nde->bane", streams, projection[:-1])
    return Outputs(hidden, logits, streams, related)


def at_places(x: jax.Array, batch: Batch) -> jax.Array:
    """[B,T,D] -> [B,A,D]."""
    return jnp.take_along_axis(x, jnp.asarray(batch.where)[..., None], axis=1)


def relations(layer: Layer, x: jax.Array, batch: Batch, heads: int) -> jax.Array:
    """log softmax(y y' / sqrt(width)) [B,A,3 heads,A] for y the queries, the keys and the values, in `heads` parts each.

    Places relate to the used places of their own sample. Queries and keys are taken before rotation: places as such are
    the same in both models. x [B,A,D]: what enters the layer at the target places.
    """
    segments = jnp.take_along_axis(jnp.asarray(batch.segments), jnp.asarray(batch.where), axis=1)
    used = jnp.asarray(batch.weights) > 0
    mask = (segments[:, :, None] == segments[:, None, :]) & used[:, None, :]
    parts = layer.attention.projections(layer.attention_norm(x))
    return jnp.concatenate([_related(part, mask, heads) for part in parts], axis=2)


def _related(x: jax.Array, mask: jax.Array, heads: int) -> jax.Array:
    if x.shape[-1] % heads:
        raise UserError(f"relation_heads: a projection of width {x.shape[-1]} is no multiple of {heads} heads")
    y = x.reshape(*x.shape[:2], heads, -1)
    scores = jnp.einsum("bahf,bchf->bahc", y, y, preferred_element_type=jnp.float32) * y.shape[-1] ** -0.5
    return jax.nn.log_softmax(jnp.where(mask[:, :, None], scores, MASKED), axis=-1)
