"""The device mesh `(data, fsdp, tensor)` and where each array of a training state lies on it.

Rows are split over data and fsdp, weights over fsdp and tensor (column, then row parallel, as in Megatron-LM,
arXiv:1909.08053); the compiler adds the communication. An axis that does not divide a dimension leaves it whole.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import jax
import numpy as np
from flax import nnx
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from tradewind.errors import UserError

T = TypeVar("T")
AXES = ("data", "fsdp", "tensor")


@dataclass(frozen=True)
class MeshConfig:
    """Devices along each axis."""

    data: int = 1
    fsdp: int = 1
    tensor: int = 1


def make_mesh(config: MeshConfig) -> Mesh:
    """The mesh over the first devices of the default backend.

    Raises:
        UserError: fewer devices than the mesh asks for.
    """
    shape = (config.data, config.fsdp, config.tensor)
    devices = jax.devices()
    if min(shape) < 1 or math.prod(shape) > len(devices):
        raise UserError(
            f"mesh {dict(zip(AXES, shape, strict=True))}: needs {math.prod(shape)} devices, {len(devices)} here"
        )
    return mesh_over(devices, config)


def mesh_over(devices: Sequence[Any], config: MeshConfig) -> Mesh:
    """The mesh over the first of these devices, which need not be here (see `tradewind.hardware.compiled`)."""
    shape = (config.data, config.fsdp, config.tensor)
    return jax.make_mesh(shape, AXES, axis_types=(AxisType.Auto,) * 3, devices=devices[: math.prod(shape)])


WEIGHTS: dict[str, tuple[str | None, ...]] = {
    "embedding": ("tensor", "fsdp"),
    **{f"{name}.kernel": ("fsdp", "tensor") for name in ("q", "k", "v", "gate", "up")},
    **{f"{name}.kernel": ("tensor", "fsdp") for name in ("o", "down")},
    "a": (None, "fsdp"),
    "b": (None, "tensor"),
    "scale": (None,),
    "projection": (None, None, None),
}
"""Last parts of a parameter's path -> mesh axis of each dimension. Every parameter of the decoder is in it."""


def place_weights(state: nnx.State, mesh: Mesh) -> nnx.State:
    """The state with every array on the mesh as `WEIGHTS` says."""
    return jax.device_put(state, weight_shardings(state, mesh))


def weight_shardings(state: nnx.State, mesh: Mesh) -> nnx.State:
    """Where each array of the state (shapes suffice) lies, as `WEIGHTS` says."""
    return jax.tree_util.tree_map_with_path(lambda path, leaf: _sharding(_names(path), leaf.shape, mesh), state)


def place_like(tree: T, reference: nnx.State, mesh: Mesh) -> T:
    """An optimizer state on the mesh: a leaf whose path ends in a parameter's path lies as that parameter does."""
    shardings = jax.tree.map(lambda leaf: leaf.sharding, reference)
    return jax.device_put(tree, like_shardings(tree, shardings, mesh))


def like_shardings(tree: T, shardings: nnx.State, mesh: Mesh) -> T:
    """Where each leaf of an optimizer state lies, given where the parameters do."""
    known = {_names(path): leaf for path, leaf in jax.tree_util.tree_flatten_with_path(shardings)[0]}
    whole = NamedSharding(mesh, PartitionSpec())

    def sharding(path: tuple[object, ...], _: jax.Array) -> NamedSharding:
        names = _names(path)
        return next((known[names[i:]] for i in range(len(names)) if names[i:] in known), whole)

    return jax.tree_util.tree_map_with_path(sharding, tree)


def place_rows(tree: T, mesh: Mesh) -> T:
    """Arrays [accumulate, B, ...] with their rows B split over data and fsdp."""
    if mesh.size == 1:
        return tree
    return jax.device_put(tree, row_sharding(mesh))


def row_sharding(mesh: Mesh) -> NamedSharding:
    return NamedSharding(mesh, PartitionSpec(None, ("data", "fsdp")))


def _sharding(names: tuple[str, ...], shape: tuple[int, ...], mesh: Mesh) -> NamedSharding:
    parts = [name for name in names if name not in ("base", "value")]
    axes = WEIGHTS.get(parts[-1]) or WEIGHTS.get(".".join(parts[-2:]))
    if axes is None or len(axes) != len(shape):
        raise ValueError(f"no mesh placement for {'.'.join(names)} {shape}")
    fits = [axis if axis and size % mesh.shape[axis] == 0 else None for axis, size in zip(axes, shape, strict=True)]
    return NamedSharding(mesh, PartitionSpec(*fits))


def _names(path: tuple[object, ...]) -> tuple[str, ...]:
    return tuple(part for part in jax.tree_util.keystr(path, simple=True, separator="/").split("/") if part != "value")


def host_copy(tree: T) -> T:
    """The tree with NumPy arrays in place of device arrays."""
    return jax.tree.map(np.asarray, tree)
