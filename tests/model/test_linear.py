import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from tradewind.model.decoder import Decoder
from tradewind.model.linear import Linear


def gradients(model: Decoder, derived: bool, monkeypatch: pytest.MonkeyPatch, remat: bool = False):
    """Of the mean of squared logits, with the written-out gradients or with those that JAX derives."""
    with monkeypatch.context() as patch:
        if derived:
            patch.setattr(Linear, "__call__", nnx.Linear.__call__)
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
