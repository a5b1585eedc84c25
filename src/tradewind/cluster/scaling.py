"""How many replicas there should be, from how long a request would wait and how full their slots are.

Ray Serve asks every few seconds, keeps what is said between its bounds and delays it (`upscale_delay_s`,
`downscale_delay_s`). Not covered: how long a replica takes to start, which the delays must allow for.
"""

import math
from collections.abc import Mapping
from typing import Any, Protocol


class Context(Protocol):
    """Of Ray's `AutoscalingContext`: metric -> replica -> what its `record_autoscaling_stats` said, averaged."""

    current_num_replicas: int
    aggregated_metrics: Mapping[str, Mapping[Any, float]] | None


def by_wait(ctx: Context, goal_s: float = 1.0, full: float = 0.7) -> tuple[float, dict[str, Any]]:
    """More in proportion to the wait beyond `goal_s`, at most twice as many; fewer where less than that would have their
    slots `full` of answers. Gives the number, which need not be whole, and no state."""
    now, told = ctx.current_num_replicas, ctx.aggregated_metrics or {}
    waits, busy = list(told.get("wait_s", {}).values()), list(told.get("busy", {}).values())
    if not waits or not busy:
        return now, {}
    wait = sum(waits) / len(waits)
    if wait > goal_s:
        return now * min(2.0, wait / goal_s), {}
    return min(now, max(1, math.ceil(sum(busy) / full))), {}
