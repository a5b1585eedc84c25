"""Strategies against what each promises."""

from collections import Counter
from dataclasses import dataclass

import pytest

from tradewind.cluster.routing import BLOCK, STRATEGIES, strategy
from tradewind.errors import UserError


@dataclass
class Replica:
    name: str
    slots: int = 8
    ongoing: int = 0


def sent(name: str, replicas: list[Replica], count: int, prompt: tuple[int, ...] = ()) -> Counter[str]:
    """Requests that never end."""
    routing, seen = strategy(name), Counter[str]()
    for _ in range(count):
        chosen = routing(replicas, prompt)
        chosen.ongoing += 1
        seen[chosen.name] += 1
    return seen


def test_turns_go_round_also_when_replicas_come_and_go() -> None:
    routing, replicas = strategy("round_robin"), [Replica(name) for name in "cab"]
    assert [routing(replicas, ()).name for _ in range(4)] == ["a", "b", "c", "a"]
    assert [routing(replicas[:2], ()).name for _ in range(3)] == ["c", "a", "c"]


@pytest.mark.parametrize("name", ["least_loaded", "power_of_two", "capacity_weighted"])
def test_a_full_replica_is_left_alone(name: str) -> None:
    replicas = [Replica("a", ongoing=100), Replica("b"), Replica("c")]
    assert sent(name, replicas, 20)["a"] == 0


def test_the_least_loaded_counts_requests_and_the_weighted_counts_shares() -> None:
    unlike = [Replica("large", slots=12), Replica("small", slots=4)]
    assert sent("capacity_weighted", unlike, 16) == {"large": 12, "small": 4}
    unlike = [Replica("large", slots=12), Replica("small", slots=4)]
    assert sent("least_loaded", unlike, 16) == {"large": 8, "small": 8}


def test_two_choices_are_nearly_even() -> None:
    seen = sent("power_of_two", [Replica(str(number)) for number in range(10)], 1000)
    assert max(seen.values()) - min(seen.values()) < 10


def test_prompts_that_begin_alike_go_together_until_their_replica_is_much_fuller() -> None:
    routing, replicas = strategy("prefix_aware"), [Replica("a"), Replica("b"), Replica("c")]
    shared = tuple(range(4 * BLOCK))
    first = routing(replicas, (*shared, 1))
    for last in range(2, 6):
        assert routing(replicas, (*shared, last)) is first
    first.ongoing = 8
    assert routing(replicas, (*shared, 7)) is not first


def test_prompts_that_share_too_little_are_spread() -> None:
    routing, replicas = strategy("prefix_aware"), [Replica("a"), Replica("b"), Replica("c")]
    seen = Counter[str]()
    for number in range(300):
        chosen = routing(replicas, (*range(BLOCK), *range(1000 * (number + 1), 1000 * (number + 1) + 20 * BLOCK)))
        chosen.ongoing += 1
        seen[chosen.name] += 1
    assert min(seen.values()) > 80


@pytest.mark.parametrize("name", STRATEGIES)
def test_one_candidate_is_chosen_and_an_unknown_name_gives_the_choices(name: str) -> None:
    only = Replica("a", ongoing=10**6)
    assert strategy(name)([only], (1, 2)) is only
    with pytest.raises(UserError, match=r"unknown routing 'best' \(choices: round_robin, "):
        strategy("best")
