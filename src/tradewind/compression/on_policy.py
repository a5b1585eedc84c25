"""On-policy distillation: the student answers prompts of the training rows itself, and the teacher scores those answers.

The life of a round (GKD, arXiv:2306.13649): 1. prompts are drawn from the cache's rows; 2. the student samples an answer
to each at temperature 1; 3. the samples are packed into rows like the cache's; 4. the teacher is asked about them; 5. rows
of the cache are mixed in. Training on them is the caller's. No gradient goes through the sampling. Targets of
cross-entropy would be the student's own samples, so it is no loss for this. The same seed gives the same samples.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from tradewind.compression.teacher_cache import TeacherCache, ask_teacher, mix
from tradewind.errors import UserError
from tradewind.model.decoder import Cache, Decoder, init_cache
from tradewind.training.data import Packed, Sample, pack


@dataclass(frozen=True)
class OnPolicyConfig:
    """share: of the rows, those that the student samples (0: off-policy only). rounds: how often it samples anew.

    answer_tokens: sampled at most for a prompt. batch: prompts answered at a time.
    """

    share: float = 0.0
    rounds: int = 4
    answer_tokens: int = 48
    batch: int = 16
    temperature: float = 1.0

    def __post_init__(self) -> None:
        if not 0 <= self.share <= 1:
            raise UserError(f"distill.on_policy.share: {self.share} is not within 0 to 1")
        if min(self.rounds, self.answer_tokens, self.batch) < 1 or self.temperature <= 0:
            raise UserError("distill.on_policy: rounds, answer_tokens and batch are 1 at least, temperature above 0")


@dataclass(frozen=True)
class Scorer:
    """The teacher, its id of each student id [V], and how it is asked: see `ask_teacher`."""

    teacher: Decoder
    teacher_ids: np.ndarray
    k: int
    rows: int


def mixed_rows(
    model: Decoder, cache: TeacherCache, scorer: Scorer, choice: OnPolicyConfig, tokens: int, seed: list[int]
) -> TeacherCache:
    """Rows of about `tokens` tokens, `choice.share` of them with answers of the student's own, scored by the teacher."""
    drawn = _drawn(list(prompts(cache.packed)), choice, round(tokens * choice.share), seed)
    samples = sample_answers(model, drawn, choice, seed)
    length, places = cache.packed.rows.tokens.shape[1], cache.packed.rows.where.shape[1]
    packed = pack(samples, length, places)
    own = ask_teacher(scorer.teacher, scorer.teacher_ids, packed, cache.top_ids.shape[-1], scorer.rows, cache.taps)
    return mix(own, cache, choice.share, seed)


def prompts(packed: Packed) -> Iterator[list[int]]:
    """Of each packed sample the tokens before its first target."""
    rows = packed.rows
    for tokens, segments, where, weights in zip(rows.tokens, rows.segments, rows.where, rows.weights, strict=True):
        first = where[weights > 0]
        for segment in range(1, int(segments.max()) + 1):
            inside = first[segments[first] == segment]
            if len(inside):
                start = int(np.argmax(segments == segment))
                yield tokens[start : int(inside.min()) + 1].tolist()


def sample_answers(
    model: Decoder, asked: Sequence[Sequence[int]], choice: OnPolicyConfig, seed: list[int]
) -> list[Sample]:
    """Each prompt with an answer sampled from the model, up to the end of text; the answer's tokens are targets."""
    length = -(-max(map(len, asked)) // 32) * 32
    key = jax.random.fold_in(jax.random.key(seed[0]), seed[-1])
    out: list[Sample] = []
    for start in range(0, len(asked), choice.batch):
        part = [asked[min(i, len(asked) - 1)] for i in range(start, start + choice.batch)]
        tokens = np.stack([np.pad(np.asarray(ids, np.int32), (0, length - len(ids))) for ids in part])
        lengths = np.asarray([len(ids) for ids in part], np.int32)
        key, own = jax.random.split(key)
        answers = np.asarray(
            _answer(model, jnp.asarray(tokens), jnp.asarray(lengths), own, choice.answer_tokens, choice.temperature)
        )
        out += [_sample(ids, ended, model.config.eos_token_id) for ids, ended in zip(part, answers, strict=True)]
    return out[: len(asked)]


@nnx.jit(static_argnames=("count", "temperature"))
def _answer(
    model: Decoder, tokens: jax.Array, lengths: jax.Array, key: jax.Array, count: int, temperature: float
) -> jax.Array:
    """[B, count] sampled after prompts tokens [B,T] of `lengths` [B]."""
    rows, length = tokens.shape
    graph, state = nnx.split(model)
    cache = init_cache(model.config, rows, length + count, model.embed.dtype)
    places = jnp.arange(length)[None]
    positions = jnp.where(places < lengths[:, None], places, length + count)  # padding lies outside the cache
    hidden, cache = model.advance(tokens, positions, cache)
    last = jnp.take_along_axis(hidden, (lengths - 1)[:, None, None], axis=1)[:, 0]

    def step(carry: tuple[jax.Array, Cache], number: jax.Array) -> tuple[tuple[jax.Array, Cache], jax.Array]:
        last, cache = carry
        decoder = nnx.merge(graph, state)
        logits = decoder.logits(last) / temperature
        token = jax.random.categorical(jax.random.fold_in(key, number), logits).astype(jnp.int32)
        hidden, cache = decoder.advance(token[:, None], (lengths + number)[:, None], cache)
        return (hidden[:, 0], cache), token

    return jax.lax.scan(step, (last, cache), jnp.arange(count))[1].T


def _sample(prompt: Sequence[int], answer: np.ndarray, end: int) -> Sample:
    ends = np.flatnonzero(answer == end)
    answer = answer[: ends[0] + 1] if len(ends) else answer
    return [*prompt, *answer.tolist()], [0] * len(prompt) + [1] * len(answer)


def _drawn(asked: list[list[int]], choice: OnPolicyConfig, tokens: int, seed: list[int]) -> list[list[int]]:
    """Prompts drawn until with answers of half the longest length they reach `tokens`; over again where they end."""
    random, total = np.random.default_rng(seed), 0
    out: list[list[int]] = []
    while total < tokens or not out:
        prompt = asked[int(random.integers(len(asked)))]
        out.append(prompt)
        total += len(prompt) + choice.answer_tokens // 2
    return out
