"""A packed decoder whose rows run with unlike adapters: a delta added to each linear layer, chosen by the row.

y = W x + where(own, x A^T, 0) B, with A [R, in] and B [R, out] of all adapters below one another (see
`tradewind.model.adapters.stacked`) and own [rows, R]: two plain products for the whole batch instead of a gather of
each row's A and B (S-LoRA, arXiv:2311.03285), which is slower on a CPU and as good on an accelerator as long as R is below
the width. `where`, not a product with 0: what overflows in one row's adapter stays out of another's.

It does not know adapters' names.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.typing import DTypeLike

from tradewind.model.adapters import Adapter, stacked
from tradewind.model.decoder import Decoder
from tradewind.model.packed import PackedDecoder

PLACES = (
    ("attention", "qkv", ("q", "k", "v")),
    ("attention", "o", ("o",)),
    ("mlp", "gate_up", ("gate", "up")),
    ("mlp", "down", ("down",)),
)
"""Linear layers of a packed layer: owner, name, and the parts that each multiplies."""


class RowAdapted(nnx.Module):
    """A linear layer [in, out] and the stacked adapters. `own` [rows, R], bool: set by `choose`, in one traced call."""

    def __init__(self, base: nnx.Module, a: jax.Array, b: jax.Array, parts: int) -> None:
        self.base, self.parts = base, parts
        self.a, self.b = nnx.Param(a), nnx.Param(b)
        self.own: jax.Array | np.ndarray = nnx.data(np.zeros((0, 0), np.bool_))

    def __call__(self, x: jax.Array) -> jax.Array:
        """[rows, T, in] -> [rows, T, out]."""
        own = jnp.repeat(self.own, self.parts, axis=1)[:, None]
        low = jnp.where(own, x @ self.a[...].T, 0)
        return self.base(x) + low @ self.b[...]


def add_adapters(model: PackedDecoder, adapters: Sequence[Adapter], room: int, dtype: DTypeLike) -> None:
    """Stack adapters into `model`, in place, and in place of those that were. room: further ranks, which are zero."""
    for index, layer in enumerate(model.layers):
        for owner, name, parts in PLACES:
            linear = getattr(getattr(layer, owner), name)
            base = linear.base if isinstance(linear, RowAdapted) else linear
            a, b = (jnp.asarray(half, dtype) for half in stacked(adapters, index, parts, model.config, room))
            setattr(getattr(layer, owner), name, RowAdapted(base, a, b, len(parts)))


def choose(model: Decoder, own: jax.Array | np.ndarray) -> None:
    """Say which ranks are each row's own, in place."""
    for layer in model.layers:
        for owner, name, _ in PLACES:
            getattr(getattr(layer, owner), name).own = nnx.data(own)
