"""A linear layer whose gradients are written out, for the speed of training on XLA:CPU. It does not know adapters."""

import jax
from flax import nnx


class Linear(nnx.Linear):
    """A linear layer without bias, [in, out]."""

    def __call__(self, inputs: jax.Array, out_sharding: object = None) -> jax.Array:
        """[..., in] -> [..., out]."""
        x, kernel = inputs.astype(self.dtype), self.kernel[...].astype(self.dtype)
        return product(x.reshape(-1, x.shape[-1]), kernel).reshape(*x.shape[:-1], -1)


@jax.custom_vjp
def product(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """x kernel for x [N,in], kernel [in,out].

    The gradients are written out as products of matrices in the layouts that XLA:CPU multiplies fastest: a training
    step with those that it derives itself copies more and takes a sixth longer. They are the same numbers.
    """
    return x @ kernel


def _product_forward(x: jax.Array, kernel: jax.Array) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return x @ kernel, (x, kernel)


def _product_backward(saved: tuple[jax.Array, jax.Array], g: jax.Array) -> tuple[jax.Array, jax.Array]:
    x, kernel = saved
    return g @ kernel.T, x.T @ g


product.defvjp(_product_forward, _product_backward)
