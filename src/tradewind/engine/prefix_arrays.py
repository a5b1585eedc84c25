"""A prefix of any engine as plain arrays, and back: what leaves the process and comes back to a later one.

An engine's keys and values are a list of arrays that have one axis of positions; only the first `length` of them mean
something. Read in any thread: a prefix never changes. Not covered: pending tokens and logits, which a kept prefix lacks.
"""

import importlib.metadata
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tradewind.engine.contract import Engine, Prefix

Array = NDArray[Any]
Make = Callable[[Engine, list[Array], int, str | None], Prefix]
"""Engine, arrays of `length` positions, length, adapter."""


@dataclass(frozen=True)
class Shape:
    """Of one array: its type, and its sizes with 0 for the axis of positions."""

    dtype: np.dtype[Any]
    sizes: tuple[int, ...]
    axis: int

    @classmethod
    def of(cls, array: Array, axis: int) -> "Shape":
        return cls(array.dtype, (*array.shape[:axis], 0, *array.shape[axis + 1 :]), axis)

    def read(self, data: NDArray[np.uint8], length: int, held: int) -> Array:
        """The first `held` positions from the bytes of an array of `length`, sharing their memory. Raises ValueError where
        they are not of that many.
        """
        whole = data.view(self.dtype).reshape(*self.sizes[: self.axis], length, *self.sizes[self.axis + 1 :])
        return _first(whole, held, self.axis)


@dataclass(frozen=True)
class Codec:
    """axis: of positions. libraries: what computes the arrays, whose versions matter."""

    axis: int
    libraries: tuple[str, ...]
    arrays: Callable[[Any], Sequence[Array]]
    make: Make


def arrays_of(engine: Engine, prefix: Prefix) -> list[Array]:
    """Keys and values of its tokens, contiguous. Raises KeyError for an engine that is not in `CODECS`."""
    codec = CODECS[engine.name]
    return [np.ascontiguousarray(_first(array, prefix.length, codec.axis)) for array in codec.arrays(prefix)]


def prefix_of(engine: Engine, arrays: list[Array], length: int, adapter: str | None) -> Prefix:
    """The engine's own prefix from `arrays_of` one; it may share their memory."""
    return CODECS[engine.name].make(engine, arrays, length, adapter)


def shapes_of(engine: Engine, arrays: Sequence[Array]) -> list[Shape]:
    return [Shape.of(array, CODECS[engine.name].axis) for array in arrays]


def versions(engine: Engine) -> dict[str, str]:
    return {name: importlib.metadata.version(name) for name in CODECS[engine.name].libraries}


def _first(array: Array, count: int, axis: int) -> Array:
    return array[(slice(None),) * axis + (slice(count),)]


def _mock(engine: Engine, arrays: list[Array], length: int, adapter: str | None) -> Prefix:
    from tradewind.engine.mock import MockPrefix

    return MockPrefix(length=length, adapter=adapter, kv=arrays[0])


def _ort(engine: Engine, arrays: list[Array], length: int, adapter: str | None) -> Prefix:
    """The row is full, so the engine goes on in a copy of it: the arrays may be read-only."""
    from tradewind.engine.ort import OrtPrefix, Row

    (kv,) = arrays
    row = Row(kv, 0)
    row.kv, row.used = kv, length
    return OrtPrefix(length, adapter=adapter, row=row)


def _jax(engine: Engine, arrays: list[Array], length: int, adapter: str | None) -> Prefix:
    """Padded to a capacity that the engine's compiled functions know."""
    import jax

    from tradewind.engine.jax import CONTEXTS, JaxPrefix

    capacity = next(size for size in (*CONTEXTS, engine.max_len) if length <= size and size <= engine.max_len)
    padding = [(0, 0), (0, capacity - length), (0, 0), (0, 0)]
    parts = [jax.device_put(np.pad(array, padding)) for array in arrays]
    return JaxPrefix(length, adapter=adapter, cache=list(zip(parts[::2], parts[1::2], strict=True)))


CODECS = {
    "mock": Codec(0, ("numpy",), lambda prefix: [prefix.kv], _mock),
    "ort": Codec(3, ("onnxruntime",), lambda prefix: [prefix.row.kv], _ort),
    "jax": Codec(
        1, ("jax", "jaxlib"), lambda prefix: [np.asarray(part) for layer in prefix.cache for part in layer], _jax
    ),
}
"""By the engine's name."""
