"""What the cache is worth to the whole system: requests/s at the same p95 as the server without it.

1. The p95 is of all requests that were sent: one that was refused or failed exceeds every p95, so refusing gains nothing.
2. Of the closed loops with the cache, by users: the last one that keeps to the uncached p95, as do all with fewer users.
3. Its requests/s (of those that ended well) over the uncached ones are the gain, 0 where not even the first keeps to it.
4. The interval draws the seconds of every phase anew and chooses anew, so that it covers the choice too.

Not covered: loads between those that were run; other seeds of the requests than those of the rounds.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tradewind.load.outcomes import Phases, ended, outcome_of, waits
from tradewind.load.resampling import FEWEST, RESAMPLES, blocks, percentiles
from tradewind.load.results import Span, Timing
from tradewind.tracking import Measurement

SAME_P95 = 0.8
"""Of 1 / (1 - hit ratio), the goal of the gain."""
UNCACHED = "uncached"
SENT = "of all requests sent, refused and failed ones as infinite"


@dataclass(frozen=True)
class Part:
    """A block of a phase. waits: [requests] seconds. good, hits: counts."""

    waits: NDArray[np.float64]
    good: int
    hits: int


@dataclass(frozen=True)
class System:
    """What users of one load had. p95: seconds. rate: requests/s that ended well. hit_ratio: of all that were sent."""

    p95: float
    rate: float
    hit_ratio: float


def system(parts: Sequence[Part], length: float) -> System:
    """length: seconds of all parts together."""
    held = np.concatenate([part.waits for part in parts])
    if not len(held):
        return System(math.inf, 0.0, 0.0)
    rank = max(0, math.ceil(0.95 * len(held)) - 1)
    return System(
        float(np.partition(held, rank)[rank]),
        sum(part.good for part in parts) / length,
        sum(part.hits for part in parts) / len(held),
    )


def kept_to(loads: Sequence[tuple[int, System]], p95: float) -> tuple[int, System] | None:
    """loads: with their users, ascending."""
    best = None
    for users, one in loads:
        if one.p95 > p95:
            break
        best = users, one
    return best


def same_p95(phases: Phases, seed: int) -> list[Measurement]:
    """Of the phases `uncached` and `cached N users`."""
    loads = {
        (0 if name == UNCACHED else int(name.split()[1])): (name, _parts(spans, requests), _seconds(spans))
        for name, (spans, requests) in phases.items()
        if name == UNCACHED or name.startswith("cached ")
    }
    if 0 not in loads or not any(part.good for part in loads[0][1]):
        return []
    seen = {users: system(parts, length) for users, (_, parts, length) in loads.items()}
    chance = np.random.default_rng(seed)
    drawn = [
        {users: system(_drawn(parts, chance), length) for users, (_, parts, length) in loads.items()}
        for _ in range(RESAMPLES if min(len(parts) for _, parts, _ in loads.values()) >= FEWEST else 0)
    ]
    found = []
    for users, (name, parts, _) in sorted(loads.items()):
        value, sent = 1000 * seen[users].p95, sum(len(part.waits) for part in parts)
        interval = percentiles([1000 * one[users].p95 for one in drawn]) if drawn else None
        formula = f"p95 (nearest rank) of E2E {SENT}"
        shown = value if math.isfinite(value) else None
        found.append(Measurement(f"{name}/system_p95_ms", shown, "ms", sent, interval, formula, seed))
    return [*found, *_gain(seen, drawn, seed)] if len(loads) > 1 else found


def _gain(seen: dict[int, System], drawn: Sequence[dict[int, System]], seed: int) -> list[Measurement]:
    best = _best(seen)
    interval = percentiles([_ratio(one) for one in drawn]) if drawn else None
    rule = "the most users whose p95 is at most the uncached one, as is that of all fewer users; 0: none"
    how = "requests/s at same_p95_users / those of phase `uncached`; 0: none; blocks of a second drawn and chosen anew"
    found = [
        Measurement("same_p95_users", best[0] if best else 0, "users", len(seen) - 1, None, rule, seed),
        Measurement("same_p95_gain", _ratio(seen), "1", None, interval, how, seed),
    ]
    if best and best[1].hit_ratio < 1:
        formula = f"{SAME_P95} / (1 - hits / requests sent at same_p95_users): what the gain is to reach"
        goal = SAME_P95 / (1 - best[1].hit_ratio)
        found.append(Measurement("same_p95_goal", goal, "1", None, None, formula, seed))
    return found


def _best(seen: dict[int, System]) -> tuple[int, System] | None:
    return kept_to(sorted((users, one) for users, one in seen.items() if users), seen[0].p95)


def _ratio(seen: dict[int, System]) -> float:
    best = _best(seen)
    return best[1].rate / seen[0].rate if best and seen[0].rate else 0.0


def _parts(spans: Sequence[Span], requests: Sequence[Timing]) -> list[Part]:
    return [
        Part(
            np.array(waits(block), np.float64),
            len(good := ended(block)),
            sum(outcome_of(one) == "hit" for one in good),
        )
        for block in blocks(requests, spans)
    ]


def _seconds(spans: Sequence[Span]) -> float:
    return sum(end - start for start, end in spans)


def _drawn(parts: Sequence[Part], chance: np.random.Generator) -> list[Part]:
    return [parts[place] for place in chance.integers(len(parts), size=len(parts))]
