"""What pruning strategies share: the student in the making, what it is measured on, and the signature of a strategy.

A strategy is `strategy(sketch, calibration, amount) -> sketch`. It ranks by what the unpruned teacher does on the
calibration rows; refitting comes after all of them.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TypeAlias

import numpy as np

from tradewind.compression.prune_survey import Survey, look
from tradewind.compression.quantize import BLOCK
from tradewind.errors import UserError
from tradewind.model.decoder import Decoder, DecoderConfig
from tradewind.model.weights import Flat
from tradewind.training.data import Batch


@dataclass(frozen=True)
class Sketch:
    """A student in the making: its shape and weights, and what of the teacher they are.

    layers: the teacher's layer of each layer. heads, neurons: per layer the teacher's query heads and neurons that are
    kept, in order.
    basis: [D, D'] with orthonormal columns: the student's residual stream is the teacher's times it. None: the same.
    """

    config: DecoderConfig
    flat: Flat
    layers: tuple[int, ...]
    heads: tuple[tuple[int, ...], ...]
    neurons: tuple[tuple[int, ...], ...]
    basis: np.ndarray | None = None


@dataclass
class Calibration:
    """The unpruned model, the rows that it is watched on, and what was seen there (looked up once, when first asked)."""

    teacher: Decoder
    batches: Sequence[Batch]

    @cached_property
    def survey(self) -> Survey:
        return look(self.teacher, self.batches)


Strategy: TypeAlias = Callable[[Sketch, Calibration, float], Sketch]


def whole(config: DecoderConfig, flat: Flat) -> Sketch:
    """The teacher itself as a sketch."""
    layers, heads, neurons = (tuple(range(n)) for n in (config.num_layers, config.num_heads, config.mlp_size))
    return Sketch(config, dict(flat), layers, (heads,) * len(layers), (neurons,) * len(layers))


def check_amount(name: str, amount: float, most: int, least: int = 1) -> int:
    """`amount` as a whole number from `least` to `most`, else a UserError that names the parameter."""
    if amount != int(amount) or not least <= amount <= most:
        raise UserError(f"prune.{name}: {amount} asked for, the teacher has {most} (choices: {least} to {most})")
    return int(amount)


def check_width(name: str, width: int, what: str = "") -> int:
    """A width that quantization can divide into blocks, else a UserError that names the parameter."""
    if width % BLOCK:
        raise UserError(f"prune.{name}: {what or 'the width'} {width} is no multiple of {BLOCK}, as quantization needs")
    return width
