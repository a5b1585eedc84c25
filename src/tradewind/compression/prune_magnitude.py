"""Unstructured magnitude pruning, for comparison: the smallest weights of each matrix become 0, its shape stays.

It makes nothing smaller or faster here, as no runtime of ours skips zeros. Table and norms are left alone.
"""

from dataclasses import replace

import numpy as np

from tradewind.compression.prune_sketch import Calibration, Sketch
from tradewind.errors import UserError
from tradewind.model.weights import Flat


def zero_smallest(sketch: Sketch, calibration: Calibration, share: float) -> Sketch:
    """`share` of the weights of every matrix, those of least size, set to 0."""
    if not 0 <= share < 1:
        raise UserError(f"prune.sparsity: {share} is not a share from 0 to below 1")
    zeroed = {name: _zeroed(array, share) if is_matrix(name) else array for name, array in sketch.flat.items()}
    return replace(sketch, flat=zeroed)


def sparsity(flat: Flat) -> float:
    """The share of zeros among the weights of all matrices."""
    matrices = [array for name, array in flat.items() if is_matrix(name)]
    return sum(int((array == 0).sum()) for array in matrices) / max(sum(array.size for array in matrices), 1)


def is_matrix(name: str) -> bool:
    """Whether this tensor of a flat checkpoint is a matrix of a layer."""
    return name.endswith("_proj.weight")


def _zeroed(array: np.ndarray, share: float) -> np.ndarray:
    count = round(share * array.size)
    out = array.copy()
    out.reshape(-1)[np.argsort(np.abs(array), axis=None, kind="stable")[:count]] = 0.0
    return out
