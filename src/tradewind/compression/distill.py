"""Distillation: all parameters of a pruned student trained to say what a teacher said.

The losses are the strategies of `training.losses`, weighted by name. Off-policy, the teacher is not here: its cache is.
On-policy (`on_policy`), the teacher scores what the student samples, in rounds. Where the student is narrower than the
teacher, losses on hidden states look through a trained projection, which starts as the least-squares one and is dropped at
the end.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import nnx

from tradewind.compression.on_policy import OnPolicyConfig, Scorer, mixed_rows
from tradewind.compression.prune import Recover
from tradewind.compression.prune_refit import solve_ridge
from tradewind.compression.teacher_cache import TeacherCache, ask_teacher
from tradewind.errors import UserError
from tradewind.model.decoder import Decoder, DecoderConfig
from tradewind.model.linear import check_precision
from tradewind.model.weights import Flat, to_flat, to_model
from tradewind.training.checkpoint import Checkpoints
from tradewind.training.data import Packed
from tradewind.training.finetune import DTYPES, check_dtype
from tradewind.training.loop import OptimizerConfig, Seen, TrainConfig, TrainResult, train
from tradewind.training.losses import combine
from tradewind.training.mesh import MeshConfig
from tradewind.training.taps import PROJECTION, Taps, run_model

PROJECTED = ("hidden", "streams")
"""Losses that hold the student's width against the teacher's."""


@dataclass(frozen=True)
class DistillConfig:
    """Section `distill` of the parameters, for one student.

    Args:
        tokens: budget of trained tokens; the cache is passed over as often as that takes.
        losses: weight by name of loss. temperature: of the losses `logits` and `reverse`.
        keep_zeros: weights that are 0 in the initial student stay 0.
        on_policy: how much of what is trained on the student samples itself.
        rows, accumulate, remat, checkpoint_every, optimizer, mesh, matmul_precision: see `TrainConfig`.
        dtype: what is computed in.
    """

    tokens: int
    rows: int
    optimizer: OptimizerConfig
    losses: Mapping[str, float]
    temperature: float = 1.0
    keep_zeros: bool = False
    on_policy: OnPolicyConfig = field(default_factory=OnPolicyConfig)
    accumulate: int = 1
    remat: bool = False
    dtype: str = "float32"
    checkpoint_every: int = 0
    matmul_precision: str = "default"
    mesh: MeshConfig = field(default_factory=MeshConfig)

    def __post_init__(self) -> None:
        check_dtype("distill", self.dtype)
        check_precision("distill", self.matmul_precision)
        combine(self.losses, self.temperature)  # refuses names that it does not know
        if self.on_policy.share and self.losses.get("cross_entropy"):
            raise UserError(
                "distill.losses: cross_entropy would take the student's own samples (on_policy) for the truth"
            )

    def train(self, seed: int) -> TrainConfig:
        shared = (self.accumulate, self.remat, self.checkpoint_every)
        return TrainConfig(self.tokens, self.rows, self.optimizer, *shared, seed, self.mesh, self.matmul_precision)


def distill(
    config: DecoderConfig,
    flat: Flat,
    cache: TeacherCache,
    choice: DistillConfig,
    seed: int,
    checkpoints: Checkpoints | None = None,
    scorer: Scorer | None = None,
    seen: Seen | None = None,
) -> tuple[Flat, TrainResult]:
    """The trained student's weights, and how training went.

    Args:
        scorer: the teacher, which on-policy rounds need. Such a run keeps no checkpoints.
        seen: see `train`.
    """
    model = to_model(config, flat, dtype=DTYPES[choice.dtype])
    taps = student_taps(config, cache, choice.losses)
    if config.hidden_size != cache.hidden.shape[-1] and any(choice.losses.get(name) for name in PROJECTED):
        setattr(model, PROJECTION, nnx.Param(fit_projection(model, cache, taps)))
    strategy = combine(choice.losses, choice.temperature)
    kept = zeros_kept if choice.keep_zeros else None
    run = partial(train, strategy=strategy, title="distill", seen=seen, taps=taps, kept=kept)
    if choice.on_policy.share:
        result = _in_rounds(run, model, cache, choice, seed, scorer)
    else:
        result = run(model, cache, config=choice.train(seed), checkpoints=checkpoints)
    if hasattr(model, PROJECTION):
        delattr(model, PROJECTION)
    return to_flat(model), result


def student_taps(config: DecoderConfig, cache: TeacherCache, losses: Mapping[str, float]) -> Taps:
    """What of the student is held against the cache: layers at the same relative depth, as many relation heads."""
    depth = [round(layer * config.num_layers / max(cache.layers, 1)) for layer in cache.taps.streams]
    streams = tuple(depth) if losses.get("streams") else ()
    return Taps(streams, cache.taps.relation_heads if losses.get("relations") else 0)


def fit_projection(model: Decoder, cache: TeacherCache, taps: Taps, rows: int = 8) -> np.ndarray:
    """[n + 1, D, D of the teacher]: what brings the untrained student's streams, and its final hidden states, nearest to
    the teacher's (ridge regression on the first rows of the cache)."""
    batch, targets = cache.take(np.arange(min(rows, len(cache.packed))))
    outputs, used = run_model(model, batch, taps=taps), batch.weights > 0
    pairs = [(outputs.hidden, targets.hidden)]
    if outputs.streams is not None and targets.streams is not None:
        pairs = [(outputs.streams[:, :, i], targets.streams[:, :, i]) for i in range(len(taps.streams))] + pairs
    return np.stack([_least_squares(np.asarray(x)[used], np.asarray(y)[used]) for x, y in pairs])


def _in_rounds(
    run: Callable[..., TrainResult],
    model: Decoder,
    cache: TeacherCache,
    choice: DistillConfig,
    seed: int,
    scorer: Scorer | None,
) -> TrainResult:
    """Rounds of sampling and training, each with an optimizer of its own (so the rate warms up and decays in each)."""
    if scorer is None:
        raise ValueError("on-policy distillation needs the teacher itself")
    rounds, timed = choice.on_policy.rounds, np.zeros(2)
    log: list[dict[str, Any]] = []
    for number in range(rounds):
        tokens = choice.tokens // rounds
        rows = mixed_rows(model, cache, scorer, choice.on_policy, tokens, [seed, number])
        result = run(model, rows, config=replace(choice, tokens=tokens, checkpoint_every=0).train(seed))
        log += [entry | {"step": len(log) + entry["step"], "round": number + 1} for entry in result.log]
        timed += result.timed_tokens, result.timed_seconds
    return TrainResult(log, int(timed[0]), float(timed[1]))


def _least_squares(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    unit = (x / np.linalg.norm(x, axis=-1, keepdims=True)).astype(np.float32)
    return solve_ridge(unit, y.astype(np.float32), np.zeros((x.shape[1], y.shape[1])), 0.1, np.ones(len(x)))


def recovery(scorer: Scorer, packed: Packed, choice: DistillConfig, seed: int) -> Recover:
    """What a schedule of pruning spends its tokens of recovery with: distillation from one cache on these rows."""
    caches: list[TeacherCache] = []

    def recover(config: DecoderConfig, flat: Flat, tokens: int) -> Flat:
        if not caches:
            caches.append(ask_teacher(scorer.teacher, scorer.teacher_ids, packed, scorer.k, scorer.rows))
        return distill(config, flat, caches[0], replace(choice, tokens=tokens, checkpoint_every=0), seed)[0]

    return recover


def zeros_kept(weights: nnx.State) -> nnx.State:
    """0 where a matrix of a decoder has a 0, else 1; of other weights one 1."""
    out = []
    for path, variable in nnx.to_flat_state(weights):
        value = variable[...]
        matrix = path[-1] == "kernel"
        out.append((path, variable.replace((value != 0).astype(value.dtype) if matrix else jnp.ones((), value.dtype))))
    return nnx.from_flat_state(out)
