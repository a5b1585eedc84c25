"""What a teacher does on calibration rows, gathered for all strategies of pruning in one pass over its layers.

Means are over tokens that are not padding. L layers, M neurons, H query heads, D hidden size.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import jax
import numpy as np
from flax import nnx

from tradewind.compression.layerwise import Place, attention_mix, enter, mlp_activations
from tradewind.model.decoder import Decoder, Layer
from tradewind.training.data import Batch


@dataclass(frozen=True)
class Survey:
    """influence [L]: 1 - cos(input, output) of each layer (ShortGPT, arXiv:2403.03853).

    neurons [L, M]: |activation| times the length of the neuron's row in `down`. heads [L, H]: length of what a query
    head adds to the residual stream. moments [2 L + 1, D, D]: second moments of what enters each norm (attention's and
    the MLP's of every layer in turn, then the final norm's), each token scaled to length 1, so the trace of each is 1.
    """

    influence: np.ndarray
    neurons: np.ndarray
    heads: np.ndarray
    moments: np.ndarray


class _Step(NamedTuple):
    """One layer on one batch, padding left out: what enters the layer, `o`, the MLP's norm, `down`, and what comes out."""

    before: np.ndarray
    mixed: np.ndarray
    middle: np.ndarray
    active: np.ndarray
    after: np.ndarray


def look(teacher: Decoder, batches: Sequence[Batch]) -> Survey:
    """One pass of the teacher over the batches."""
    layers, config = len(teacher.layers), teacher.config
    sums = Survey(np.zeros(layers), np.zeros((layers, config.mlp_size)), np.zeros((layers, config.num_heads)),
                  np.zeros((2 * layers + 1, config.hidden_size, config.hidden_size)))  # fmt: skip
    count = 0
    for batch in batches:
        for number, step in enumerate(_steps(teacher, batch)):
            _add(sums, number, step, teacher.layers[number], config.num_heads)
        sums.moments[-1] += _moment(step.after)
        count += len(step.after)
    return Survey(*(part / max(count, 1) for part in (sums.influence, sums.neurons, sums.heads, sums.moments)))


def _steps(teacher: Decoder, batch: Batch) -> Iterator[_Step]:
    x, place = enter(teacher, batch)
    for layer in teacher.layers:
        states = (x, *_inside(layer, x, place))
        yield _Step(*(np.asarray(state)[batch.segments > 0] for state in states))
        x = states[-1]


@nnx.jit
def _inside(layer: Layer, x: jax.Array, place: Place) -> tuple[jax.Array, ...]:
    mixed = attention_mix(layer, x, place)
    middle = x + layer.attention.o(mixed)
    active = mlp_activations(layer, middle)
    return mixed, middle, active, middle + layer.mlp.down(active)


def _add(sums: Survey, number: int, step: _Step, layer: Layer, heads: int) -> None:
    o, down = np.asarray(layer.attention.o.kernel[...]), np.asarray(layer.mlp.down.kernel[...])
    lengths = np.linalg.norm(step.before, axis=1) * np.linalg.norm(step.after, axis=1)
    cosine = (step.before * step.after).sum(axis=1) / np.maximum(lengths, 1e-12)
    sums.influence[number] += (1.0 - cosine).sum()
    sums.neurons[number] += np.abs(step.active).sum(axis=0) * np.linalg.norm(down, axis=1)
    for head, rows in enumerate(np.split(np.arange(len(o)), heads)):
        sums.heads[number, head] += np.linalg.norm(step.mixed[:, rows] @ o[rows], axis=1).sum()
    sums.moments[2 * number] += _moment(step.before)
    sums.moments[2 * number + 1] += _moment(step.middle)


def _moment(x: np.ndarray) -> np.ndarray:
    unit = x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12)
    return unit.T @ unit
