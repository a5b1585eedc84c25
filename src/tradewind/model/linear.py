"""Matrix products whose gradients are written out, for the speed of training on XLA:CPU, and the linear layer of them.

With `precision("bfloat16")` float32 operands are rounded to bfloat16, as TPUs do of themselves; sums and results stay
float32. A CPU with bfloat16 units multiplies those several times as fast, as long as all matrices lie row by row: on two
cores with AMX a training step of the teacher takes 0.57 instead of 1.0 s, of the student 0.74 instead of 1.1 (512 tokens;
compare `trained_tokens_per_s` of a run with SET='matmul_precision=default').

Covered: linear layers, their adapters and the logits in training. Not covered, so in float32 on a CPU: attention's own
products, `training.taps`, and what serves (`model.packed`, `model.row_adapters`).
"""

from contextlib import AbstractContextManager, nullcontext

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax
from jax.experimental.layout import Layout, with_layout_constraint
from jax.typing import DTypeLike

from tradewind.errors import UserError

PRECISIONS = ("default", "bfloat16", "float32")
"""Of matrix products, by JAX's names; `default` leaves what JAX was told otherwise."""

Saved = tuple[jax.Array, jax.Array]


def precision(name: str) -> AbstractContextManager[object]:
    """The context in which a function is to be traced to have this precision of its products."""
    return nullcontext() if name == "default" else jax.default_matmul_precision(name)


def check_precision(section: str, name: str) -> None:
    """Raise UserError where it is none of PRECISIONS."""
    if name not in PRECISIONS:
        raise UserError(f"{section}.matmul_precision: unknown precision {name!r} (choices: {', '.join(PRECISIONS)})")


class Linear(nnx.Linear):
    """A linear layer without bias, [in, out]."""

    def __call__(self, inputs: jax.Array, out_sharding: object = None) -> jax.Array:
        """[..., in] -> [..., out]."""
        x, kernel = inputs.astype(self.dtype), self.kernel[...].astype(self.dtype)
        return product(x.reshape(-1, x.shape[-1]), kernel).reshape(*x.shape[:-1], -1)


@jax.custom_vjp
def product(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """x kernel for x [N,in], kernel [in,out], in the type of x.

    The gradients are written out as products of matrices in the layouts that XLA:CPU multiplies fastest: with those that JAX
    derives it copies more. They are the same numbers, but that with bfloat16 what comes back is rounded, too.
    """
    return _product_forward(x, kernel)[0]


def _product_forward(x: jax.Array, kernel: jax.Array) -> tuple[jax.Array, Saved]:
    operands = rounded(x), rounded(kernel)
    return times(*operands, x.dtype), operands


def _product_backward(saved: Saved, g: jax.Array) -> Saved:
    (x, kernel), dtype, g = saved, g.dtype, g.astype(saved[0].dtype)
    return times_rows(g, kernel, dtype), times(x.T, g, dtype)


product.defvjp(_product_forward, _product_backward)


@jax.custom_vjp
def product_rows(x: jax.Array, rows: jax.Array) -> jax.Array:
    """x rows' for x [N,in], rows [out,in], given in float32, which may be rounded."""
    return _product_rows_forward(x, rows)[0]


def _product_rows_forward(x: jax.Array, rows: jax.Array) -> tuple[jax.Array, Saved]:
    operands = rounded(x), rounded(rows)
    return times_rows(*operands, x.dtype), operands


def _product_rows_backward(saved: Saved, g: jax.Array) -> Saved:
    (x, rows), dtype, g = saved, g.dtype, g.astype(saved[0].dtype)
    return times(g, rows, dtype), times(g.T, x, dtype)


product_rows.defvjp(_product_rows_forward, _product_rows_backward)


def rounded(array: jax.Array) -> jax.Array:
    """A float32 array in bfloat16 where that precision is in force; others as they are."""
    wanted = jax.config.jax_default_matmul_precision == "bfloat16"  # type: ignore[attr-defined]
    return array.astype(jnp.bfloat16) if wanted and array.dtype == jnp.float32 else array


def times(a: jax.Array, b: jax.Array, dtype: DTypeLike) -> jax.Array:
    """a b for a [N,K], b [K,M], in the type given."""
    return _multiplied(a, b, 0, dtype)


def times_rows(a: jax.Array, b: jax.Array, dtype: DTypeLike) -> jax.Array:
    """a b' for a [N,K], b [M,K], in the type given."""
    return _multiplied(a, b, 1, dtype)


def _multiplied(a: jax.Array, b: jax.Array, axis: int, dtype: DTypeLike) -> jax.Array:
    """Sum over the last axis of a and one of b. Where operands were rounded, all three matrices are made to lie row by row:
    XLA:CPU widens operands that do not, and refuses the product where a later rewriting turns one."""
    if a.dtype == dtype:
        return lax.dot_general(a, b, (((1,), (axis,)), ((), ())), preferred_element_type=dtype)
    out = lax.dot_general(_by_rows(a), _by_rows(b), (((1,), (axis,)), ((), ())), preferred_element_type=dtype)
    return _by_rows(out)


def _by_rows(a: jax.Array) -> jax.Array:
    return with_layout_constraint(a, Layout((0, 1)))
