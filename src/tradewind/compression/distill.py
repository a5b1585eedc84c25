"""Distillation: all parameters of a pruned student trained to say what a cached teacher said.

The losses are the strategies of `training.losses` (logits, hidden, cross_entropy), weighted by name. The teacher itself
is not here: its cache is. Not covered: on-policy distillation, attention matching.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from tradewind.compression.teacher_cache import TeacherCache
from tradewind.model.decoder import DecoderConfig
from tradewind.model.weights import Flat, to_flat, to_model
from tradewind.training.checkpoint import Checkpoints
from tradewind.training.finetune import DTYPES, check_dtype
from tradewind.training.loop import OptimizerConfig, Seen, TrainConfig, TrainResult, train
from tradewind.training.losses import combine
from tradewind.training.mesh import MeshConfig


@dataclass(frozen=True)
class DistillConfig:
    """Section `distill` of the parameters.

    Args:
        tokens: budget of trained tokens; the cache is passed over as often as that takes.
        losses: weight by name of loss. temperature: of the logits loss.
        rows, accumulate, remat, checkpoint_every, optimizer, mesh: see `TrainConfig`. dtype: what is computed in.
    """

    tokens: int
    rows: int
    optimizer: OptimizerConfig
    losses: Mapping[str, float]
    temperature: float = 1.0
    accumulate: int = 1
    remat: bool = False
    dtype: str = "float32"
    checkpoint_every: int = 0
    mesh: MeshConfig = field(default_factory=MeshConfig)

    def __post_init__(self) -> None:
        check_dtype("distill", self.dtype)

    def train(self, seed: int) -> TrainConfig:
        shared = (self.accumulate, self.remat, self.checkpoint_every)
        return TrainConfig(self.tokens, self.rows, self.optimizer, *shared, seed=seed, mesh=self.mesh)


def distill(
    config: DecoderConfig,
    flat: Flat,
    cache: TeacherCache,
    choice: DistillConfig,
    seed: int,
    checkpoints: Checkpoints | None = None,
    seen: Seen | None = None,
) -> tuple[Flat, TrainResult]:
    """The trained student's weights, and how training went. seen: see `train`."""
    model = to_model(config, flat, dtype=DTYPES[choice.dtype])
    strategy = combine(choice.losses, choice.temperature)
    result = train(model, cache, strategy, choice.train(seed), checkpoints=checkpoints, title="distill", seen=seen)
    return to_flat(model), result
