import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from tradewind.model import decoder
from tradewind.model.decoder import Decoder
from tradewind.model.linear import Linear, precision, product, product_rows


def gradients(model: Decoder, derived: bool, monkeypatch: pytest.MonkeyPatch, remat: bool = False):
    """Of the mean of squared logits, with the written-out gradients or with those that JAX derives."""
    with monkeypatch.context() as patch:
        if derived:
            patch.setattr(Linear, "__call__", nnx.Linear.__call__)
            patch.setattr(decoder, "product_rows", lambda x, rows: x @ rows.T)
        tokens = jax.random.randint(jax.random.key(0), (2, 24), 0, 304)
        positions = jnp.broadcast_to(jnp.arange(24), (2, 24))
        return nnx.grad(lambda m: (m.logits(m.hidden(tokens, positions, remat=remat)) ** 2).mean())(model)


@pytest.mark.parametrize("remat", [False, True])
def test_gradients_are_those_that_jax_derives(model, monkeypatch, remat):
    ours, derived = (gradients(model, flag, monkeypatch, remat) for flag in (False, True))
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(derived), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5 * float(jnp.abs(b).max()))


def test_it_computes_in_its_type_and_keeps_leading_axes():
    layer = Linear(6, 4, use_bias=False, dtype=jnp.bfloat16, rngs=nnx.Rngs(0))
    out = layer(jnp.ones((2, 3, 6), jnp.float32))
    assert out.shape == (2, 3, 4) and out.dtype == jnp.bfloat16


def by_hand(x, kernel, g):
    """Product, gradients of x and of the kernel, with every operand rounded to bfloat16 and float64 sums."""
    x, kernel, g = (np.asarray(jnp.asarray(array, jnp.bfloat16)).astype(np.float64) for array in (x, kernel, g))
    return x @ kernel, g @ kernel.T, x.T @ g


def close(ours, reference):
    for a, b in zip(ours, reference, strict=True):
        assert a.dtype == jnp.float32
        np.testing.assert_allclose(a, b, atol=1e-5 * np.abs(b).max())


@pytest.mark.parametrize("multiply", ["columns", "rows"])
def test_in_bfloat16_operands_are_rounded_and_sums_are_not(multiply):
    keys = jax.random.split(jax.random.key(0), 3)
    shapes = ((96, 64), (64, 160), (96, 160))
    x, kernel, g = (jax.random.normal(key, shape) for key, shape in zip(keys, shapes, strict=True))

    @jax.jit
    def run(x, kernel, g):
        multiplied = product if multiply == "columns" else lambda x, kernel: product_rows(x, kernel.T)
        out, back = jax.vjp(multiplied, x, kernel)
        return out, *back(g)

    with precision("bfloat16"):
        close(run(x, kernel, g), by_hand(x, kernel, g))
    exact = (x @ kernel, g @ kernel.T, x.T @ g)
    close(run(x, kernel, g), exact)


@pytest.mark.parametrize("name", ["default", "bfloat16"])
def test_what_is_in_bfloat16_already_stays_so(name):
    with precision(name):
        ones = jnp.ones((4, 4), jnp.bfloat16)
        out, back = jax.vjp(product, ones, ones)
        assert {out.dtype, *(grad.dtype for grad in back(out))} == {jnp.dtype(jnp.bfloat16)}
