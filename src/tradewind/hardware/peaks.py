"""What a host's own engines reach: the rates that its roofline is made of, measured on parts alone.

`peaks_ort` and `peaks_jax` measure them, on products, attention and norms of sizes that decoders have. No model runs, so
nothing here sees a point that the roofline predicts. Not covered: chips that share a bus or a clock with other work.
"""

import statistics
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from math import sqrt
from typing import Any

from tradewind.hardware.roofline import AtRows, Machine

HIDDEN, MLP = 576, 1536
"""Sizes of the matrices of the chains: the base's, of which most of its weights are."""
HEADS, KV_HEADS, HEAD_DIM = 9, 3, 64
PAIRS = (6, 24, 96)
"""Of products up to MLP and back, in a chain: weights that are few enough stay in caches, and are read faster."""
GRID = {1: PAIRS, 4: PAIRS, 16: PAIRS, 64: PAIRS[1:2], 256: PAIRS[1:2]}
"""Rows of products -> lengths of chains: few rows fill no arithmetic unit, and for many it is no matter where weights are."""
ROWS = max(GRID)
TOKENS = (16, 64, ROWS)
"""Of prompts that measure the arithmetic of attention."""
CONTEXT = 1024
"""Tokens of the cache that measures the reading of keys and values."""
IN_A_ROW = 12
ATTENTION = "attention."
"""Begins the name of the dtype that attention runs in, as its cache's follows."""


@dataclass(frozen=True)
class Peaks:
    """Of one engine on one host. flops: operations/s by dtype; bandwidth: bytes/s by dtype of what is read. launch: seconds
    of a kernel that does next to nothing; dispatch: of a call of the whole program, the host's part of a step. kernels: that
    the engine runs per layer, and besides. at_rows: by dtype, what products of so many rows (attention: of so many tokens)
    reach, by bytes of the weights: (rows, ((bytes, operations/s), ...))."""

    flops: dict[str, float]
    bandwidth: dict[str, float]
    launch: float
    dispatch: float
    kernels: tuple[int, int]
    at_rows: dict[str, AtRows] = field(default_factory=dict)

    def machine(self, name: str, memory: float) -> Machine:
        slowest = min(self.bandwidth.values())
        return Machine(
            name, self.flops, {"other": slowest} | self.bandwidth, memory,
            launch=self.launch, dispatch=self.dispatch, kernels=self.kernels, at_rows=self.at_rows,
        )  # fmt: skip


def between(first: Peaks, second: Peaks) -> Peaks:
    """Geometric means of two measurements of a host, which is not as fast at all times."""

    def each(one: Mapping[str, float], other: Mapping[str, float]) -> dict[str, float]:
        return {key: sqrt(value * other[key]) for key, value in one.items()}

    def table(one: AtRows, other: AtRows) -> AtRows:
        return [(rows, [(size, sqrt(rate * again)) for (size, rate), (_, again) in zip(points, others, strict=True)])
                for (rows, points), (_, others) in zip(one, other, strict=True)]  # fmt: skip

    at_rows = {dtype: table(points, second.at_rows[dtype]) for dtype, points in first.at_rows.items()}
    launch, dispatch = sqrt(first.launch * second.launch), sqrt(first.dispatch * second.dispatch)
    return Peaks(each(first.flops, second.flops), each(first.bandwidth, second.bandwidth), launch, dispatch, first.kernels,
                 at_rows)  # fmt: skip


def read_peaks(row: Mapping[str, Any]) -> Peaks:
    return Peaks(**{**row, "kernels": tuple(row["kernels"])})


def pairs_operations(pairs: float) -> float:
    """Of attention, for so many pairs of a token and one that it sees."""
    return 4 * HEADS * HEAD_DIM * pairs


def more(long: float, short: float) -> float:
    """Seconds that a chain takes beyond another; at least a tenth of its own."""
    return max(long - short, 0.1 * long)


def turns(calls: Mapping[Any, Callable[[], float]], repeats: int) -> dict[Any, float]:
    """Median seconds by key, of what each call says that it took. They take turns of IN_A_ROW calls, the first half of
    which is not counted: it finds another's data in the caches, as no step of an answer does."""
    seen: dict[Any, list[float]] = {key: [] for key in calls}
    for _ in range(repeats):
        for key, call in calls.items():
            seen[key] += [call() for _ in range(IN_A_ROW)][IN_A_ROW // 2 :]
    return {key: statistics.median(seconds) for key, seconds in seen.items()}
