"""A packed decoder whose weights stay integers in memory, and become floats inside the product that reads them.

Decoding is bound by the bytes of the weights that a step reads: int8 is half of bfloat16, int4 a quarter. Where a compiler
fuses the widening into the product (XLA on GPUs and TPUs, but on GPUs not for the vocabulary's table), only the integers
leave memory. XLA on a CPU writes the floats out at every call: there integers save memory (57 MB instead of 203, of the
student) and a step takes 4 to 6 times as long.

The numbers are those of the dequantized weights: w = scale x code, in groups of GROUP along the input, as in GGUF's Q8_0 and
Q4_0; float16 scales as there, multiplied in float32 and rounded once to the dtype of the product. It knows no file format.
Not covered: Q4_1 (with an offset), integer activations.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.typing import DTypeLike

from tradewind.model.packed import Columns, PackedDecoder
from tradewind.model.row_adapters import PLACES
from tradewind.model.weights import LAYER_TABLE, TABLE

GROUP = 32


@dataclass(frozen=True, eq=False)
class Codes:
    """A weight [out, in]. codes: int8 [out, in]. scales: float16 [out, in / GROUP]. bits: 8, or 4 for -8..7."""

    codes: np.ndarray
    scales: np.ndarray
    bits: int


class Integers(nnx.Module):
    """A matrix [in, out]: codes [groups, GROUP, out], int8 or int4, and scales [groups, 1, out]."""

    def __init__(self, parts: list[Codes], dtype: DTypeLike) -> None:
        """parts: of one input, below one another; int4 only where all of them are."""
        kind = jnp.int4 if all(part.bits == 4 for part in parts) else jnp.int8
        codes = np.concatenate([part.codes for part in parts]).T
        scales = np.concatenate([part.scales for part in parts]).T
        self.codes = nnx.Param(jnp.asarray(codes.reshape(-1, GROUP, codes.shape[-1]), kind))
        self.scales = nnx.Param(jnp.asarray(scales[:, None], jnp.float16))
        self.dtype = dtype

    def matrix(self) -> jax.Array:
        """[in, out]."""
        return self.widened(self.codes[...], self.scales[...])

    def columns(self, places: jax.Array) -> jax.Array:
        """[in, ...] of columns [...]."""
        return self.widened(self.codes[...][..., places], self.scales[...][..., places])

    def widened(self, codes: jax.Array, scales: jax.Array) -> jax.Array:
        """[groups, GROUP, ...] and [groups, 1, ...] -> [in, ...]."""
        whole = codes.astype(jnp.float32) * scales.astype(jnp.float32)
        return whole.astype(self.dtype).reshape(-1, *whole.shape[2:])

    def __call__(self, x: jax.Array) -> jax.Array:
        """[..., in] -> [..., out]."""
        return x @ self.matrix()


class IntegerColumns(Columns):
    """The embedding [D, V] in integers."""

    def __init__(self, of: Codes, dtype: DTypeLike) -> None:
        self.integers = Integers([of], dtype)

    def __call__(self, inputs: jax.Array, out_sharding: None = None) -> jax.Array:
        return jnp.moveaxis(self.integers.columns(inputs), 0, -1)

    def table(self) -> jax.Array:
        return self.integers.matrix()


def keep_integers(model: PackedDecoder, codes: Mapping[str, Codes], dtype: DTypeLike) -> None:
    """Put codes in the place of the floats that they stand for, in place. codes: Hugging Face name -> codes; a product of
    several weights is replaced where all of them are there. dtype: of products."""
    names = {weight.ours: weight.hf for weight in (*TABLE, *LAYER_TABLE)}
    for index, layer in enumerate(model.layers):
        for owner, name, parts in PLACES:
            wanted = [names[f"layers.{{i}}.{owner}.{part}.kernel"].format(i=index) for part in parts]
            if all(weight in codes for weight in wanted):
                setattr(getattr(layer, owner), name, Integers([codes[weight] for weight in wanted], dtype))
    if (table := codes.get(names["embed.embedding"])) is not None:
        model.embed = IntegerColumns(table, dtype)
