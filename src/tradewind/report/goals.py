"""What was to be reached, beside what was measured: `reached` follows from the figures of the reports alone.

A goal that lies within the 95 % interval of its figure is reached, or missed, but not for certain.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

UNKNOWN = "not measured"


@dataclass(frozen=True)
class Goal:
    """A row. values: measurements that are each at most `limit`; `limit` None where one of the two was not measured."""

    words: str
    told: str
    held: Sequence[Mapping[str, Any]]
    limit: float | None
    least: bool = False
    """At least `limit`, instead."""

    @property
    def reached(self) -> str:
        figures = [one["value"] for one in self.held]
        if self.limit is None or not figures:
            return UNKNOWN
        if any(value is None for value in figures):  # infinite: requests failed
            return "no"
        good = all(value >= self.limit if self.least else value <= self.limit for value in figures)
        sure = not any(self._open(one.get("interval"), self.limit) for one in self.held)
        return f"{'yes' if good else 'no'}{'' if sure else ', not for certain'}"

    @staticmethod
    def _open(interval: Sequence[float] | None, limit: float) -> bool:
        return interval is not None and interval[0] < limit < interval[1]
