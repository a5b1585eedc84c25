"""GPTQ (arXiv:2210.17323): round a matrix column by column, and let the columns still to come make up for each error.

1. The table is rounded to nearest; calibration rows enter layer 0 through it.
2. Layer by layer, and in a layer site by site, the activations that reach a matrix *through what is already rounded* give
   its Hessian.
3. Blocks of 32 columns are rounded on the grids of `quantize`, each block's scale taken from the weights as earlier errors
   have moved them. An error is spread over later columns by the inverse Hessian's Cholesky factor.

Not covered: reordering columns by activation (blocks are neighbours in every container), W8A8, which is rounded to nearest.
"""

from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

from tradewind.compression.calibration import SITES, Names, hessian, replace, stream
from tradewind.compression.quantize import BITS, BLOCK, Blocks, Tensor, quantize, steps, stored_steps
from tradewind.compression.rules import Rule, assign
from tradewind.model.decoder import DecoderConfig
from tradewind.model.weights import Flat, to_model
from tradewind.training.data import Batch

DAMPING = 0.01
"""Of the Hessian's mean diagonal, added to each: the paper's."""
LEVELS = {"int8": (-127, 127), "int4": (-8, 7)}


def quantize_gptq(
    config: DecoderConfig, flat: Flat, rules: Sequence[Rule], batches: Sequence[Batch]
) -> dict[str, Tensor]:
    """Codes and scales of a flat Hugging Face dict. Raises UserError for rules or text that do not fit."""
    dtypes = assign(rules, flat)
    made = quantize(flat, rules)
    model = to_model(config, flat)
    names = Names(model)
    table = made["model.embed_tokens.weight"]
    model.embed.embedding[...] = jnp.asarray(table.dequantize() if isinstance(table, Blocks) else table)
    rows = stream(model, batches)
    for index, layer in enumerate(model.layers):
        for site in SITES:
            own = {path: names(index, f"{path}.kernel") for path in site.matrices}
            if any(dtypes[name] in LEVELS for name in own.values()):
                factor = Factor(hessian(rows.activations(layer, site)))
            for path, name in own.items():
                if dtypes[name] in LEVELS:
                    made[name] = gptq(flat[name], dtypes[name], factor, name)
                tensor = made[name]
                replace(layer, path, tensor.dequantize() if isinstance(tensor, Blocks) else tensor)
        rows.advance(layer)
    return made


class Factor:
    """Upper triangle U with U^T U = the inverse of a damped Hessian. hessian: float64 [in, in]."""

    def __init__(self, hessian: NDArray[np.float64], damping: float = DAMPING) -> None:
        damped = hessian.copy()
        diagonal = np.einsum("ii->i", damped)  # a view
        diagonal[diagonal == 0] = 1  # an input that is always zero: any code does
        diagonal += damping * diagonal.mean()
        self.upper = np.linalg.cholesky(np.linalg.inv(damped)).T


def gptq(weight: NDArray[np.float32], dtype: str, factor: Factor, name: str = "tensor") -> Blocks:
    """A matrix [out, in] as int8 or int4 blocks."""
    rest, upper = weight.astype(np.float64), factor.upper
    out, width = rest.shape
    codes, scales = np.empty((out, width), np.int8), np.empty((out, width // BLOCK), np.float16)
    for block, start in enumerate(range(0, width, BLOCK)):
        end = start + BLOCK
        here = rest[:, start:end]
        scales[:, block : block + 1] = stored_steps(steps(here, dtype), name)
        codes[:, start:end], errors = _round(here, scales[:, block], upper[start:end, start:end], LEVELS[dtype])
        rest[:, end:] -= errors @ upper[start:end, end:]
    return Blocks(BITS[dtype], codes, scales)


def _round(
    block: NDArray[np.float64], scale: NDArray[np.float16], upper: NDArray[np.float64], levels: tuple[int, int]
) -> tuple[NDArray[np.int8], NDArray[np.float64]]:
    """Codes [out, 32] of one block, and its columns' errors as later blocks must make up for them."""
    step = scale.astype(np.float64)
    inverse = np.divide(1, step, out=np.zeros_like(step), where=step != 0)
    codes, errors = np.empty(block.shape, np.int8), np.empty_like(block)
    for column in range(BLOCK):
        codes[:, column] = np.floor(block[:, column] * inverse + 0.5).clip(*levels)
        errors[:, column] = (block[:, column] - codes[:, column] * step) / upper[column, column]
        block[:, column + 1 :] -= np.outer(errors[:, column], upper[column, column + 1 :])
    return codes, errors
