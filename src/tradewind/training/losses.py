"""Losses as small strategies: `strategy(outputs, targets) -> (loss, metrics)`, all over target places only.

The denominator of every mean is the number of targets in the batch (`weights` summed); unused places count nowhere.
This file does not know models: `Outputs` is all that it sees of one.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from tradewind.errors import UserError

Array = jax.Array | np.ndarray
Metrics = dict[str, jax.Array]


class Outputs(NamedTuple):
    """Of a model at the target places: hidden [B,A,D] after the final norm, logits [B,A,V] float32."""

    hidden: jax.Array
    logits: jax.Array


class Targets(NamedTuple):
    """What the outputs are held against; the teacher's part is None where there is no teacher.

    ids [B,A] int32, weights [B,A] float32 (0: unused place).
    top_ids [B,A,K] int32, top_logprobs [B,A,K], tail [B,A]: the teacher's K likeliest tokens and the rest's mass.
    hidden [B,A,D]: the teacher's hidden states after its final norm.
    """

    ids: Array
    weights: Array
    top_ids: Array | None = None
    top_logprobs: Array | None = None
    tail: Array | None = None
    hidden: Array | None = None


class Strategy(Protocol):
    """One loss. It returns the mean over targets (float32 scalar), and metrics that are such means too."""

    def __call__(self, outputs: Outputs, targets: Targets) -> tuple[jax.Array, Metrics]: ...


def masked_mean(values: Array, weights: Array) -> jax.Array:
    """Sum of values * weights over the sum of weights (over 1 where no weight is set)."""
    return (values * weights).sum() / jnp.maximum(weights.sum(), 1.0)


@dataclass(frozen=True)
class CrossEntropy:
    """-log p(target), nats per target token."""

    def __call__(self, outputs: Outputs, targets: Targets) -> tuple[jax.Array, Metrics]:
        picked = jnp.take_along_axis(outputs.logits, targets.ids[..., None], axis=-1)[..., 0]
        loss = masked_mean(jax.nn.logsumexp(outputs.logits, axis=-1) - picked, targets.weights)
        return loss, {"cross_entropy": loss}


@dataclass(frozen=True)
class LogitsKL:
    """T^2 KL(teacher || student) over the teacher's top tokens and one bucket for all others, nats per target token.

    At temperature 1 this is the exact divergence of the two distributions after merging the tail into one outcome
    (a lower bound of the full one). At T it compares those merged distributions raised to 1/T and normalised; T^2
    keeps the gradient's size (arXiv:1503.02531).
    """

    temperature: float = 1.0

    def __call__(self, outputs: Outputs, targets: Targets) -> tuple[jax.Array, Metrics]:
        if targets.top_ids is None or targets.top_logprobs is None or targets.tail is None:
            raise ValueError("LogitsKL needs a teacher's top tokens")
        normalizer = jax.nn.logsumexp(outputs.logits, axis=-1, keepdims=True)
        student = jnp.take_along_axis(outputs.logits, targets.top_ids, axis=-1) - normalizer
        student_tail = jnp.log(jnp.maximum(1.0 - jnp.exp(student).sum(-1), TINY))
        teacher_tail = jnp.log(jnp.maximum(targets.tail, TINY))
        p = self._temper(targets.top_logprobs.astype(jnp.float32), teacher_tail)
        q = self._temper(student, student_tail)
        divergence = (jnp.exp(p) * (p - q)).sum(-1)
        loss = masked_mean(divergence, targets.weights) * self.temperature**2
        return loss, {"logits_kl": loss}

    def _temper(self, top: Array, tail: Array) -> jax.Array:
        """[..., K] and [...] log-probabilities -> [..., K+1] of the tempered distribution."""
        return jax.nn.log_softmax(jnp.concatenate([top, tail[..., None]], axis=-1) / self.temperature, axis=-1)


@dataclass(frozen=True)
class HiddenCosine:
    """1 - cos(student, teacher) of the final hidden states, per target token."""

    def __call__(self, outputs: Outputs, targets: Targets) -> tuple[jax.Array, Metrics]:
        if targets.hidden is None:
            raise ValueError("HiddenCosine needs a teacher's hidden states")
        student, teacher = outputs.hidden.astype(jnp.float32), targets.hidden.astype(jnp.float32)
        norms = jnp.sqrt((student**2).sum(-1) * (teacher**2).sum(-1))
        cosine = (student * teacher).sum(-1) / jnp.maximum(norms, TINY)
        loss = masked_mean(1.0 - cosine, targets.weights)
        return loss, {"hidden_cosine": loss}


@dataclass(frozen=True)
class Weighted:
    """The sum of strategies, each times its weight; its metrics are those of all, unweighted."""

    parts: Sequence[tuple[float, Strategy]]

    def __call__(self, outputs: Outputs, targets: Targets) -> tuple[jax.Array, Metrics]:
        total, metrics = jnp.zeros((), jnp.float32), Metrics()
        for weight, strategy in self.parts:
            loss, own = strategy(outputs, targets)
            total, metrics = total + weight * loss, metrics | own
        return total, metrics


def combine(weights: Mapping[str, float], temperature: float = 1.0) -> Weighted:
    """Strategies by name with their weights; a weight of 0 leaves one out.

    Raises:
        UserError: an unknown name, or nothing left.
    """
    known: dict[str, Strategy] = {
        "cross_entropy": CrossEntropy(),
        "logits": LogitsKL(temperature),
        "hidden": HiddenCosine(),
    }
    if unknown := sorted(set(weights) - set(known)):
        raise UserError(f"losses: unknown loss {unknown[0]!r} (choices: {', '.join(known)})")
    parts = tuple((float(weight), known[name]) for name, weight in weights.items() if weight)
    if not parts:
        raise UserError("losses: every weight is 0")
    return Weighted(parts)


TINY = 1e-8
