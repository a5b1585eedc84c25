"""Bootstrap intervals (Efron 1979, percentile method), seeded: stratified by kind, paired, of a median, and in clusters.

Of answers the unit that is resampled is the question, within its kind. It does not cover the choice of the kinds or
training seeds.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

Interval = tuple[float, float]
RESAMPLES = 10_000


def macro_mean(values: Mapping[str, Sequence[float]]) -> float:
    """Mean of the kinds' means: every kind weighs the same, however many questions it has."""
    return float(np.mean([np.mean(kind) for kind in values.values()]))


def macro_interval(values: Mapping[str, Sequence[float]], seed: int, resamples: int = RESAMPLES) -> Interval:
    """95 % interval of `macro_mean`, resampling questions within each kind."""
    rng = np.random.default_rng(seed)
    means = [_resampled(np.asarray(values[kind], float), rng, resamples).mean(axis=1) for kind in sorted(values)]
    return _percentiles(np.mean(means, axis=0))


def paired_interval(
    ours: Mapping[str, Mapping[str, float]],
    theirs: Mapping[str, Mapping[str, float]],
    seed: int,
    resamples: int = RESAMPLES,
) -> tuple[float, Interval, int]:
    """Macro mean of ours - theirs, its 95 % interval and the number of questions, over the questions that both have.

    Both map kind -> question id -> value; a question keeps its pair when it is resampled. Raises ValueError where no
    kind is shared.
    """
    differences = {
        kind: [ours[kind][q] - theirs[kind][q] for q in sorted(set(ours[kind]) & set(theirs[kind]))]
        for kind in sorted(set(ours) & set(theirs))
    }
    differences = {kind: rows for kind, rows in differences.items() if rows}
    if not differences:
        raise ValueError("the two results share no question")
    count = sum(map(len, differences.values()))
    return macro_mean(differences), macro_interval(differences, seed, resamples), count


def ratio_interval(
    numerators: Sequence[float], denominators: Sequence[float], seed: int, resamples: int = RESAMPLES
) -> Interval:
    """95 % interval of sum(numerators) / sum(denominators), resampling the pairs (clusters of positions, bytes,
    ...)."""
    rng = np.random.default_rng(seed)
    top, bottom = np.asarray(numerators, float), np.asarray(denominators, float)
    picks = rng.integers(len(top), size=(resamples, len(top)))
    return _percentiles(top[picks].sum(axis=1) / bottom[picks].sum(axis=1))


def median_interval(values: Sequence[float], seed: int, resamples: int = RESAMPLES) -> Interval:
    """95 % interval of the median of a few repeats; with five it is close to their range, and says so by its width."""
    rng = np.random.default_rng(seed)
    return _percentiles(np.median(_resampled(np.asarray(values, float), rng, resamples), axis=1))


def cluster_median_interval(clusters: Sequence[Sequence[float]], seed: int, resamples: int = RESAMPLES) -> Interval:
    """95 % interval of the median of all values: clusters, which have as many values each, are drawn anew, and of each drawn
    one its values, for values of one cluster (rounds of one process) are more alike than those of two."""
    rng, values = np.random.default_rng(seed), np.asarray(clusters, float)
    count, each = values.shape
    drawn, which = rng.integers(count, size=(resamples, count, 1)), rng.integers(each, size=(resamples, count, each))
    return _percentiles(np.median(values[drawn, which].reshape(resamples, -1), axis=1))


def _resampled(values: NDArray[np.float64], rng: np.random.Generator, resamples: int) -> NDArray[np.float64]:
    return values[rng.integers(len(values), size=(resamples, len(values)))]


def _percentiles(values: NDArray[np.float64]) -> Interval:
    low, high = np.percentile(values, [2.5, 97.5])
    return float(low), float(high)
