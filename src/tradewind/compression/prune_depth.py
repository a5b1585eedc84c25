"""Depth: the layers of least importance are dropped; the first and the last always stay."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from tradewind.compression.layerwise import answer_loss, enter, last, through
from tradewind.compression.prune_sketch import Calibration, Sketch, check_amount
from tradewind.errors import UserError
from tradewind.model.decoder import Decoder
from tradewind.model.weights import Flat
from tradewind.training.data import Batch


def drop_by_influence(sketch: Sketch, calibration: Calibration, count: float) -> Sketch:
    """`count` layers stay: those of most block influence."""
    return _drop(sketch, calibration.survey.influence, "layers", count)


def drop_by_loss(sketch: Sketch, calibration: Calibration, count: float) -> Sketch:
    """`count` layers stay: those without which the loss rises most."""
    return _drop(sketch, loss_increase(calibration.teacher, calibration.batches), "layers_by_loss", count)


def loss_increase(model: Decoder, batches: Sequence[Batch]) -> np.ndarray:
    """Per layer how much the mean loss of answer tokens (nats) rises when that layer alone is left out."""
    layers, totals, count = list(model.layers), np.zeros(len(model.layers)), 0.0
    for batch in batches:
        x, place = enter(model, batch)
        states = [x, *through(layers, x, place)]
        whole, targets = answer_loss(model, states[-1], batch)
        for number in range(len(layers)):
            skipped = last(layers[number + 1 :], states[number], place)
            totals[number] += answer_loss(model, skipped, batch)[0] - whole
        count += targets
    return totals / max(count, 1.0)


def keep_layers(importance: np.ndarray, count: int) -> tuple[int, ...]:
    """The `count` most important layers in order, the first and the last always among them."""
    total = len(importance)
    inner = sorted(range(1, total - 1), key=lambda i: (-importance[i], i))[: count - 2]
    return tuple(sorted({0, *inner, total - 1}))


def _drop(sketch: Sketch, importance: np.ndarray, name: str, count: float) -> Sketch:
    if len(sketch.layers) != len(importance):
        raise UserError("prune: layers are dropped twice in one entry of the schedule")
    kept = keep_layers(importance, check_amount(name, count, len(importance), min(2, len(importance))))
    flat = {name: array for name, array in sketch.flat.items() if ".layers." not in name}
    for new, old in enumerate(kept):
        flat |= _renumbered(sketch.flat, old, new)
    heads, neurons = (tuple(per_layer[old] for old in kept) for per_layer in (sketch.heads, sketch.neurons))
    config = replace(sketch.config, num_layers=len(kept))
    return replace(sketch, config=config, flat=flat, layers=kept, heads=heads, neurons=neurons)


def _renumbered(flat: Flat, old: int, new: int) -> Flat:
    source, target = f"model.layers.{old}.", f"model.layers.{new}."
    return {name.replace(source, target, 1): array for name, array in flat.items() if name.startswith(source)}
