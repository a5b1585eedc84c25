"""Choosing a token from logits: greedy, temperature, top-k, top-p, seed, log-probabilities.

One `Sampler` belongs to one answer and draws one number a token from a generator of its own, so that an answer's tokens
depend on its seed and logits and never on its neighbours. It knows no text, no stops and no engine.

Not covered: penalties, logit bias, min-p, grammars.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tradewind.engine.contract import Logits

Probabilities = NDArray[np.float64]
FIRST_LOOK = 128
"""Candidates sorted before a look at more: a full sort of a 49,152-token vocabulary costs a tenth of a decode step."""


@dataclass(frozen=True)
class SamplingParams:
    """temperature 0 is greedy. top_k 0 is off. seed None draws one. logprobs: how many alternatives to report, None for
    none.
    """

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    seed: int | None = None
    logprobs: int | None = None


@dataclass(frozen=True)
class Sampled:
    """logprob and top (most probable first) are of the model's own distribution: temperature 1, nothing cut, nothing
    banned.
    """

    token: int
    logprob: float | None = None
    top: tuple[tuple[int, float], ...] = ()


class Sampler:
    """Chooses the tokens of one answer. `index` tells the answers of a request apart; `banned` ids are never chosen."""

    def __init__(self, params: SamplingParams, index: int = 0, banned: tuple[int, ...] = ()) -> None:
        self.params = params
        self.banned = list(banned)
        self.random = np.random.default_rng(None if params.seed is None else (params.seed, index))

    def __call__(self, logits: Logits) -> Sampled:
        """logits [vocab]. Raises ValueError where no token is finite (a fault of the engine)."""
        allowed = logits
        if self.banned:
            allowed = logits.copy()
            allowed[self.banned] = -np.inf
        if not np.isfinite(allowed.max()):
            raise ValueError("the engine gave logits that are not finite")
        token = int(allowed.argmax()) if self.params.temperature == 0 else self._draw(allowed)
        return report(logits, token, self.params.logprobs)

    def _draw(self, logits: Logits) -> int:
        tokens, weights = candidates(logits, self.params)
        cumulative = np.cumsum(weights)
        below = min(self.random.random() * cumulative[-1], np.nextafter(cumulative[-1], 0))
        return int(tokens[np.searchsorted(cumulative, below, side="right")])


def candidates(logits: Logits, params: SamplingParams) -> tuple[NDArray[np.int64], Probabilities]:
    """The tokens that may be drawn and their weights: top_k first, then the smallest set whose mass reaches top_p.

    Ties are broken by the smaller id. Top-p is nucleus sampling (Holtzman et al. 2020), over what top_k left.
    """
    weights = tempered(logits, params.temperature)
    if params.top_p >= 1 and not 0 < params.top_k < len(weights):
        return np.arange(len(weights)), weights
    count = params.top_k if 0 < params.top_k < len(weights) else min(FIRST_LOOK, len(weights))
    tokens = best_first(weights, count)
    total = weights[tokens].sum() if params.top_k > 0 else weights.sum()
    while params.top_p < 1:
        cumulative = np.cumsum(weights[tokens])
        if cumulative[-1] >= params.top_p * total or len(tokens) in (params.top_k, len(weights)):
            kept = int(np.searchsorted(cumulative, params.top_p * total, side="left")) + 1
            tokens = tokens[:kept]
            break
        tokens = best_first(weights, min(8 * len(tokens), len(weights)))
    return tokens, weights[tokens]


def tempered(logits: Logits, temperature: float) -> Probabilities:
    """exp((logit - max) / temperature), not normalised."""
    with np.errstate(over="ignore"):
        return np.exp((logits.astype(np.float64) - float(logits.max())) / temperature)


def best_first(weights: Probabilities, count: int) -> NDArray[np.int64]:
    """Ids of the `count` largest weights, largest first, the smaller id first among equals."""
    if count < len(weights):
        least = np.partition(weights, len(weights) - count)[len(weights) - count]
        above = np.flatnonzero(weights > least)
        chosen = np.concatenate([above, np.flatnonzero(weights == least)[: count - len(above)]])
    else:
        chosen = np.arange(len(weights))
    order = np.lexsort((chosen, -weights[chosen]))
    return chosen[order]


def report(logits: Logits, token: int, count: int | None) -> Sampled:
    if count is None:
        return Sampled(token)
    shifted = logits.astype(np.float64) - float(logits.max())
    logprobs = shifted - np.log(np.exp(shifted).sum())
    top = best_first(logprobs, count) if count else ()
    return Sampled(token, float(logprobs[token]), tuple((int(one), float(logprobs[one])) for one in top))
