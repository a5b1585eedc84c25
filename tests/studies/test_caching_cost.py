"""What the cache costs, from times that are given."""

import pytest

from studies.caching.cost import measurements

TIMES = {
    "none whole": [5.0, 6.0, 9.0], "none stream": [6.0, 6.0, 6.0],
    "memory whole": [5.5, 7.0, 9.2], "memory stream": [6.0, 6.1, 7.0],
    "redis whole": [6.0, 7.5, 10.0], "redis stream": [8.0, 8.0, 8.0],
    "memory hit whole": [1.0, 3.0, 2.0],
}  # fmt: skip


def test_costs_are_paired_by_round() -> None:
    found = {one.name: one.value for one in measurements(TIMES)}
    assert found["memory hit whole/p50_ms"] == 2.0
    assert found["memory whole/miss_cost_ms"] == pytest.approx(0.5)  # of 0.5, 1.0, 0.2; the medians are 1.0 apart
    assert found["redis stream/miss_cost_ms"] == pytest.approx(2.0)
