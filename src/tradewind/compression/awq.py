"""AWQ's scaling (arXiv:2306.00978): inputs that matter are made large before rounding, and what feeds them small.

w x = (w s) (x / s). With s larger where activations are, the weights that meet them lose less to rounding. 1 / s goes into
what makes x: the norm before q, k, v and before gate, up; the rows of `up` before `down`. The result is an ordinary decoder
whose weights are then rounded to nearest, so every container holds it as any other.
For each site s = (mean |x|)^alpha, alpha the best of ALPHAS by the outputs' squared error on calibration rows; alpha 0
leaves the site alone. Not covered: o (values are shared by groups of heads), the table, clipping.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from tradewind.compression.calibration import SITES, Names, hessian, output_error, stream
from tradewind.compression.quantize import Blocks, Tensor, check_shapes, quantize, quantize_tensor
from tradewind.compression.rules import Rule, assign
from tradewind.model.decoder import DecoderConfig
from tradewind.model.weights import Flat, to_model
from tradewind.training.data import Batch

ALPHAS = tuple(np.linspace(0, 1, 9).tolist())
LEAST = 1e-3
"""Of the mean magnitude: an input that is smaller is scaled like one of this size."""


def quantize_awq(
    config: DecoderConfig, flat: Flat, rules: Sequence[Rule], batches: Sequence[Batch]
) -> dict[str, Tensor]:
    """Codes and scales of a flat Hugging Face dict. Raises UserError for rules or text that do not fit."""
    return quantize(scaled(config, flat, rules, batches), rules)


def scaled(config: DecoderConfig, flat: Flat, rules: Sequence[Rule], batches: Sequence[Batch]) -> Flat:
    """Weights that compute what `flat` does, and lose less when they are rounded by `rules`."""
    dtypes, made = assign(rules, flat), dict(flat)
    check_shapes(rules, flat)
    model = to_model(config, flat)
    names, rows = Names(model), stream(model, batches)
    for index, layer in enumerate(model.layers):
        for site in SITES:
            if site.source is None:
                continue
            readers = [names(index, f"{path}.kernel") for path in site.matrices]
            activations = list(rows.activations(layer, site))
            magnitude, about = np.abs(np.concatenate(activations)).mean(axis=0), hessian(activations)
            factor = best_factor([(made[name], dtypes[name]) for name in readers], magnitude, about)
            source = names(index, site.source)
            made[source] = (made[source].T / factor).T  # of a norm's scale or of up's rows
            made |= {name: made[name] * factor for name in readers}
        rows.advance(layer)
    return made


def best_factor(
    readers: Sequence[tuple[NDArray[np.float32], str]], magnitude: NDArray[np.float32], about: NDArray[np.float64]
) -> NDArray[np.float32]:
    """s [in] for matrices [out, in] with their dtypes, which read activations of mean |x| [in] and mean x x^T [in, in]."""
    size = np.maximum(magnitude, LEAST * magnitude.mean() or 1)
    relative = size / np.exp(np.log(size).mean())
    factors = [(relative**alpha).astype(np.float32) for alpha in ALPHAS]
    return min(factors, key=lambda factor: sum(_error(weight, dtype, factor, about) for weight, dtype in readers))


def _error(weight: NDArray[np.float32], dtype: str, factor: NDArray[np.float32], about: NDArray[np.float64]) -> float:
    rounded = quantize_tensor(weight * factor, dtype)
    return output_error(weight, rounded.dequantize() / factor, about) if isinstance(rounded, Blocks) else 0.0
