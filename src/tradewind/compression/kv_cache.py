"""Scales for a key-value cache in int8: one for each channel of each KV head, from what a calibration text puts there.

Symmetric: a value is code * scale, scale = range / 127, and what lies beyond the range is clipped. Keys are taken as
they are cached, after rotation. Channels differ by far more than tokens do in one channel, keys above all (KIVI,
arXiv:2402.02750), so each has a scale of its own and none depends on the request. Not covered: int4, scales per token.
"""

from collections.abc import Iterable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

from tradewind.compression.layerwise import Place, enter, run_layer
from tradewind.model.decoder import Decoder, Layer
from tradewind.training.data import Batch

Scales = NDArray[np.float32]
"""[2 x layers, KV heads, head dim]: keys of layer 0, its values, keys of layer 1 ..."""
LEVELS = 127
LEAST = np.float32(1e-6)
"""Range of a channel that the text leaves at zero."""
SCALES_FILE, NAME = "kv_scales.safetensors", "kv_scales"


def kv_scales(model: Decoder, batches: Iterable[Batch]) -> Scales:
    """Largest magnitude of each channel over the batches' tokens (padding left out), divided by 127.

    model: with the weights that will run. Rounded ones fill other ranges than the float ones that they come from.
    """
    highest = np.zeros((2 * model.config.num_layers, model.config.num_kv_heads, model.config.head_dim), np.float32)
    for batch in batches:
        x, place = enter(model, batch)
        real = jnp.asarray(batch.segments) > 0
        for index, layer in enumerate(model.layers):
            pair = slice(2 * index, 2 * index + 2)
            highest[pair] = np.maximum(highest[pair], _magnitudes(layer, x, place, real))
            x = run_layer(layer, x, place)
    return np.maximum(highest, LEAST).astype(np.float32) / np.float32(LEVELS)


@nnx.jit
def _magnitudes(layer: Layer, x: jax.Array, place: Place, real: jax.Array) -> jax.Array:
    """Of keys and values, [2, KV heads, head dim]; real [B,T] is true where a token is no padding."""
    _, keys, values = layer.attention.project(layer.attention_norm(x), place.rotation)
    both = jnp.abs(jnp.stack([keys, values]))
    return jnp.where(real[None, ..., None, None], both, 0).max(axis=(1, 2))


def save_scales(path: Path, scales: Scales) -> None:
    save_file({NAME: scales}, path)


def load_scales(path: Path) -> Scales:
    scales: Scales = load_file(path)[NAME]
    return scales
