"""Calibration rows, their way through a decoder, and the sums that methods need of what enters each matrix.

Matrices that read the same activations form a site. The caller moves the rows from layer to layer, and may change a
layer's matrices before it does. Padding is left out of every sum.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from operator import attrgetter
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from numpy.typing import NDArray

from tradewind.compression.layerwise import Place, attention_mix, enter, mlp_activations, run_attention
from tradewind.compression.quantize import BLOCK
from tradewind.compression.teacher_cache import data_digest
from tradewind.errors import UserError
from tradewind.files import read_jsonl
from tradewind.model.decoder import Decoder, Layer
from tradewind.model.weights import weight_table
from tradewind.training.data import Batch, ChatTokenizer, Packed, draw, pack


@dataclass(frozen=True)
class CalibrationConfig:
    """tokens: of conversations that are drawn. length: of a row."""

    tokens: int
    length: int

    def __post_init__(self) -> None:
        if min(self.tokens, self.length) < BLOCK:
            raise UserError(
                f"calibration of {self.tokens} tokens in rows of {self.length}: both are at least a block of {BLOCK}"
            )

    def drawn(self, conversations: Sequence[Any], tokenizer: ChatTokenizer, seed: int) -> Packed:
        return pack(draw(conversations, tokenizer, self.tokens, self.length, seed), self.length)


def calibration_rows(
    source: str | Path, tokenizer: ChatTokenizer, settings: CalibrationConfig, seed: int
) -> tuple[list[Batch], dict[str, Any]]:
    """Rows of a file of conversations, one row a batch; and what names them."""
    packed = settings.drawn([row["messages"] for row in read_jsonl(source)], tokenizer, seed)
    if packed.tokens < BLOCK:
        raise UserError(f"{source}: calibration text of {packed.tokens} tokens is shorter than a block of {BLOCK}")
    named = {"source": str(source), "seed": seed, "tokens": packed.tokens, "digest": data_digest(packed)}
    return [packed.take([row]) for row in range(len(packed))], named


Entering = Callable[[Layer, jax.Array, Place], jax.Array]
"""A layer, a residual stream [B,T,D], its place -> activations [B,T,in] of a site."""


@nnx.jit
def attention_input(layer: Layer, x: jax.Array, place: Place) -> jax.Array:
    """What enters q, k and v."""
    return layer.attention_norm(x)


@nnx.jit
def mlp_input(layer: Layer, x: jax.Array, place: Place) -> jax.Array:
    """What enters gate and up, given the residual stream after attention."""
    return layer.mlp_norm(x)


def down_input(layer: Layer, x: jax.Array, place: Place) -> jax.Array:
    """What enters down, given the residual stream after attention."""
    return mlp_activations(layer, x)


@nnx.jit
def run_mlp(layer: Layer, x: jax.Array) -> jax.Array:
    """The residual stream after a layer, given that after its attention."""
    return x + layer.mlp(layer.mlp_norm(x))


@dataclass(frozen=True)
class Site:
    """matrices: paths in `Layer` of those that multiply the activations. attended: it reads the residual stream after
    attention. source: of what is scaled if the activations are."""

    entering: Entering
    matrices: tuple[str, ...]
    attended: bool
    source: str | None


SITES = (
    Site(attention_input, ("attention.q", "attention.k", "attention.v"), False, "attention_norm.scale"),
    Site(attention_mix, ("attention.o",), False, None),
    Site(mlp_input, ("mlp.gate", "mlp.up"), True, "mlp_norm.scale"),
    Site(down_input, ("mlp.down",), True, "mlp.up.kernel"),
)
"""In the order in which a layer computes them. Values are shared by groups of heads, so o has no source of its own."""


class Names:
    """Hugging Face's names of what a layer holds."""

    def __init__(self, model: Decoder) -> None:
        self._table = {weight.ours: weight.hf for weight in weight_table(model.config)}

    def __call__(self, layer: int, path: str) -> str:
        """`mlp.up.kernel` of layer 3 -> `model.layers.3.mlp.up_proj.weight`."""
        return self._table[f"layers.{layer}.{path}"]


@dataclass
class Stream:
    """The residual streams [B,T,D] of some rows, their places, and which tokens are no padding [B,T].

    Attention is the dearest part: its result is kept until the rows advance, so its matrices must not change after a site
    behind it has been asked for.
    """

    rows: list[jax.Array]
    places: list[Place]
    real: list[NDArray[np.bool_]]
    _attended: list[jax.Array] | None = None

    def activations(self, layer: Layer, site: Site) -> Iterator[NDArray[np.float32]]:
        """What enters a site, [tokens, in] for each batch of rows."""
        before = self._after_attention(layer) if site.attended else self.rows
        for x, place, real in zip(before, self.places, self.real, strict=True):
            yield np.asarray(site.entering(layer, x, place))[real]

    def advance(self, layer: Layer) -> None:
        self.rows = [run_mlp(layer, x) for x in self._after_attention(layer)]
        self._attended = None

    def _after_attention(self, layer: Layer) -> list[jax.Array]:
        if self._attended is None:
            pairs = zip(self.rows, self.places, strict=True)
            self._attended = [run_attention(layer, x, place) for x, place in pairs]
        return self._attended


def stream(model: Decoder, batches: Sequence[Batch]) -> Stream:
    """The rows as they enter layer 0. Raises UserError for text of fewer tokens than a block."""
    real = [batch.segments > 0 for batch in batches]
    if (tokens := sum(int(mask.sum()) for mask in real)) < BLOCK:
        raise UserError(f"calibration text of {tokens} tokens is shorter than a block of {BLOCK}")
    rows, places = zip(*(enter(model, batch) for batch in batches), strict=True)
    return Stream(list(rows), list(places), real)


def hessian(activations: Iterable[NDArray[np.float32]]) -> NDArray[np.float64]:
    """Mean of x x^T over tokens, [in, in]: half the Hessian of a matrix's squared output error."""
    total: NDArray[np.float64] = np.zeros(())
    count = 0
    for x in activations:  # the product of a batch in float32, whose rounding is far below any damping
        total, count = total + (x.T @ x).astype(np.float64), count + len(x)
    return np.asarray(total / count)


def output_error(weight: NDArray[np.float32], restored: NDArray[np.float32], about: NDArray[np.float64]) -> float:
    """Mean over tokens of |(w - w') x|^2, from the mean of x x^T."""
    delta = (weight - restored).astype(np.float32)
    return float(np.sum(delta @ about.astype(np.float32) * delta, dtype=np.float64))


def replace(layer: Layer, path: str, weight: NDArray[np.float32]) -> None:
    """Put a matrix [out, in] into a layer."""
    attrgetter(path)(layer).kernel[...] = jnp.asarray(weight.T)
