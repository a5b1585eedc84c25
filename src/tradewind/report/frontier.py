"""Pareto fronts of answer quality against a cost, and the knee of one: where more cost stops buying much quality.

Rows are mappings with `answer_f1` and the cost's key. Costs are compared by ratio, so the knee is found on their logarithm.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

Row = Mapping[str, Any]


def front(rows: Sequence[Row], cost: str, more_is_better: bool) -> list[Row]:
    """The rows that no other beats in F1 at the same cost or less, by rising `cost`."""
    sign = -1 if more_is_better else 1
    best, kept = float("-inf"), []
    for row in sorted(rows, key=lambda r: (sign * r[cost], -r["answer_f1"])):
        if row["answer_f1"] > best:
            best = row["answer_f1"]
            kept.append(row)
    return sorted(kept, key=lambda r: r[cost])


def knee(edge: Sequence[Row], cost: str) -> Row | None:
    """The row of a front that is furthest above the straight line between its ends, on log cost ("Kneedle", Satopaa et
    al. 2011); None for a front of fewer than three rows, or one that is nowhere above that line.
    """
    if len(edge) < 3:
        return None
    x = [math.log(row[cost]) for row in edge]
    y = [row["answer_f1"] for row in edge]
    slope = (y[-1] - y[0]) / (x[-1] - x[0])
    above = [b - (y[0] + slope * (a - x[0])) for a, b in zip(x, y, strict=True)]
    best = max(range(len(edge)), key=above.__getitem__)
    return edge[best] if above[best] > 1e-9 else None
