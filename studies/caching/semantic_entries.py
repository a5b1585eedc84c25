"""A threshold for each past question, learned from what it was right and wrong about (after vCache, arXiv 2502.03771).

The chance that an entry is right at similarity s is taken as logistic, 1 / (1 + exp(-g (s - t))); t and g have a flat
prior on a grid. With `sure` the 5 % quantile of that chance over the posterior, the engine is asked with probability
1 - delta / (1 - sure), so that at most about delta of all requests should get a wrong answer from the cache; where it is
asked, the entry learns. vCache bounds the chance by a confidence band of a fitted curve instead of a posterior.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tradewind.caching.shadow import agreement

T, G = (axis.ravel() for axis in np.meshgrid(np.linspace(0.5, 1.1, 31), (10.0, 20.0, 50.0, 100.0, 200.0)))


@dataclass(frozen=True)
class Outcome:
    """Of one replay. served: requests answered from the cache; wrong: of those."""

    delta: float
    requests: int
    served: int
    wrong: int


class Entry:
    """One past question: its answer, and the weight of each curve of the grid."""

    def __init__(self, answer: str) -> None:
        self.answer = answer
        self.log_weight = np.zeros(len(T))

    def sure(self, similarity: float) -> float:
        """The 5 % quantile of the chance that the answer is right at this similarity."""
        chance = _curve(similarity)
        weight = np.exp(self.log_weight - self.log_weight.max())
        order = np.argsort(chance)
        at = int(np.searchsorted(np.cumsum(weight[order]), 0.05 * weight.sum()))
        return float(chance[order[min(at, len(order) - 1)]])

    def learn(self, similarity: float, right: bool) -> None:
        chance = np.clip(_curve(similarity), 1e-6, 1 - 1e-6)
        self.log_weight += np.log(chance if right else 1 - chance)


def _curve(similarity: float) -> NDArray[np.float64]:
    return 1 / (1 + np.exp(-G * (similarity - T)))


def replay(
    asked: Sequence[tuple[str, str]], vectors: dict[str, NDArray[np.float32]], delta: float, seed: int
) -> Outcome:
    """asked: (question, gold answer) in order of arrival; all in one context."""
    rng = random.Random(seed)
    entries: list[Entry] = []
    known = np.empty((len(asked), len(next(iter(vectors.values())))), np.float32)
    served = wrong = 0
    for question, gold in asked:
        vector = vectors[question]
        if entries:
            scores = known[: len(entries)] @ vector
            best = int(scores.argmax())
            entry, similarity = entries[best], float(scores[best])
            right = agreement(entry.answer, gold).close
            if rng.random() >= 1 - delta / max(1e-9, 1 - entry.sure(similarity)):
                served += 1
                wrong += not right
                continue
            entry.learn(similarity, right)
        known[len(entries)] = vector
        entries.append(Entry(gold))
    return Outcome(delta, len(asked), served, wrong)
