"""Pruning: a teacher cut down by strategies and refitted, in one go or little by little with recovery in between.

1. An entry of the schedule names strategies with what each leaves (`layers: 26`, `mlp_size: 576`); they are applied.
2. Refit: the matrices that write into the residual stream are solved so that it meets the teacher's (`prune_refit`).
3. Weights are zeroed where the entry asks for sparsity, which refitting would undo.
4. Recovery: `tokens` of distillation, which the caller brings; then the next entry, whose teacher is what came out.

The shape that comes out is an ordinary Llama checkpoint. Not covered: one width per layer; sparsity stays only as long as
nothing trains the zeros.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from tradewind.compression.prune_depth import drop_by_influence, drop_by_loss
from tradewind.compression.prune_heads import drop_kv_groups, drop_query_heads
from tradewind.compression.prune_hidden import keep_channels, keep_components
from tradewind.compression.prune_magnitude import zero_smallest
from tradewind.compression.prune_mlp import drop_neurons
from tradewind.compression.prune_refit import refit
from tradewind.compression.prune_sketch import Calibration, Sketch, Strategy, check_width, whole
from tradewind.errors import UserError
from tradewind.model.decoder import DecoderConfig
from tradewind.model.weights import Flat, to_model
from tradewind.training.data import Batch

STRATEGIES: Mapping[str, Strategy] = {
    "layers": drop_by_influence,
    "layers_by_loss": drop_by_loss,
    "mlp_size": drop_neurons,
    "kv_heads": drop_kv_groups,
    "heads": drop_query_heads,
    "hidden_size": keep_components,
    "hidden_channels": keep_channels,
    "sparsity": zero_smallest,
}
"""Name in an entry of the schedule -> strategy, in the order in which those of one entry are applied."""

AFTER_REFIT = ("sparsity",)
WIDTHS = ("mlp_size", "hidden_size", "hidden_channels")
"""Of the strategies, those whose amount is a width of matrices."""
RECOVERY = "tokens"

Recover = Callable[[DecoderConfig, Flat, int], Flat]
"""Weights after so many tokens of distillation from the teacher."""


@dataclass(frozen=True)
class PruneConfig:
    """Section `prune` of the parameters, for one student.

    schedule: entries of amounts by name of strategy, and `tokens` of recovery (none: 0). vocabulary: tokens at most
    (0: all). ridge: strength of the pull towards the teacher's own weights in the refit, relative to the activations'
    size; 0 leaves the refit out.
    """

    schedule: Sequence[Mapping[str, float]] = ()
    vocabulary: int = 0
    ridge: float = 0.01

    def __post_init__(self) -> None:
        known = (*STRATEGIES, RECOVERY)
        for entry in self.schedule:
            if unknown := sorted(set(entry) - set(known)):
                raise UserError(f"prune.schedule: unknown strategy {unknown[0]!r} (choices: {', '.join(known)})")
            for name, amount in entry.items():
                if isinstance(amount, bool) or not isinstance(amount, (int, float)):
                    raise UserError(f"prune.schedule: {name}: {amount!r} is not a number")
                if name in WIDTHS:
                    check_width(name, int(amount))


@dataclass(frozen=True)
class Pruned:
    """The student's shape and weights, and the teacher's number of each of its layers."""

    config: DecoderConfig
    flat: Flat
    layers: tuple[int, ...]


def prune(
    config: DecoderConfig, flat: Flat, batches: Sequence[Batch], choice: PruneConfig, recover: Recover | None = None
) -> Pruned:
    """The teacher cut down by the schedule; the vocabulary is cut before (see `prune_vocabulary`).

    Args:
        batches: calibration rows, some thousands of tokens (not fewer than a matrix has inputs).
        recover: what spends an entry's `tokens`; needed where an entry has some.

    Raises:
        UserError: a shape that the teacher does not have, or that quantization could not divide into blocks.
    """
    result = Pruned(config, dict(flat), tuple(range(config.num_layers)))
    for entry in choice.schedule:
        sketch = cut(result.config, result.flat, batches, entry, choice.ridge)
        weights, tokens = sketch.flat, int(entry.get(RECOVERY, 0))
        if tokens:
            if recover is None:
                raise UserError(
                    f"prune.schedule: {tokens} tokens of recovery, but no section `recovery` that spends them"
                )
            weights = recover(sketch.config, weights, tokens)
        result = Pruned(sketch.config, weights, tuple(result.layers[i] for i in sketch.layers))
    return result


def cut(
    config: DecoderConfig, flat: Flat, batches: Sequence[Batch], amounts: Mapping[str, float], ridge: float
) -> Sketch:
    """One entry of a schedule, without recovery. An amount of 0 leaves its strategy out."""
    calibration, sketch = Calibration(to_model(config, flat), batches), whole(config, flat)
    chosen = {name: amount for name, amount in amounts.items() if amount and name != RECOVERY}
    for name in (name for name in STRATEGIES if name in chosen and name not in AFTER_REFIT):
        sketch = STRATEGIES[name](sketch, calibration, chosen[name])
    if ridge and sketch.config != config:
        sketch = refit(sketch, calibration, ridge)
    for name in (name for name in chosen if name in AFTER_REFIT):
        sketch = STRATEGIES[name](sketch, calibration, chosen[name])
    return sketch
