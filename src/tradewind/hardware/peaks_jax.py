"""The rates that JAX reaches on the device that it runs on: products, attention and norms as the `jax` engine has them.

As `peaks_ort`, in the dtype that the engine takes: float32 on a CPU, bfloat16 elsewhere. Weights are arguments, so that
nothing is folded; each chain is one compiled program, called and waited for. `launch`: seconds of a small product in a
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
    HEAD_DIM,
    HEADS,
    HIDDEN,
    KV_HEADS,
    MLP,
    ROWS,
    Peaks,
    turns,
)
from tradewind.hardware.roofline import ELEMENTWISE
from tradewind.model.decoder import attend

KERNELS = (12, 4)
"""Of a layer: products of q/k/v, output, gate/up, down; scores, softmax and sums of attention; rotation, two writes of the
cache; two norms, each fused with what is beside it. Besides: lookup, last norm, head, what the host fetches."""
NODES = 48
SMALL = 64
Call = tuple[Callable[..., jax.Array], tuple[Any, ...]]


def measure(repeats: int) -> Peaks:
    dtype = jnp.float32 if jax.default_backend() == "cpu" else jnp.bfloat16
    name = jnp.dtype(dtype).name
    calls: dict[tuple[str, Any], Call] = {("dispatch", 0): small(dtype, 0), ("launch", 0): small(dtype, NODES)}
    for rows in (1, ROWS):
        calls[name, rows] = products(dtype, rows)
    for shape in ((1, CONTEXT), (1, 1), (ROWS, ROWS)):
        calls[ATTENTION + name, shape] = attention(dtype, *shape)
    calls[ELEMENTWISE, ROWS] = norms(dtype)
    ready = {key: partial(_timed, jax.jit(program), given) for key, (program, given) in calls.items()}
    return rates(turns(ready, repeats), name, jnp.dtype(dtype).itemsize)


def rates(seconds: Mapping[Any, float], name: str, width: int) -> Peaks:
    """From seconds of a call by chain. width: bytes of a number."""
    dispatch = seconds["dispatch", 0]
    launch = max(0.0, seconds["launch", 0] - dispatch) / NODES

    def net(key: tuple[str, Any], kernels: int = NODES) -> float:
        return max(0.1 * seconds[key], seconds[key] - dispatch - launch * kernels)

    attended, mixed = ATTENTION + name, seconds[ATTENTION + name, (1, 1)]
    weights = NODES * HIDDEN * MLP
    read = 2 * KV_HEADS * HEAD_DIM * width * (CONTEXT - 1) * NODES
    done = 4 * HEADS * HEAD_DIM * (ROWS * (ROWS + 1) / 2) * NODES
    flops = {
        name: 2 * ROWS * weights / net((name, ROWS)),
        attended: done / max(seconds[attended, (ROWS, ROWS)] - mixed, 0.1 * seconds[attended, (ROWS, ROWS)]),
    }
    bandwidth = {
        name: width * weights / net((name, 1)),
        attended: read / max(seconds[attended, (1, CONTEXT)] - mixed, 0.1 * seconds[attended, (1, CONTEXT)]),
        ELEMENTWISE: 4 * width * ROWS * HIDDEN * NODES / net((ELEMENTWISE, ROWS)),
    }
    return Peaks(flops, bandwidth, launch, dispatch, KERNELS)


def small(dtype: Any, count: int) -> Call:
    """`count` products of one row with matrices of SMALL x SMALL."""

    def run(x: jax.Array, weights: list[jax.Array]) -> jax.Array:
        for weight in weights:
            x = x @ weight
        return x

    return run, (jnp.ones((1, SMALL), dtype), [jnp.full((SMALL, SMALL), 0.01, dtype) for _ in range(count)])


def products(dtype: Any, rows: int) -> Call:
    def run(x: jax.Array, pairs: list[tuple[jax.Array, jax.Array]]) -> jax.Array:
        for up, down in pairs:
            x = (x @ up) @ down
        return x[:1]

    key = jax.random.key(0)
    pairs = [tuple(jax.random.normal(jax.random.fold_in(key, 2 * n + m), shape, dtype) / 40 for m, shape in
                   enumerate(((HIDDEN, MLP), (MLP, HIDDEN)))) for n in range(NODES // 2)]  # fmt: skip
    return run, (jnp.full((rows, HIDDEN), 0.01, dtype), pairs)


def attention(dtype: Any, tokens: int, context: int) -> Call:
    """NODES times `tokens` queries over caches of `context`, each its own."""

    def run(q: jax.Array, caches: list[tuple[jax.Array, jax.Array]], mask: jax.Array) -> jax.Array:
        for keys, values in caches:
            q = attend(q, keys, values, mask)
        return q[:, -1]

    shape = (1, context, KV_HEADS, HEAD_DIM)
    caches = [(jnp.full(shape, 0.01, dtype), jnp.full(shape, 0.01 + n, dtype)) for n in range(NODES)]
    mask = jnp.arange(context)[None, None] <= context - tokens + jnp.arange(tokens)[None, :, None]
    return run, (jnp.full((1, tokens, HEADS, HEAD_DIM), 0.01, dtype), caches, mask)


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
