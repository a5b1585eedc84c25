"""Bootstrap intervals (95 %, percentiles) of a load test's figures, seeded.

Requests that started in one second of a phase share a queue and a store, so they are drawn together, as a block. Not
covered: what lasts longer than a second (a store that fills, a machine that slows down), other seeds of the requests.
"""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from tradewind.evaluation.bootstrap import ratio_interval
from tradewind.intervals import wilson
from tradewind.load.results import Span, Timing, quantile

Interval = tuple[float, float]
RESAMPLES = 1000
FEWEST = 5
"""Blocks below which there is no interval."""


def blocks(requests: Sequence[Timing], parts: Sequence[Span]) -> list[list[Timing]]:
    """Of about a second each, those without a request included."""
    out: list[list[Timing]] = []
    for start, end in parts:
        count = max(1, round(end - start))
        held: list[list[Timing]] = [[] for _ in range(count)]
        for one in requests:
            if start <= one["start"] < end:
                held[min(count - 1, int(count * (one["start"] - start) / (end - start)))].append(one)
        out += held
    return out


def share_interval(counts: Sequence[tuple[int, int]], seed: int) -> Interval | None:
    """Of part / whole, both counted by block; on no side narrower than Wilson's, which is not empty at 0 of n."""
    held = [(part, whole) for part, whole in counts if whole]
    if len(held) < FEWEST:
        return None
    parts, wholes = [part for part, _ in held], [whole for _, whole in held]
    low, high = ratio_interval(parts, wholes, seed, RESAMPLES)
    least, most = wilson(sum(parts), sum(wholes))
    return min(low, least), max(high, most)


def percentiles(values: Sequence[float]) -> Interval | None:
    """None where one of the two is infinite."""
    ranked = sorted(values)
    low, high = ranked[int(0.025 * len(ranked))], ranked[math.ceil(0.975 * len(ranked)) - 1]
    return (low, high) if math.isfinite(low) and math.isfinite(high) else None


def added(
    ours: Sequence[float], theirs: Sequence[float], share: float, seed: int
) -> tuple[float | None, Interval | None]:
    """A quantile of ours minus that of theirs, and its interval, both drawn anew request by request. None where it is
    infinite."""
    chance = np.random.default_rng(seed)
    value = quantile(ours, share)[0] - quantile(theirs, share)[0]
    drawn = _quantiles(ours, share, chance) - _quantiles(theirs, share, chance)
    if not math.isfinite(value):
        return None, None
    return value, percentiles(drawn.tolist()) if min(len(ours), len(theirs)) >= FEWEST else None


def _quantiles(values: Sequence[float], share: float, chance: np.random.Generator) -> NDArray[np.float64]:
    """[RESAMPLES], by nearest rank; infinite ones as large as can be, so that their difference is a number."""
    held = np.nan_to_num(np.asarray(values, np.float64), posinf=np.finfo(np.float64).max / 4)
    drawn = np.sort(held[chance.integers(len(held), size=(RESAMPLES, len(held)))], axis=1)
    return np.asarray(drawn[:, max(0, math.ceil(share * len(held)) - 1)], np.float64)
