"""Choosing a token from logits: penalties, bias, temperature, top-k, top-p, min-p, seed, log-probabilities.

One `Sampler` belongs to one answer and draws one number a token from a generator of its own, so that an answer's tokens
depend on its seed, logits and own tokens and never on its neighbours. It knows no text, no stops and no engine.

The order: repetition penalty (Keskar et al. 2019, as in Hugging Face's `generate`), presence and frequency penalty
(OpenAI's definition), bias, what is banned or not allowed; then the largest, or temperature, top-k, top-p, min-p and a
draw. An answer that asks for none of the first four is sampled from the engine's logits in place, without a copy; and
so is a greedy one for which something is banned, as long as the largest is not.
Log-probabilities are of the model's own distribution, before any of these.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tradewind.engine.contract import Logits

Weights = NDArray[np.float32]
FIRST_LOOK = 128
"""Candidates sorted before a look at more: a full sort of a 49,152-token vocabulary costs a tenth of a decode step."""
BLOCK = 256
NOT_FINITE = "the engine gave logits that are not finite"
COLDEST = 1e-6
"""Temperatures below are taken for this one: still positive in float32, and greedy in effect."""


@dataclass(frozen=True)
class SamplingParams:
    """temperature 0 is greedy. top_k 0 is off. seed None draws one. logprobs: how many alternatives to report, None for
    none.

    min_p: tokens less likely than this share of the likeliest are not drawn; 0 is off.
    presence_penalty, frequency_penalty: taken from the logit of a token that the answer holds, once and for each time.
    repetition_penalty: divides the positive logits of tokens in prompt or answer and multiplies the negative; 1 is off.
    logit_bias: (token, what is added to its logit).
    """

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    seed: int | None = None
    logprobs: int | None = None
    min_p: float = 0.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    repetition_penalty: float = 1.0
    logit_bias: tuple[tuple[int, float], ...] = ()

    @property
    def penalised(self) -> bool:
        return bool(self.presence_penalty or self.frequency_penalty) or self.repetition_penalty != 1


@dataclass(frozen=True)
class Sampled:
    """logprob and top (most probable first) are of the model's own distribution: temperature 1, nothing cut, nothing
    banned.
    """

    token: int
    logprob: float | None = None
    top: tuple[tuple[int, float], ...] = ()


class Sampler:
    """Chooses the tokens of one answer. `index` tells the answers of a request apart; `banned` ids are never chosen;
    the tokens of `prompt` count for the repetition penalty.
    """

    def __init__(
        self, params: SamplingParams, index: int = 0, banned: tuple[int, ...] = (), prompt: Sequence[int] = ()
    ) -> None:
        self.params = params
        self.banned = list(banned)
        self.random = np.random.default_rng(None if params.seed is None else (params.seed, index))
        self._made: Counter[int] = Counter()
        self._seen = dict.fromkeys(prompt) if params.repetition_penalty != 1 else {}

    def __call__(self, logits: Logits, allowed: NDArray[np.bool_] | None = None) -> Sampled:
        """logits [vocab]. allowed: where given, only these are chosen, and none beyond its length. Raises ValueError
        where no token is finite (a fault of the engine).
        """
        token = self._choose(logits, allowed)
        self._count(token)
        return report(logits, token, self.params.logprobs)

    def replay(self, token: int) -> None:
        """As if this token had been chosen here."""
        if self.params.temperature > 0:
            self.random.random()
        self._count(token)

    def _count(self, token: int) -> None:
        if self.params.penalised:
            self._made[token] += 1
            self._seen[token] = None

    def _choose(self, logits: Logits, allowed: NDArray[np.bool_] | None) -> int:
        if self.params.temperature == 0 and self._plain and allowed is None:
            token = int(logits.argmax())
            if token not in self.banned:
                return _finite(logits, token)
        changed = self._changed(logits, allowed)
        token = _finite(changed, int(changed.argmax()))
        return token if self.params.temperature == 0 else self._draw(changed)

    @property
    def predictable(self) -> bool:
        """Whether the largest logit that is not banned is chosen, and not reported on."""
        return self.params.temperature == 0 and self._plain and self.params.logprobs is None

    @property
    def _plain(self) -> bool:
        """Nothing but what is banned changes the logits."""
        return not (self.params.logit_bias or self.params.penalised)

    def _changed(self, logits: Logits, allowed: NDArray[np.bool_] | None) -> Logits:
        """What is chosen from: the logits themselves where nothing is asked for, else a copy."""
        bias = self.params.logit_bias
        if self._plain and not self.banned and allowed is None:
            return logits
        changed = logits.copy()
        if self.params.penalised:
            self._penalise(changed)
        if bias:
            changed[[token for token, _ in bias]] += np.array([value for _, value in bias], np.float32)
        changed[self.banned] = -np.inf
        if allowed is not None:
            np.copyto(changed[: len(allowed)], -np.inf, where=~allowed)
            changed[len(allowed) :] = -np.inf
        return changed

    def _penalise(self, logits: Logits) -> None:
        repetition = np.float32(self.params.repetition_penalty)
        if repetition != 1 and self._seen:
            seen = list(self._seen)
            logits[seen] = np.where(logits[seen] > 0, logits[seen] / repetition, logits[seen] * repetition)
        if self._made:
            times = np.array(list(self._made.values()), np.float32)
            penalty = self.params.presence_penalty + self.params.frequency_penalty * times
            logits[list(self._made)] -= penalty.astype(np.float32)

    def _draw(self, logits: Logits) -> int:
        tokens, weights = candidates(logits, self.params)
        return int(tokens[drawn(weights, self.random.random())])


def _finite(logits: Logits, largest: int) -> int:
    """The place of the largest logit, which is that of the first NaN where there is one."""
    if not np.isfinite(logits[largest]):
        raise ValueError(NOT_FINITE)
    return largest


def drawn(weights: Weights, share: float) -> int:
    """The place that a share in [0, 1) of all the weight falls on, never one without weight.

    By blocks: running sums over a whole vocabulary would take longer than all the rest.
    """
    if odd := len(weights) % BLOCK:
        weights = np.concatenate([weights, np.zeros(BLOCK - odd, np.float32)])
    ends = np.cumsum(weights.reshape(-1, BLOCK).sum(axis=1, dtype=np.float64))
    below = min(share * ends[-1], np.nextafter(ends[-1], 0))
    block = int(np.searchsorted(ends, below, side="right"))
    inside = np.cumsum(weights[block * BLOCK : (block + 1) * BLOCK], dtype=np.float64)
    rest = min(below - (ends[block - 1] if block else 0.0), np.nextafter(inside[-1], 0))
    return block * BLOCK + int(np.searchsorted(inside, rest, side="right"))


def candidates(logits: Logits, params: SamplingParams) -> tuple[NDArray[np.int64], Weights]:
    """The tokens that may be drawn and their weights: top_k first, then the smallest set whose mass reaches top_p, and
    of these what min_p leaves.

    Ties are broken by the smaller id. Top-p is nucleus sampling (Holtzman et al. 2020), over what top_k left. Min-p
    (Nguyen et al. 2024) compares with the likeliest token of all.
    """
    tokens, weights = _most_likely(logits, params)
    if params.min_p <= 0:
        return tokens, weights
    likely = weights >= params.min_p  # the largest weight is 1
    return tokens[likely], weights[likely]


def _most_likely(logits: Logits, params: SamplingParams) -> tuple[NDArray[np.int64], Weights]:
    size = len(logits)
    if 0 < params.top_k < size:
        tokens = best_first(logits, params.top_k)
        weights = tempered(logits[tokens], params.temperature)
        count = nucleus(weights, params.top_p, float(weights.sum(dtype=np.float64)))
        return tokens[:count], weights[:count]
    weights = tempered(logits, params.temperature)
    if params.top_p >= 1:
        return np.arange(size), weights
    total, look = float(weights.sum(dtype=np.float64)), FIRST_LOOK
    while True:
        tokens = best_first(logits, min(look, size))
        count = nucleus(weights[tokens], params.top_p, total)
        if count < len(tokens) or look >= size:
            return tokens[:count], weights[tokens[:count]]
        look *= 8


def nucleus(weights: Weights, top_p: float, total: float) -> int:
    """How many of the weights, largest first, it takes to reach top_p of the total: at least one, at most all."""
    if top_p >= 1:
        return len(weights)
    reached = np.searchsorted(np.cumsum(weights, dtype=np.float64), top_p * total, side="left")
    return min(int(reached) + 1, len(weights))


def tempered(logits: Logits, temperature: float) -> Weights:
    """exp((logit - max) / temperature), not normalised; float32, which is a fraction of the time of float64."""
    with np.errstate(over="ignore"):
        return np.exp((logits - logits.max()) / np.float32(max(temperature, COLDEST)))


def best_first(values: Logits, count: int) -> NDArray[np.int64]:
    """Ids of the `count` largest values, largest first, the smaller id first among equals."""
    if count < len(values):
        least = np.partition(values, len(values) - count)[len(values) - count]
        above = np.flatnonzero(values > least)
        chosen = np.concatenate([above, np.flatnonzero(values == least)[: count - len(above)]])
    else:
        chosen = np.arange(len(values))
    order = np.lexsort((chosen, -values[chosen]))
    return chosen[order]


def report(logits: Logits, token: int, count: int | None) -> Sampled:
    if count is None:
        return Sampled(token)
    highest = float(logits.max())
    log_total = highest + float(np.log(np.exp(logits - np.float32(highest)).sum(dtype=np.float64)))
    top = best_first(logits, min(count, len(logits))) if count else ()
    return Sampled(token, float(logits[token]) - log_total, tuple((int(t), float(logits[t]) - log_total) for t in top))
