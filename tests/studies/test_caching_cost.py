"""What the cache costs: the plan of its calls, and figures from times that are given."""

import random
from collections import Counter

import pytest

from studies.caching.cost import BLOCK, EXPECTED, KINDS, KNOWN, ROUNDS, block, interval, measurements, planned, question
from tradewind.errors import UserError

TIMES = {
    "none whole": [[5.0, 6.0], [9.0]], "none stream": [[6.0, 6.0], [6.0]],
    "memory whole": [[5.5, 7.0], [9.2]], "memory stream": [[6.0, 6.1], [7.0]],
    "redis whole": [[6.0, 7.5], [10.0]], "redis stream": [[8.0, 8.0], [8.0]],
    "memory hit whole": [[1.0, 3.0], [2.0]],
}  # fmt: skip


def test_costs_are_paired_by_question() -> None:
    found = {one.name: one for one in measurements(TIMES)}
    assert found["memory hit whole/p50_ms"].value == 2.0
    assert found["memory whole/miss_cost_ms"].value == pytest.approx(0.5)  # of 0.5, 1.0, 0.2; the medians are 1.0 apart
    assert found["memory whole/miss_cost_ms"].n == 3
    assert found["redis stream/miss_cost_ms"].value == pytest.approx(2.0)


def test_an_interval_draws_whole_rounds() -> None:
    """Two rounds of one value each: one in four draws is of the first alone, one in four of the second."""
    assert interval([[1.0] * 50, [2.0] * 50], 0.5) == (1.0, 2.0)
    assert interval([[1.0, 2.0, 3.0]] * 9, 0.5) == (2.0, 2.0)


def test_every_round_has_each_block_once_in_an_order_of_its_own() -> None:
    plan = planned(random.Random(0))
    assert len(plan) == ROUNDS * (len(EXPECTED) * len(KINDS) + 1)
    assert set(Counter(plan).values()) == {1}
    orders = {tuple(one[1:] for one in plan if one[0] == number) for number in range(ROUNDS)}
    assert len(orders) == ROUNDS


def test_blocks_that_are_paired_follow_each_other() -> None:
    plan = planned(random.Random(0))
    for kind in KINDS:
        places = sorted(plan.index((0, name, kind)) for name in ("none", "memory", "redis"))
        assert places[2] - places[0] == 2


def test_a_known_question_comes_back_after_all_others() -> None:
    asked = [question(number, place, "memory hit", "whole") for number in range(ROUNDS) for place in range(BLOCK)]
    assert all(len(set(asked[at : at + KNOWN])) == KNOWN for at in range(len(asked) - KNOWN))


def test_the_second_server_fetches_what_the_first_one_made_a_round_ago() -> None:
    assert question(3, 7, "redis fetched", "stream") == question(2, 7, "redis", "stream")
    assert question(3, 7, "memory", "stream") == question(3, 7, "none", "stream")


def test_a_call_that_is_not_what_it_is_called_stops_the_study() -> None:
    class Missing:
        def renew(self) -> None:
            """Nothing to close."""

        def ask(self, question: str, stream: bool) -> tuple[float, str]:
            return 1.0, "miss"

    with pytest.raises(UserError, match="memory hit, whole: X-Cache is miss, not hit"):
        block({"memory": Missing()}, 0, "memory hit", "whole")  # type: ignore[dict-item]
