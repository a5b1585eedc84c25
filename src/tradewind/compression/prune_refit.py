"""Refit after pruning: layer by layer, matrices are solved by ridge regression; no gradients.

1. Where hidden dimensions were cut: what reads the stream, so that each norm's output says what the teacher's says.
2. Where those or heads were cut: `o`, so that the stream after attention meets the teacher's (in the student's basis).
3. Always: `down`, so that the stream meets the teacher's at the next kept layer.
Each layer is fitted on what the student as fitted so far feeds it. It gives distillation a start that has not collapsed.
"""

from collections.abc import Sequence
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from tradewind.compression.layerwise import Place, attention_mix, enter, last, mlp_activations, run_attention
from tradewind.compression.prune_sketch import Calibration, Sketch
from tradewind.model.decoder import Layer
from tradewind.model.weights import to_flat, to_model

States = list[jax.Array]


def refit(sketch: Sketch, calibration: Calibration, ridge: float) -> Sketch:
    """The sketch with refitted matrices.

    Args:
        ridge: strength of the pull towards the weights as cut, relative to the activations' size.
    """
    student, work = to_model(sketch.config, sketch.flat), _Refit(sketch, calibration, ridge)
    places = [enter(calibration.teacher, batch)[1] for batch in calibration.batches]
    goals = [enter(calibration.teacher, batch)[0] for batch in calibration.batches]
    states = [enter(student, batch)[0] for batch in calibration.batches]
    for number, layer in enumerate(student.layers):
        states, goals = work.layer(number, layer, states, goals, places)
    return replace(sketch, flat=to_flat(student))


class _Refit:
    def __init__(self, sketch: Sketch, calibration: Calibration, ridge: float) -> None:
        self.sketch, self.ridge, self.batches = sketch, ridge, calibration.batches
        self.teacher = list(calibration.teacher.layers)
        self.dim = sketch.config.head_dim
        self.heads_cut = len(sketch.heads[0]) < calibration.teacher.config.num_heads

    def layer(
        self, number: int, layer: Layer, states: States, goals: States, places: Sequence[Place]
    ) -> tuple[States, States]:
        """Refits the layer in place; the streams of student and teacher that leave it."""
        old, after = self.sketch.layers[number], [*self.sketch.layers[1:], len(self.teacher)][number]
        if self.sketch.basis is not None or self.heads_cut:
            middle = [run_attention(self.teacher[old], x, place) for x, place in zip(goals, places, strict=True)]
            states = self._attention(number, layer, states, goals, middle, places)
            if self.sketch.basis is not None:
                self._reads_of_mlp(number, layer, states, middle)
        else:
            states = [run_attention(layer, x, place) for x, place in zip(states, places, strict=True)]
        goals = [last(self.teacher[old:after], x, place) for x, place in zip(goals, places, strict=True)]
        active = [mlp_activations(layer, x) for x in states]
        return self._write(layer.mlp.down, active, states, goals), goals

    def _attention(
        self, number: int, layer: Layer, states: States, goals: States, middle: States, places: Sequence[Place]
    ) -> States:
        if self.sketch.basis is not None:
            wide, dim = self.teacher[self.sketch.layers[number]], self.dim
            into = self._reading(layer.attention_norm, states, wide.attention_norm, goals)
            queries, groups = _columns(self.sketch.heads[number], wide, dim)
            for name, columns in (("q", queries), ("k", groups), ("v", groups)):
                _read(getattr(layer.attention, name), into, getattr(wide.attention, name), columns)
        mixed = [attention_mix(layer, x, place) for x, place in zip(states, places, strict=True)]
        return self._write(layer.attention.o, mixed, states, middle)

    def _reads_of_mlp(self, number: int, layer: Layer, states: States, middle: States) -> None:
        wide = self.teacher[self.sketch.layers[number]]
        into = self._reading(layer.mlp_norm, states, wide.mlp_norm, middle)
        for name in ("gate", "up"):
            _read(getattr(layer.mlp, name), into, getattr(wide.mlp, name), np.asarray(self.sketch.neurons[number]))

    def _reading(self, norm: nnx.RMSNorm, states: States, wide: nnx.RMSNorm, goals: States) -> np.ndarray:
        """[D', D] with which the student's norm is nearest to the teacher's, times what the teacher's scale does."""
        x, y = (self._flatten([part(state) for state in parts]) for part, parts in ((norm, states), (wide, goals)))
        basis, scale = self.sketch.basis, wide.scale
        assert basis is not None and scale is not None
        return solve_ridge(x, y, basis.T * np.asarray(scale[...]), self.ridge, np.ones(len(x)))

    def _write(self, matrix: nnx.Linear, features: States, base: States, goals: States) -> States:
        """Solves `matrix` so that base + features W is nearest to the goals, each token's error relative to its goal; the
        streams that it gives."""
        x, stream, goal = (self._flatten(parts) for parts in (features, base, self._in_basis(goals)))
        start = np.asarray(matrix.kernel[...])
        matrix.kernel[...] = jnp.asarray(
            solve_ridge(x, goal - stream, start, self.ridge, 1 / np.linalg.norm(goal, axis=1))
        )
        return [state + part @ matrix.kernel[...] for state, part in zip(base, features, strict=True)]

    def _in_basis(self, states: States) -> States:
        basis = self.sketch.basis
        return states if basis is None else [x @ jnp.asarray(basis) for x in states]

    def _flatten(self, parts: States) -> np.ndarray:
        """[N, ...] of all tokens that are not padding."""
        return np.concatenate([np.asarray(x)[batch.segments > 0] for x, batch in zip(parts, self.batches, strict=True)])


def solve_ridge(x: np.ndarray, y: np.ndarray, start: np.ndarray, ridge: float, weights: np.ndarray) -> np.ndarray:
    """W [M,D] that minimizes sum_n weights_n^2 |x_n W - y_n|^2 + lambda |W - start|^2, in float64 inside.

    lambda is `ridge` times the mean of the diagonal of x'x. x [N,M], y [N,D], weights [N].
    """
    scaled = x.astype(np.float64) * weights[:, None]
    error = y.astype(np.float64) * weights[:, None] - scaled @ start
    gram = scaled.T @ scaled
    gram[np.diag_indices_from(gram)] += ridge * np.trace(gram) / len(gram)
    return (start + np.linalg.solve(gram, scaled.T @ error)).astype(np.float32)


def _read(matrix: nnx.Linear, into: np.ndarray, wide: nnx.Linear, columns: np.ndarray) -> None:
    """The teacher's matrix, kept columns only, behind the map from the student's norm to the teacher's."""
    matrix.kernel[...] = jnp.asarray(into @ np.asarray(wide.kernel[...])[:, columns])


def _columns(heads: Sequence[int], wide: Layer, dim: int) -> tuple[np.ndarray, np.ndarray]:
    """Columns of the teacher's query and of its key and value matrices that the kept heads use."""
    per_group = wide.attention.heads // wide.attention.kv_heads
    groups = sorted({head // per_group for head in heads})
    spread = [np.add.outer(np.asarray(kept) * dim, np.arange(dim)).reshape(-1) for kept in (heads, groups)]
    return spread[0], spread[1]
