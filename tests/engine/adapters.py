"""Adapters of random weights for the tiny decoder, as folders of PEFT."""

from collections.abc import Sequence
from pathlib import Path

import jax.numpy as jnp
import numpy as np
from flax import nnx

from tests.compression.tiny import CONFIG, tiny_flat
from tradewind.model.adapters import read_adapter, save_adapter
from tradewind.model.lora import MODULES, LoRAConfig, adapt, adapted_layers, merge, set_adapter
from tradewind.model.weights import Flat, to_flat, to_model


def tiny_adapter(
    folder: Path,
    seed: int,
    rank: int = 4,
    modules: Sequence[str] = MODULES,
    layers: int = 0,
    base: str | None = None,
) -> Path:
    """Large enough that its tokens are soon not the base's."""
    model, random = to_model(CONFIG, tiny_flat()), np.random.default_rng(seed)
    adapt(model, LoRAConfig(rank, 2.0 * rank, tuple(modules), layers), nnx.Rngs(seed))
    for module in adapted_layers(model).values():
        module.b[...] = jnp.asarray(0.15 * random.standard_normal(module.b.shape), jnp.float32)
    save_adapter(model, folder, base)
    return folder


def merged(folder: Path) -> Flat:
    """The tiny decoder's weights with the adapter in them."""
    model = to_model(CONFIG, tiny_flat())
    set_adapter(model, read_adapter(folder, CONFIG))
    merge(model)
    return to_flat(model)
