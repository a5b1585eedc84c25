"""Counts of what a semantic cache would have done, by similarity: hits, and whether the cached answer was right.

"Right" is agreement with the answer that the engine gave instead: `same` where the normalised words are equal, `close`
where token F1 is at least CLOSE. An answer that says the same in other words counts as wrong, and where the engine
itself was wrong twice in the same way it counts as right: the study holds both against gold answers.
The memory is a fixed table of integers, whatever the traffic. No text is kept here.
"""

from bisect import bisect_right
from dataclasses import dataclass
from typing import Any

from tradewind.evaluation.metrics import exact_match, token_f1
from tradewind.intervals import wilson

THRESHOLDS = (0.70, 0.75, 0.80, 0.85, 0.88, 0.90, 0.92, 0.94, 0.95, 0.96, 0.97, 0.98, 0.985, 0.99, 0.995, 0.999)
CLOSE = 0.8


@dataclass(frozen=True)
class Agreement:
    """How a cached answer compares with the one generated."""

    same: bool
    f1: float

    @property
    def close(self) -> bool:
        return self.same or self.f1 >= CLOSE


def agreement(cached: str, generated: str) -> Agreement:
    return Agreement(exact_match(cached, generated), token_f1(cached, generated))


@dataclass
class Bucket:
    """Lookups whose nearest question was this similar. refused: by the guard; same, close: of those not refused;
    refused_close: what the guard cost."""

    lookups: int = 0
    refused: int = 0
    same: int = 0
    close: int = 0
    refused_close: int = 0


class Shadow:
    """empty: lookups without any past question in their context. repeated: the very same text, which the response
    cache answers; in no bucket."""

    def __init__(self) -> None:
        self.empty = self.repeated = 0
        self.buckets = [Bucket() for _ in range(len(THRESHOLDS) + 1)]

    def add(self, similarity: float, refused: bool, found: Agreement) -> None:
        bucket = self.buckets[bisect_right(THRESHOLDS, similarity)]
        bucket.lookups += 1
        bucket.refused += refused
        bucket.refused_close += refused and found.close
        bucket.same += not refused and found.same
        bucket.close += not refused and found.close

    @property
    def lookups(self) -> int:
        """Questions whose text was new in their context."""
        return self.empty + sum(bucket.lookups for bucket in self.buckets)

    def rows(self) -> list[dict[str, Any]]:
        """What each threshold would have done, with the guard and without: hits, their share of `lookups`, and the
        share of the hits that were wrong (not `close`) with its Wilson interval."""
        out: list[dict[str, Any]] = []
        for at, threshold in enumerate(THRESHOLDS, 1):
            above = self.buckets[at:]
            hits = sum(bucket.lookups for bucket in above)
            refused = sum(bucket.refused for bucket in above)
            close = sum(bucket.close for bucket in above)
            unguarded = close + sum(bucket.refused_close for bucket in above)
            out += [
                {"threshold": threshold, "guard": True} | _outcome(hits - refused, close, self.lookups),
                {"threshold": threshold, "guard": False} | _outcome(hits, unguarded, self.lookups),
            ]
        return out


def _outcome(hits: int, close: int, lookups: int) -> dict[str, Any]:
    wrong = hits - close
    return {
        "lookups": lookups,
        "hits": hits,
        "hit_share": hits / lookups if lookups else 0.0,
        "wrong": wrong,
        "wrong_share": wrong / hits if hits else 0.0,
        "wrong_interval": list(wilson(wrong, hits)),
    }
