"""The rates that JAX reaches on the device that it runs on: products, attention and norms as the `jax` engine has them.

As `peaks_ort`, in the dtype that the engine takes: float32 on a CPU, bfloat16 elsewhere. Weights are arguments, so that
nothing is folded; each chain is one compiled program, called and waited for. Attention writes its cache, which is donated,
and reads it, dequantized where it is int8. `launch`: seconds of a small product in a
chain, / their number; `dispatch`: of a program that does nothing, its result fetched.
"""

import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from tradewind.hardware.peaks import (
    ATTENTION,
    CONTEXT,
    GRID,
    HEAD_DIM,
    HEADS,
    HIDDEN,
    KV_HEADS,
    MLP,
    ROWS,
    TOKENS,
    AtRows,
    Peaks,
    more,
    pairs_operations,
    turns,
)
from tradewind.hardware.roofline import ELEMENTWISE, KERNELS
from tradewind.model.decoder import attend, read, stored

NODES = 48
SMALL = 64
Call = tuple[Callable[..., jax.Array], tuple[Any, ...]]


def measure(repeats: int) -> Peaks:
    dtype = jnp.float32 if jax.default_backend() == "cpu" else jnp.bfloat16
    name = jnp.dtype(dtype).name
    calls: dict[tuple[str, Any], Call] = {("dispatch", 0): small(dtype, 0), ("launch", 0): small(dtype, NODES)}
    for rows, lengths in GRID.items():
        calls |= {(name, (rows, pairs)): products(dtype, rows, pairs) for pairs in lengths}
    calls[ELEMENTWISE, ROWS] = norms(dtype)
    ready: dict[Any, Callable[[], float]] = {}
    for key, (program, given) in calls.items():
        ready[key] = partial(_timed, jax.jit(program), given)
    for cached in (dtype, jnp.int8):
        for shape in ((1, CONTEXT), (1, 1), *((tokens, ROWS) for tokens in TOKENS)):
            ready[ATTENTION + jnp.dtype(cached).name, shape] = Attention(dtype, cached, *shape).run
    return rates(turns(ready, repeats), name, jnp.dtype(dtype).itemsize)


def rates(seconds: Mapping[Any, float], name: str, width: int) -> Peaks:
    """From seconds of a call by chain. width: bytes of a number."""
    dispatch = seconds["dispatch", 0]
    launch = max(0.0, seconds["launch", 0] - dispatch) / NODES

    def net(key: tuple[str, Any], kernels: int = NODES) -> float:
        return max(0.1 * seconds[key], seconds[key] - dispatch - launch * kernels)

    def rate(rows: int, pairs: int) -> tuple[float, float]:
        weights = 2 * pairs * HIDDEN * MLP
        return width * weights, 2 * rows * weights / net((name, (rows, pairs)), 2 * pairs)

    at_rows: dict[str, AtRows] = {
        name: [(rows, [rate(rows, pairs) for pairs in lengths]) for rows, lengths in GRID.items()]
    }
    one_row = at_rows[name][0][1][-1][1]
    bandwidth = {name: one_row * width / 2, ELEMENTWISE: 4 * width * ROWS * HIDDEN * NODES / net((ELEMENTWISE, ROWS))}
    for cached in (name, "int8"):
        attended = ATTENTION + cached
        one = seconds[attended, (1, 1)]
        longer = more(seconds[attended, (1, CONTEXT)], one)
        bandwidth[attended] = (
            2 * KV_HEADS * HEAD_DIM * (1 if cached == "int8" else width) * (CONTEXT - 1) * NODES / longer
        )
        at_rows[attended] = [(1, [(1.0, pairs_operations(CONTEXT - 1) * NODES / longer)])]
        for tokens in TOKENS:
            done = pairs_operations(tokens * (ROWS - (tokens - 1) / 2)) * NODES
            at_rows[attended].append((tokens, [(1.0, done / more(seconds[attended, (tokens, ROWS)], one))]))
    flops = {dtype: points[-1][1][-1][1] for dtype, points in at_rows.items()}
    return Peaks(flops, bandwidth, launch, dispatch, KERNELS, at_rows)


def small(dtype: Any, count: int) -> Call:
    """`count` products of one row with matrices of SMALL x SMALL."""

    def run(x: jax.Array, weights: list[jax.Array]) -> jax.Array:
        for weight in weights:
            x = x @ weight
        return x

    return run, (jnp.ones((1, SMALL), dtype), [jnp.full((SMALL, SMALL), 0.01, dtype) for _ in range(count)])


def products(dtype: Any, rows: int, count: int) -> Call:
    """`count` pairs."""

    def run(x: jax.Array, pairs: list[tuple[jax.Array, jax.Array]]) -> jax.Array:
        for up, down in pairs:
            x = (x @ up) @ down
        return x[:1]

    key = jax.random.key(0)
    pairs = [tuple(jax.random.normal(jax.random.fold_in(key, 2 * n + m), shape, dtype) / 40 for m, shape in
                   enumerate(((HIDDEN, MLP), (MLP, HIDDEN)))) for n in range(count)]  # fmt: skip
    return run, (jnp.full((rows, HIDDEN), 0.01, dtype), pairs)


class Attention:
    """NODES times `tokens` queries over caches of `context`, each its own, of which they write the last places."""

    def __init__(self, dtype: Any, cached: Any, tokens: int, context: int) -> None:
        shape = (1, context, KV_HEADS, HEAD_DIM)
        self._caches = [(jnp.ones(shape, cached), jnp.ones(shape, cached)) for _ in range(NODES)]
        scale = jnp.full((KV_HEADS, HEAD_DIM), 0.01) if cached == jnp.int8 else None
        places, positions = jnp.zeros((1, 1), int), context - tokens + jnp.arange(tokens)[None]
        mask = jnp.arange(context)[None, None] <= positions[..., None]

        def run(q: jax.Array, caches: list[tuple[jax.Array, jax.Array]]) -> tuple[jax.Array, Any]:
            kept, now = [], jnp.ones((1, tokens, KV_HEADS, HEAD_DIM), dtype)
            for pair in caches:
                keys, values = (
                    part.at[places, positions].set(stored(now, scale, part.dtype), mode="drop") for part in pair
                )
                kept.append((keys, values))
                q = attend(q, read(keys, scale, dtype), read(values, scale, dtype), mask)
            return q[:, -1], kept

        self._run, self._q = jax.jit(run, donate_argnums=1), jnp.full((1, tokens, HEADS, HEAD_DIM), 0.01, dtype)

    def run(self) -> float:
        started = time.perf_counter()
        made, self._caches = self._run(self._q, self._caches)
        np.asarray(made)
        return time.perf_counter() - started


def norms(dtype: Any) -> Call:
    """NODES residual sums with their RMS norms, kept apart as products between them would."""

    def run(x: jax.Array, gammas: list[jax.Array]) -> jax.Array:
        branch = x
        for gamma in gammas:
            x = x + branch
            branch = x * jax.lax.rsqrt(jnp.mean(jnp.square(x), -1, keepdims=True) + 1e-5) * gamma
            x, branch = jax.lax.optimization_barrier((x, branch))
        return branch[:, -1]

    return run, (jnp.ones((1, ROWS, HIDDEN), dtype), [jnp.full(HIDDEN, 0.5, dtype) for _ in range(NODES)])


def _timed(program: Any, given: tuple[Any, ...]) -> float:
    started = time.perf_counter()
    np.asarray(program(*given))
    return time.perf_counter() - started
