"""The training loop: trains the chosen parameters of a decoder with one loss strategy until a budget of tokens is spent.

The life of a run: 1. the number of steps follows from the token budget and the rows of each step, never from a clock;
2. the state is placed on the mesh; 3. the newest checkpoint is restored, if there is one; 4. each step sums gradients
over `accumulate` micro-batches, each divided by the targets of all, clips, and updates; 5. every `checkpoint_every` steps
the state is saved; 6. the trained parameters are put back into the model. It does not know stages, files' names or
tracking.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from tqdm import tqdm

from tradewind.errors import UserError
from tradewind.model.decoder import Decoder
from tradewind.model.linear import precision, rounded
from tradewind.training.checkpoint import Checkpoints
from tradewind.training.data import Batch, Packed, Schedule
from tradewind.training.losses import Strategy, Targets
from tradewind.training.mesh import MeshConfig, make_mesh, place_like, place_rows, place_weights
from tradewind.training.taps import Taps, run_model


@dataclass(frozen=True)
class OptimizerConfig:
    """AdamW with linear warm-up over `warmup` of all steps and cosine decay to `final` of the peak learning rate.

    Weight decay is not applied to norms and the embedding. `clip`: largest global gradient norm.
    """

    learning_rate: float
    warmup: float = 0.1
    final: float = 0.1
    weight_decay: float = 0.0
    clip: float = 1.0
    b1: float = 0.9
    b2: float = 0.95


@dataclass(frozen=True)
class TrainConfig:
    """How a run goes. `tokens`: trained tokens, prompt and answer alike, padding not counted.

    A step takes `rows` rows `accumulate` times. `checkpoint_every`: steps between checkpoints, 0 for none.
    `matmul_precision`: see `linear.precision`. With bfloat16, matrices that are not trained are rounded once.
    """

    tokens: int
    rows: int
    optimizer: OptimizerConfig
    accumulate: int = 1
    remat: bool = False
    checkpoint_every: int = 0
    seed: int = 0
    mesh: MeshConfig = field(default_factory=MeshConfig)
    matmul_precision: str = "default"


class Examples(Protocol):
    """Rows to train on."""

    @property
    def packed(self) -> Packed: ...

    def take(self, index: np.ndarray) -> tuple[Batch, Targets]:
        """The rows of these indices, and what their outputs are held against."""
        ...


@dataclass(frozen=True)
class PackedExamples:
    """Packed rows whose targets are their own tokens."""

    packed: Packed

    def take(self, index: np.ndarray) -> tuple[Batch, Targets]:
        batch = self.packed.take(index)
        return batch, Targets(batch.targets, batch.weights)


class TrainResult(NamedTuple):
    """`log`: per step its loss, metrics, learning rate and tokens, deterministic. The rest is this process's: tokens
    trained and seconds spent after the first step, which compiles."""

    log: list[dict[str, Any]]
    timed_tokens: int
    timed_seconds: float

    @property
    def tokens_per_s(self) -> float:
        return self.timed_tokens / self.timed_seconds if self.timed_seconds else 0.0


Seen = Callable[[nnx.State], nnx.State]
"""New arrays from weights: a step gives the old ones away."""
State = tuple[nnx.State, optax.OptState]
Step = Callable[
    [nnx.State, optax.OptState, nnx.State, tuple[Batch, Targets], nnx.State | None, nnx.State | None],
    tuple[nnx.State, optax.OptState, dict[str, jax.Array]],
]


def train(
    model: Decoder,
    examples: Examples,
    strategy: Strategy,
    config: TrainConfig,
    *,
    trainable: type[nnx.Variable[Any]] = nnx.Param,
    checkpoints: Checkpoints | None = None,
    title: str = "train",
    seen: Seen | None = None,
    taps: Taps | None = None,
    kept: Seen | None = None,
) -> TrainResult:
    """Train the variables of type `trainable` in `model`, in place.

    seen: what the model computes with in place of its trained weights (their rounded values, say); None: themselves.
        The gradient there is applied to the weights as it is.
    taps: what the strategy looks at beside hidden states and logits.
    kept: from the weights at the start, what each gradient is multiplied with: 0 where a weight is to stay as it is.
    """
    schedule, steps, row_tokens = plan(examples.packed, config)
    mesh = make_mesh(config.mesh)
    graph, weights, frozen = nnx.split(model, trainable, ...)  # type: ignore[misc]
    weights, frozen = place_weights(weights, mesh), place_weights(frozen, mesh)
    transform = optimizer(config.optimizer, steps)
    moments = place_like(transform.init(weights), weights, mesh)
    step = build_step(graph, transform, strategy, config.remat, taps)
    mask = kept(weights) if kept else None
    done, (weights, moments), log = _resume(checkpoints, (weights, moments))
    clock = _Clock()
    bar = tqdm(total=steps, initial=done, desc=title, unit="step", disable=None)
    with precision(config.matmul_precision), bar:
        frozen = _rounded_kernels(frozen)
        for number in range(done, steps):
            index = schedule[number]
            feed = place_rows(_stack(examples, index, config.accumulate), mesh)
            weights, moments, metrics = step(weights, moments, frozen, feed, seen(weights) if seen else None, mask)
            entry = {name: float(value) for name, value in metrics.items()}
            tokens = int(row_tokens[index].sum())
            log.append({"step": number + 1, "tokens": tokens, **{k: round(v, 6) for k, v in entry.items()}})
            clock.tick(tokens)
            bar.set_postfix(loss=f"{entry['loss']:.3f}", tokens_per_s=f"{clock.rate():.0f}")
            bar.update()
            if checkpoints and config.checkpoint_every and (number + 1) % config.checkpoint_every == 0:
                checkpoints.save(number + 1, (weights, moments), log)
                clock.pause()
    nnx.update(model, weights)
    return TrainResult(log, clock.tokens, clock.seconds)


def plan(packed: Packed, config: TrainConfig) -> tuple[Schedule, int, np.ndarray]:
    """The order of rows, the number of steps that spends the token budget, and the tokens of each row."""
    if config.rows % (config.mesh.data * config.mesh.fsdp):
        raise UserError(
            f"rows {config.rows} is no multiple of the mesh's data x fsdp {config.mesh.data * config.mesh.fsdp}"
        )
    if min(config.rows, config.accumulate, config.tokens) < 1:
        raise UserError("rows, accumulate and tokens must be at least 1")
    row_tokens = (packed.rows.segments > 0).sum(axis=1)
    schedule = Schedule(len(packed), config.rows * config.accumulate, config.seed)
    return schedule, schedule.steps_for(row_tokens, config.tokens), row_tokens


def optimizer(config: OptimizerConfig, steps: int) -> optax.GradientTransformation:
    """Clipping, then AdamW on the schedule of `OptimizerConfig`."""
    warm = min(round(config.warmup * steps), steps - 1)
    peak = config.learning_rate
    rate = optax.warmup_cosine_decay_schedule(peak / (warm + 1), peak, warm, max(steps, 1), config.final * peak)
    return optax.chain(
        optax.clip_by_global_norm(config.clip),
        optax.adamw(rate, b1=config.b1, b2=config.b2, weight_decay=config.weight_decay, mask=_decayed),
    )


def build_step(
    graph: Any,
    transform: optax.GradientTransformation,
    strategy: Strategy,
    remat: bool,
    taps: Taps | None = None,
) -> Step:
    """The compiled step; weights and moments are donated. Gradients reach only the trained weights, so the compiler
    drops the backward pass below the lowest of them and every gradient of frozen weights."""

    def part_of_loss(
        weights: nnx.State, frozen: nnx.State, feed: tuple[Batch, Targets], all_targets: jax.Array
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        batch, targets = feed
        outputs = run_model(nnx.merge(graph, weights, frozen), batch, remat, taps)
        loss, metrics = strategy(outputs, targets)
        share = targets.weights.sum() / all_targets
        return loss * share, {name: value * share for name, value in ({"loss": loss} | metrics).items()}

    gradient = jax.grad(part_of_loss, has_aux=True)

    def step(
        weights: nnx.State,
        moments: optax.OptState,
        frozen: nnx.State,
        feed: tuple[Batch, Targets],
        seen: nnx.State | None = None,
        mask: nnx.State | None = None,
    ) -> tuple[nnx.State, optax.OptState, dict[str, jax.Array]]:
        all_targets = jnp.maximum(feed[1].weights.sum(), 1.0)
        grads, metrics = _accumulate(
            lambda micro: gradient(weights if seen is None else seen, frozen, micro, all_targets), feed
        )
        grads = grads if mask is None else jax.tree.map(jnp.multiply, grads, mask)
        updates, moments = transform.update(grads, moments, weights)
        metrics["gradient_norm"] = optax.tree.norm(grads)
        return optax.apply_updates(weights, updates), moments, metrics

    return jax.jit(step, donate_argnums=(0, 1))


def _accumulate(gradient: Callable[[Any], Any], feed: Any) -> Any:
    """The sum of `gradient` over the leading axis of `feed`."""
    micro = [jax.tree.map(lambda x, i=i: x[i], feed) for i in range(jax.tree.leaves(feed)[0].shape[0])]
    if len(micro) == 1:
        return gradient(micro[0])
    shapes = jax.eval_shape(gradient, micro[0])
    zeros = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)
    return jax.lax.scan(lambda total, m: (jax.tree.map(jnp.add, total, gradient(m)), None), zeros, feed)[0]


def _rounded_kernels(weights: nnx.State) -> nnx.State:
    """Matrices of linear layers as their products see them."""
    flat = nnx.to_flat_state(weights)
    return nnx.from_flat_state(
        [(path, one.replace(rounded(one[...])) if path[-1] == "kernel" else one) for path, one in flat]
    )


def _stack(examples: Examples, index: np.ndarray, accumulate: int) -> tuple[Batch, Targets]:
    """Micro-batches stacked on a leading axis: arrays [accumulate, B, ...]."""
    parts = [examples.take(part) for part in np.split(index, accumulate)]
    return jax.tree.map(lambda *arrays: np.stack(arrays), *parts)


def _resume(checkpoints: Checkpoints | None, fresh: State) -> tuple[int, State, list[dict[str, Any]]]:
    restored = checkpoints.restore(fresh) if checkpoints else None
    if restored is None:
        return 0, fresh, []
    print(f"resumed after step {restored.step}")
    return restored.step, restored.state, restored.log


def _decayed(weights: nnx.State) -> Any:
    def decays(path: tuple[object, ...], leaf: jax.Array) -> bool:
        return leaf.ndim > 1 and "embedding" not in jax.tree_util.keystr(path)

    return jax.tree_util.tree_map_with_path(decays, weights)


class _Clock:
    """Tokens and seconds of steps, the first step (compilation) and pauses left out."""

    def __init__(self) -> None:
        self.tokens, self.seconds = 0, 0.0
        self._last: float | None = None

    def tick(self, tokens: int) -> None:
        now = time.perf_counter()
        if self._last is not None:
            self.tokens, self.seconds = self.tokens + tokens, self.seconds + now - self._last
        self._last = now

    def pause(self) -> None:
        self._last = time.perf_counter()

    def rate(self) -> float:
        return self.tokens / self.seconds if self.seconds else 0.0
