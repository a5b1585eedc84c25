"""Matrix products whose gradients are written out, for the speed of training on XLA:CPU, and the linear layer of them.

Under `jax.default_matmul_precision("bfloat16")` operands in float32 are rounded to bfloat16 on every device, as TPUs do of
themselves; sums and results stay float32. A CPU with bfloat16 units (AMX, AVX512-BF16) multiplies those several times as
fast, as long as both matrices lie row by row: else XLA:CPU widens them again. This file does not know adapters.
"""

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax
from jax.experimental.layout import Layout, with_layout_constraint
from jax.typing import DTypeLike

Saved = tuple[jax.Array, jax.Array]


class Linear(nnx.Linear):
    """A linear layer without bias, [in, out]."""

    def __call__(self, inputs: jax.Array, out_sharding: object = None) -> jax.Array:
        """[..., in] -> [..., out]."""
        x, kernel = inputs.astype(self.dtype), self.kernel[...].astype(self.dtype)
        return product(x.reshape(-1, x.shape[-1]), kernel).reshape(*x.shape[:-1], -1)


@jax.custom_vjp
def product(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """x kernel for x [N,in], kernel [in,out], in the type of x.

    The gradients are written out as products of matrices in the layouts that XLA:CPU multiplies fastest: a training
    step with those that it derives itself copies more and takes a sixth longer. They are the same numbers.
    """
    return _product_forward(x, kernel)[0]


def _product_forward(x: jax.Array, kernel: jax.Array) -> tuple[jax.Array, Saved]:
    operands = rounded(x), rounded(kernel)
    return times(*operands, x.dtype), operands


def _product_backward(saved: Saved, g: jax.Array) -> Saved:
    (x, kernel), dtype, g = saved, g.dtype, rounded(g)
    return times_rows(g, kernel, dtype), times(x.T, g, dtype)


product.defvjp(_product_forward, _product_backward)


@jax.custom_vjp
def product_rows(x: jax.Array, rows: jax.Array) -> jax.Array:
    """x rows' for x [N,in], rows [out,in], all float32."""
    return _product_rows_forward(x, rows)[0]


def _product_rows_forward(x: jax.Array, rows: jax.Array) -> tuple[jax.Array, Saved]:
    operands = rounded(x), rounded(rows)
    return times_rows(*operands, x.dtype), operands


def _product_rows_backward(saved: Saved, g: jax.Array) -> Saved:
    (x, rows), dtype, g = saved, g.dtype, rounded(g)
    return times(g, rows, dtype), times(g.T, x, dtype)


product_rows.defvjp(_product_rows_forward, _product_rows_backward)


def rounded(array: jax.Array) -> jax.Array:
    """A float32 array in bfloat16 where that precision was asked for; others as they are."""
    return array.astype(jnp.bfloat16) if _in_bfloat16() and array.dtype == jnp.float32 else array


def times(a: jax.Array, b: jax.Array, dtype: DTypeLike) -> jax.Array:
    """a b for a [N,K], b [K,M]."""
    return _multiplied(a, b, 0, dtype)


def times_rows(a: jax.Array, b: jax.Array, dtype: DTypeLike) -> jax.Array:
    """a b' for a [N,K], b [M,K]."""
    return _multiplied(a, b, 1, dtype)


def _multiplied(a: jax.Array, b: jax.Array, axis: int, dtype: DTypeLike) -> jax.Array:
    """Sum over the last axis of a and one of b. In bfloat16 all three matrices are made to lie row by row: XLA:CPU widens
    operands that do not, and has no product at all where a later rewriting turns one."""
    if not _in_bfloat16():
        return lax.dot_general(a, b, (((1,), (axis,)), ((), ())), preferred_element_type=dtype)
    out = lax.dot_general(_by_rows(a), _by_rows(b), (((1,), (axis,)), ((), ())), preferred_element_type=dtype)
    return _by_rows(out)


def _by_rows(a: jax.Array) -> jax.Array:
    return with_layout_constraint(a, Layout((0, 1)))


def _in_bfloat16() -> bool:
    return bool(jax.config.jax_default_matmul_precision == "bfloat16")  # type: ignore[attr-defined]
