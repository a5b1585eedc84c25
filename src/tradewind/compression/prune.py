"""The initial student: a teacher with a smaller vocabulary, fewer layers and narrower MLPs, refitted before training.

1. Vocabulary: the tokens of the domain's texts, most frequent first, then the earliest merges, up to a size.
2. Layers: those of least importance are dropped; the first and the last always stay.
3. MLP width: in each layer the neurons of least mean contribution are dropped (as in Minitron, arXiv:2407.14679).
4. Refit: layer by layer, `down` is solved by ridge regression so that the student's residual stream meets the
   teacher's at the next kept layer. It needs no gradients, and gives distillation a start that has not collapsed.

The shape that comes out is an ordinary Llama checkpoint. Not covered: attention heads, hidden size, one width per layer.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import jax
import jax.numpy as jnp
import numpy as np

from tradewind.compression.layerwise import answer_loss, enter, last, mlp_activations, run_attention, through
from tradewind.errors import UserError
from tradewind.model.decoder import Decoder, DecoderConfig
from tradewind.model.tokenizer import Tokenizer
from tradewind.model.vocabulary import frequent, trim
from tradewind.model.weights import Flat, to_model
from tradewind.training.data import Batch

EMBEDDING = "model.embed_tokens.weight"


@dataclass(frozen=True)
class PruneConfig:
    """Shape of the student: `vocabulary` tokens at most, `layers` kept, `mlp_size` neurons (0: all of each).

    `ridge`: strength of the pull towards the teacher's own weights in the refit, relative to the activations' size;
    0 leaves the refit out. `importance`: which of `IMPORTANCE` ranks the layers.
    """

    vocabulary: int = 0
    layers: int = 0
    mlp_size: int = 0
    importance: str = "block_influence"
    ridge: float = 0.01


@dataclass(frozen=True)
class Pruned:
    """The student's shape and weights, and what was kept: layer numbers and, per kept layer, neuron numbers [M]."""

    config: DecoderConfig
    flat: Flat
    layers: tuple[int, ...]
    neurons: tuple[np.ndarray, ...]


def block_influence(model: Decoder, batches: Sequence[Batch]) -> np.ndarray:
    """Per layer the mean of 1 - cos(input, output) over tokens that are not padding (ShortGPT, arXiv:2403.03853)."""
    scores, count = np.zeros(len(model.layers)), 0
    for batch in batches:
        before, place = enter(model, batch)
        keep = batch.segments > 0
        for number, after in enumerate(through(model.layers, before, place)):
            scores[number] += float((_cosine_distance(before, after) * keep).sum())
            before = after
        count += int(keep.sum())
    return scores / max(count, 1)


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


Importance = Callable[[Decoder, Sequence[Batch]], np.ndarray]
IMPORTANCE: Mapping[str, Importance] = {"block_influence": block_influence, "loss_increase": loss_increase}


def keep_layers(importance: np.ndarray, count: int) -> tuple[int, ...]:
    """The `count` most important layers in order, the first and the last always among them (0: all)."""
    total = len(importance)
    if count == 0 or count == total:
        return tuple(range(total))
    if not 2 <= count < total:
        raise UserError(
            f"prune.layers: {count} asked for, the teacher has {total} (choices: 2 to {total}, or 0 for all)"
        )
    inner = sorted(range(1, total - 1), key=lambda i: (-importance[i], i))[: count - 2]
    return tuple(sorted([0, *inner, total - 1]))


def trim_vocabulary(tokenizer: Tokenizer, texts: Iterable[Sequence[int]], size: int) -> tuple[Tokenizer, list[int]]:
    """The tokenizer with at most `size` tokens (0: all) that cover these texts best, and each one's old id.

    Args:
        texts: token ids of the domain's texts.
    """
    total = tokenizer.vocab_size
    if size == 0 or size >= total:
        return trim(tokenizer, range(total))
    used = Counter(token for text in texts for token in text)
    ranked = {token: used[token] * total + total - token for token in range(total)}  # by use, then the earliest merges
    return trim(tokenizer, frequent(tokenizer, ranked, size))


def prune(config: DecoderConfig, flat: Flat, batches: Sequence[Batch], choice: PruneConfig) -> Pruned:
    """Layers and neurons cut and refitted; the vocabulary stays (see `slice_vocabulary`).

    Args:
        batches: calibration rows on the teacher's tokenization, some thousands of tokens (not fewer than `mlp_size`).

    Raises:
        UserError: an unknown importance, or a shape that the teacher does not have.
    """
    if choice.importance not in IMPORTANCE:
        raise UserError(f"prune.importance: unknown {choice.importance!r} (choices: {', '.join(IMPORTANCE)})")
    if not 0 <= choice.mlp_size <= config.mlp_size:
        raise UserError(f"prune.mlp_size: {choice.mlp_size} asked for, the teacher has {config.mlp_size}")
    teacher = to_model(config, flat)
    dropping = choice.layers not in (0, config.num_layers)
    scores = IMPORTANCE[choice.importance](teacher, batches) if dropping else np.zeros(config.num_layers)
    layers = keep_layers(scores, choice.layers)
    width = choice.mlp_size or config.mlp_size
    student = replace(config, num_layers=len(layers), mlp_size=width)
    if not dropping and width == config.mlp_size:
        return Pruned(student, dict(flat), layers, (np.arange(width),) * len(layers))
    return _cut(teacher, student, flat, layers, batches, choice.ridge)


def slice_vocabulary(pruned: Pruned, teacher_ids: Sequence[int], tokenizer: Tokenizer) -> tuple[DecoderConfig, Flat]:
    """The student's shape and weights with only these rows of the embedding."""
    config = replace(
        pruned.config,
        vocab_size=len(teacher_ids),
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    return config, pruned.flat | {EMBEDDING: pruned.flat[EMBEDDING][np.asarray(teacher_ids)]}


def _cut(
    teacher: Decoder, config: DecoderConfig, flat: Flat, layers: tuple[int, ...], batches: Sequence[Batch], ridge: float
) -> Pruned:
    """Layers in order, each cut to its most contributing neurons and refitted on what the student feeds it."""
    streams = [_streams(teacher, batch, {*layers[1:], len(teacher.layers)}) for batch in batches]
    entered = [enter(teacher, batch) for batch in batches]
    states, places = [x for x, _ in entered], [place for _, place in entered]
    student = {name: array for name, array in flat.items() if ".layers." not in name}
    neurons = []
    for new, (old, goal) in enumerate(zip(layers, [*layers[1:], len(teacher.layers)], strict=True)):
        layer = teacher.layers[old]
        middle = [run_attention(layer, x, place) for x, place in zip(states, places, strict=True)]
        active = [mlp_activations(layer, x) for x in middle]
        targets = [stream[goal] for stream in streams]
        features, base, target = (_flatten(parts, batches) for parts in (active, middle, targets))
        down = np.asarray(layer.mlp.down.kernel[...])
        keep = _neurons(features, down, config.mlp_size)
        kernel = down[keep]
        if ridge:
            kernel = solve_ridge(features[:, keep], target - base, kernel, ridge, 1.0 / np.linalg.norm(target, axis=1))
        states = [x + a[..., keep] @ jnp.asarray(kernel) for x, a in zip(middle, active, strict=True)]
        student |= _layer_tensors(flat, old, new, keep, kernel)
        neurons.append(keep)
    return Pruned(config, student, layers, tuple(neurons))


def solve_ridge(x: np.ndarray, y: np.ndarray, start: np.ndarray, ridge: float, weights: np.ndarray) -> np.ndarray:
    """W [M,D] that minimizes sum_n weights_n^2 |x_n W - y_n|^2 + lambda |W - start|^2, in float64 inside.

    lambda is `ridge` times the mean of the diagonal of x'x. x [N,M], y [N,D], weights [N].
    """
    scaled = x.astype(np.float64) * weights[:, None]
    error = y.astype(np.float64) * weights[:, None] - scaled @ start
    gram = scaled.T @ scaled
    gram[np.diag_indices_from(gram)] += ridge * np.trace(gram) / len(gram)
    return (start + np.linalg.solve(gram, scaled.T @ error)).astype(np.float32)


def _neurons(features: np.ndarray, down: np.ndarray, width: int) -> np.ndarray:
    """The `width` neurons of largest mean |activation| times the length of their row in `down`, in order."""
    score = np.abs(features).mean(axis=0) * np.linalg.norm(down, axis=1)
    return np.sort(np.argsort(-score, kind="stable")[:width])


def _layer_tensors(flat: Flat, old: int, new: int, keep: np.ndarray, down: np.ndarray) -> Flat:
    source, target = f"model.layers.{old}.", f"model.layers.{new}."
    tensors = {name.replace(source, target, 1): array for name, array in flat.items() if name.startswith(source)}
    for part in ("gate_proj", "up_proj"):
        tensors[f"{target}mlp.{part}.weight"] = tensors[f"{target}mlp.{part}.weight"][keep]
    tensors[f"{target}mlp.down_proj.weight"] = np.ascontiguousarray(down.T)
    return tensors


def _streams(model: Decoder, batch: Batch, wanted: set[int]) -> dict[int, np.ndarray]:
    """The residual stream that enters each wanted layer; the number of layers stands for the one after the last."""
    x, place = enter(model, batch)
    after = enumerate(through(model.layers, x, place), 1)
    return {number: np.asarray(state) for number, state in after if number in wanted}


def _flatten(parts: Sequence[jax.Array] | Sequence[np.ndarray], batches: Sequence[Batch]) -> np.ndarray:
    """[N, ...] of all tokens that are not padding."""
    return np.concatenate([np.asarray(x)[batch.segments > 0] for x, batch in zip(parts, batches, strict=True)])


def _cosine_distance(a: jax.Array, b: jax.Array) -> np.ndarray:
    product = jnp.sqrt((a**2).sum(-1) * (b**2).sum(-1))
    return np.asarray(1.0 - (a * b).sum(-1) / jnp.maximum(product, 1e-12))
