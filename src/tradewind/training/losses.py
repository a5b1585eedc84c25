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
    """Of a model at the target places: hidden [B,A,D] after the final norm, logits [B,A,V] float32.

    streams [B,A,n,D]: residual streams that enter n of the layers. relations [B,A,r,A] float32: log-probabilities of
    relations (`taps.relations`). None where nobody asked. Hidden and streams are in the teacher's width.
    """

    hidden: jax.Array
    logits: jax.Array
    streams: jax.Array | None = None
    relations: jax.Array | None = None


class Targets(NamedTuple):
    """What the outputs are held against; the teacher's part is None where there is no teacher, or it was not asked.

    ids [B,A] int32, weights [B,A] float32 (0: unused place).
    top_ids [B,A,K] int32, top_logprobs [B,A,K], tail [B,A]: the teacher's K likeliest tokens and the rest's mass.
    hidden [B,A,D]: the teacher's hidden states after its final norm. streams [B,A,n,D]: its residual streams, each
    scaled to a mean square of 1. relations [B,A,r,A]: probabilities.
    """

    ids: Array
    weights: Array
    top_ids: Array | None = None
    top_logprobs: Array | None = None
    tail: Array | None = None
    hidden: Array | None = None
    streams: Array | None = None
    relations: Array | None = None


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
        p, q = merged(outputs, targets, self.temperature)
        loss = masked_mean(_divergence(p, q), targets.weights) * self.temperature**2
        return loss, {"logits_kl": loss}


@dataclass(frozen=True)
class ReverseKL:
    """T^2 KL(student || teacher) over the same outcomes: it seeks the teacher's modes (MiniLLM, arXiv:2306.08543)."""

    temperature: float = 1.0

    def __call__(self, outputs: Outputs, targets: Targets) -> tuple[jax.Array, Metrics]:
        p, q = merged(outputs, targets, self.temperature)
        loss = masked_mean(_divergence(q, p), targets.weights) * self.temperature**2
        return loss, {"reverse_kl": loss}


@dataclass(frozen=True)
class JensenShannon:
    """beta KL(p || m) + (1 - beta) KL(q || m) with m = beta p + (1 - beta) q, p the teacher (GKD, arXiv:2306.13649)."""

    beta: float = 0.5

    def __call__(self, outputs: Outputs, targets: Targets) -> tuple[jax.Array, Metrics]:
        p, q = merged(outputs, targets)
        m = _mixture(p, q, self.beta)
        divergence = self.beta * _divergence(p, m) + (1.0 - self.beta) * _divergence(q, m)
        loss = masked_mean(divergence, targets.weights)
        return loss, {"jensen_shannon": loss}


@dataclass(frozen=True)
class SkewKL:
    """KL(p || alpha p + (1 - alpha) q), p the teacher: gradients stay bounded (DistiLLM, arXiv:2402.03898)."""

    alpha: float = 0.1

    def __call__(self, outputs: Outputs, targets: Targets) -> tuple[jax.Array, Metrics]:
        p, q = merged(outputs, targets)
        loss = masked_mean(_divergence(p, _mixture(p, q, self.alpha)), targets.weights)
        return loss, {"skew_kl": loss}


def merged(outputs: Outputs, targets: Targets, temperature: float = 1.0) -> tuple[jax.Array, jax.Array]:
    """Log-probabilities [B,A,K+1] of teacher and student: the teacher's top tokens, and all others as one outcome."""
    top_ids = _asked(targets.top_ids, "the teacher's likeliest tokens")
    tail, top = _asked(targets.tail, "a tail"), _asked(targets.top_logprobs, "top_logprobs")
    normalizer = jax.nn.logsumexp(outputs.logits, axis=-1, keepdims=True)
    student = jnp.take_along_axis(outputs.logits, top_ids, axis=-1) - normalizer
    student_tail = jnp.log(jnp.maximum(1.0 - jnp.exp(student).sum(-1), TINY))
    p = _tempered(top.astype(jnp.float32), jnp.log(jnp.maximum(tail, TINY)), temperature)
    return p, _tempered(student, student_tail, temperature)


@dataclass(frozen=True)
class HiddenCosine:
    """1 - cos(student, teacher) of the final hidden states, per target token."""

    def __call__(self, outputs: Outputs, targets: Targets) -> tuple[jax.Array, Metrics]:
        distance = _cosine_distance(outputs.hidden, _asked(targets.hidden, "hidden states"))
        loss = masked_mean(distance, targets.weights)
        return loss, {"hidden_cosine": loss}


@dataclass(frozen=True)
class StreamsCosine:
    """1 - cos(student, teacher) of the residual stream, mean over the layers asked for, per target token."""

    def __call__(self, outputs: Outputs, targets: Targets) -> tuple[jax.Array, Metrics]:
        teacher = _asked(targets.streams, "residual streams (teacher_cache.streams)")
        distance = _cosine_distance(_asked(outputs.streams, "the student's streams"), teacher)
        loss = masked_mean(distance.mean(axis=-1), targets.weights)
        return loss, {"streams_cosine": loss}


@dataclass(frozen=True)
class RelationsKL:
    """KL(teacher || student) of the last layer's query, key and value relations among target places, their mean, per
    target token (MiniLMv2, arXiv:2012.15828)."""

    def __call__(self, outputs: Outputs, targets: Targets) -> tuple[jax.Array, Metrics]:
        p = _asked(targets.relations, "attention relations (teacher_cache.relation_heads)").astype(jnp.float32)
        q = _asked(outputs.relations, "the student's relations")
        divergence = jnp.where(p > 0, p * (jnp.log(jnp.maximum(p, TINY)) - q), 0.0).sum(-1)
        loss = masked_mean(divergence.mean(axis=-1), targets.weights)
        return loss, {"relations_kl": loss}


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
        "reverse": ReverseKL(temperature),
        "jensen_shannon": JensenShannon(),
        "skew": SkewKL(),
        "hidden": HiddenCosine(),
        "streams": StreamsCosine(),
        "relations": RelationsKL(),
    }
    if unknown := sorted(set(weights) - set(known)):
        raise UserError(f"losses: unknown loss {unknown[0]!r} (choices: {', '.join(known)})")
    parts = tuple((float(weight), known[name]) for name, weight in weights.items() if weight)
    if not parts:
        raise UserError("losses: every weight is 0")
    return Weighted(parts)


TINY = 1e-8


def _divergence(p: jax.Array, q: jax.Array) -> jax.Array:
    """KL(p || q) over the last axis of two log-distributions."""
    return (jnp.exp(p) * (p - q)).sum(-1)


def _mixture(p: jax.Array, q: jax.Array, share: float) -> jax.Array:
    """log(share p + (1 - share) q) of two log-distributions."""
    return jnp.logaddexp(p + jnp.log(share), q + jnp.log(1.0 - share))


def _tempered(top: Array, tail: Array, temperature: float) -> jax.Array:
    """[..., K] and [...] log-probabilities -> [..., K+1] of the tempered distribution."""
    return jax.nn.log_softmax(jnp.concatenate([top, tail[..., None]], axis=-1) / temperature, axis=-1)


def _cosine_distance(student: Array, teacher: Array) -> jax.Array:
    student, teacher = student.astype(jnp.float32), teacher.astype(jnp.float32)
    norms = jnp.sqrt((student**2).sum(-1) * (teacher**2).sum(-1))
    return 1.0 - (student * teacher).sum(-1) / jnp.maximum(norms, TINY)


def _asked(array: Array | None, what: str) -> Array:
    if array is None:
        raise UserError(f"losses: this loss needs {what}, which the teacher cache does not hold")
    return array
