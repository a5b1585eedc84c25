"""The number of replicas follows the wait and the fill."""

from dataclasses import dataclass, field

import pytest

from tradewind.cluster.scaling import by_wait


@dataclass
class Told:
    current_num_replicas: int
    aggregated_metrics: dict[str, dict[str, float]] | None = field(default_factory=dict)


def told(wait: float, *busy: float) -> Told:
    names = [str(place) for place in range(len(busy))]
    return Told(len(busy), {"wait_s": dict.fromkeys(names, wait), "busy": dict(zip(names, busy, strict=True))})


@pytest.mark.parametrize(
    ("state", "wanted"),
    [
        (told(1.5, 1.0, 1.0), 3),  # half as long again: half as many again
        (told(60, 1.0, 1.0), 4),  # never more than twice
        (told(0.5, 1.0, 1.0), 2),  # full, and no wait: as they are
        (told(0, 0.2, 0.2, 0.2), 1),
        (told(0, 0.5, 0.5, 0.3), 2),
        (told(0, 0.0), 1),
        (Told(3), 3),  # nothing is known
        (Told(3, None), 3),
    ],
)
def test_by_wait(state: Told, wanted: int) -> None:
    assert by_wait(state) == (wanted, {})
