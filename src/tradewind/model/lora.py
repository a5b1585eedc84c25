"""Low-rank adapters: W x + (alpha / rank) B A x with only A and B trained (arXiv:2106.09685), and their merge into W.

Layers are counted from the top: the backward pass ends below the lowest layer that has an adapter, so fewer layers are
cheaper by more than their adapters. This file does not know training, files (`tradewind.model.adapters`), and adapters of
several users in one batch (`tradewind.model.row_adapters`).
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from flax import nnx

from tradewind.errors import UserError
from tradewind.model.adapters import Adapter
from tradewind.model.decoder import MLP, Attention, Decoder
from tradewind.model.linear import rounded, times, times_rows

MODULES = ("q", "k", "v", "o", "gate", "up", "down")


@dataclass(frozen=True)
class LoRAConfig:
    """Which linear layers get adapters. `layers`: how many of the top layers; 0 means all."""

    rank: int
    alpha: float
    modules: tuple[str, ...] = MODULES
    layers: int = 0

    def __post_init__(self) -> None:
        if unknown := sorted(set(self.modules) - set(MODULES)):
            raise UserError(f"lora.modules: unknown module {unknown[0]!r} (choices: {', '.join(MODULES)})")
        if self.rank < 1 or not self.modules or self.layers < 0:
            raise UserError("lora: rank must be at least 1, modules not empty, layers 0 (all) or more")


class AdaptedLinear(nnx.Module):
    """A linear layer [in, out] and its adapter a [rank, in], b [rank, out]; b starts at zero, so nothing changes."""

    def __init__(self, base: nnx.Linear, rank: int, alpha: float, rngs: nnx.Rngs) -> None:
        inputs, outputs = base.kernel.shape
        self.base = base
        self.a = nnx.LoRAParam(nnx.initializers.he_uniform()(rngs.params(), (inputs, rank), jnp.float32).T)
        self.b = nnx.LoRAParam(jnp.zeros((rank, outputs), jnp.float32))
        self.scale = alpha / rank

    def __call__(self, x: jax.Array) -> jax.Array:
        """[..., in] -> [..., out]."""
        kernel, a, b = (w.astype(x.dtype) for w in (self.base.kernel[...], self.a[...], self.b[...] * self.scale))
        return adapted(x.reshape(-1, x.shape[-1]), kernel, a, b).reshape(*x.shape[:-1], -1)

    def merged(self) -> nnx.Linear:
        """The base layer with the adapter added to its kernel."""
        kernel = self.base.kernel
        kernel[...] = kernel[...] + (self.a[...].T @ self.b[...] * self.scale).astype(kernel[...].dtype)
        return self.base


@jax.custom_vjp
def adapted(x: jax.Array, kernel: jax.Array, a: jax.Array, b: jax.Array) -> jax.Array:
    """x kernel + (x a') b for x [N,in], kernel [in,out], a [rank,in], b [rank,out]. The kernel gets no gradient.

    The gradients are written out as products of matrices in the layouts that XLA:CPU multiplies fastest: those that
    it derives itself take one and a half times as long.
    """
    return _adapted_forward(x, kernel, a, b)[0]


def _adapted_forward(
    x: jax.Array, kernel: jax.Array, a: jax.Array, b: jax.Array
) -> tuple[jax.Array, tuple[jax.Array, ...]]:
    dtype, x, kernel, a, b = x.dtype, rounded(x), rounded(kernel), rounded(a), rounded(b)
    low = rounded(times_rows(x, a, dtype))
    return times(x, kernel, dtype) + times(low, b, dtype), (x, low, kernel, a, b)


def _adapted_backward(saved: tuple[jax.Array, ...], g: jax.Array) -> tuple[jax.Array | None, ...]:
    (x, low, kernel, a, b), dtype, g = saved, g.dtype, g.astype(saved[0].dtype)
    low_g = times_rows(g, b, dtype).astype(g.dtype)
    down = times_rows(g, kernel, dtype) + times(low_g, a, dtype)
    return down, None, times(low_g.T, x, dtype), times(low.T, g, dtype)


adapted.defvjp(_adapted_forward, _adapted_backward)


def adapt(model: Decoder, config: LoRAConfig, rngs: nnx.Rngs) -> None:
    """Put adapters into `model`, in place."""
    if config.layers > len(model.layers):
        raise UserError(f"lora.layers: {config.layers} asked for, the model has {len(model.layers)}")
    for layer in list(model.layers)[-config.layers :]:
        for owner in (layer.attention, layer.mlp):
            for name in config.modules:
                if hasattr(owner, name):
                    setattr(owner, name, AdaptedLinear(getattr(owner, name), config.rank, config.alpha, rngs))


def merge(model: Decoder) -> None:
    """Fold every adapter of `model` into its layer, in place; the model is then a plain decoder."""
    for (layer, name), module in adapted_layers(model).items():
        setattr(owner_of(model, layer, name), name, module.merged())


def adapted_layers(model: Decoder) -> dict[tuple[int, str], AdaptedLinear]:
    """(layer, module) -> its adapter, of those that have one."""
    places = [(layer, name) for layer in range(len(model.layers)) for name in MODULES]
    modules = {(layer, name): getattr(owner_of(model, layer, name), name) for layer, name in places}
    return {place: module for place, module in modules.items() if isinstance(module, AdaptedLinear)}


def set_adapter(model: Decoder, adapter: Adapter) -> None:
    """Put an adapter that was read into `model`, in place: to merge it, or to train it further."""
    for (layer, name), (a, b) in adapter.pairs.items():
        owner = owner_of(model, layer, name)
        module = AdaptedLinear(getattr(owner, name), adapter.rank, adapter.rank, nnx.Rngs(0))
        module.a[...], module.b[...] = jnp.asarray(a), jnp.asarray(b)
        setattr(owner, name, module)


def owner_of(model: Decoder, layer: int, name: str) -> Attention | MLP:
    """What has the module `name` of a layer."""
    block = model.layers[layer]
    return block.attention if hasattr(block.attention, name) else block.mlp
