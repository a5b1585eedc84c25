"""Who starts next: priorities, tenants' shares, and that nobody waits for ever."""

import random
from collections import Counter

import pytest

from tradewind.engine import queue as module
from tradewind.engine.queue import ANSWER_COST, OLDEST_EVERY, PROMPT_COST, FairQueue
from tradewind.engine.requests import Request
from tradewind.engine.ticket import Ticket


def ticket(tenant: str = "", priority: int = 0, prompt: int = 10, n: int = 1) -> Ticket:
    return Ticket(
        Request((0,) * prompt, 5, tenant=tenant, priority=priority, n=n), lambda event: None, [], lambda: None
    )


def filled(*tickets: Ticket) -> FairQueue:
    queue = FairQueue()
    for one in tickets:
        queue.add(one)
    return queue


def served(queue: FairQueue, count: int, answer: int = 10) -> list[Ticket]:
    """The next `count`, each charged for its prompt and `answer` tokens."""
    out = []
    for _ in range(count):
        one = queue.take()
        queue.charge(one.request.tenant, PROMPT_COST * len(one.request.prompt) + ANSWER_COST * answer)
        out.append(one)
    return out


def test_one_tenant_one_priority_is_first_come_first_served() -> None:
    tickets = [ticket() for _ in range(20)]
    assert served(filled(*tickets), 20) == tickets


def test_smaller_priorities_first() -> None:
    low, normal, high = ticket(priority=5), ticket(), ticket(priority=-1)
    assert served(filled(low, normal, high), 3) == [high, normal, low]


def test_one_put_back_is_the_first_of_its_tenant_and_gains_nothing() -> None:
    first, second, other = ticket("a"), ticket("a"), ticket("b")
    queue = filled(first, second, other)
    (taken,) = served(queue, 1)
    assert taken is first
    queue.put_back(first)
    assert len(queue) == 3
    assert served(queue, 3) == [other, first, second]


def test_a_low_priority_moves_on_under_endless_high_ones() -> None:
    low = [ticket(priority=9) for _ in range(3)]
    queue = filled(*low)
    waited = []
    for turn in range(1, 4 * OLDEST_EVERY):
        queue.add(ticket())
        queue.add(ticket())
        if served(queue, 1)[0] in low:
            waited.append(turn)
    assert waited == [OLDEST_EVERY, 2 * OLDEST_EVERY, 3 * OLDEST_EVERY]


def test_tenants_that_wait_share_the_tokens_evenly() -> None:
    """One sends many short requests, one few long ones: what each is served differs by one long request at most."""
    many = [ticket("many", prompt=10) for _ in range(200)]
    few = [ticket("few", prompt=100) for _ in range(20)]
    queue = filled(*many, *few)
    tokens: Counter[str] = Counter()
    left = Counter(many=200, few=20)
    while queue:
        one = served(queue, 1, answer=0)[0]
        tokens[one.request.tenant] += len(one.request.prompt)
        left[one.request.tenant] -= 1
        if min(left.values()):
            assert abs(tokens["many"] - tokens["few"]) <= 100


def test_idle_time_is_not_saved_up() -> None:
    queue = filled(*[ticket("busy") for _ in range(100)])
    served(queue, 50)
    for _ in range(50):
        queue.add(ticket("new"))
    assert {one.request.tenant for one in served(queue, 4)} == {"busy", "new"}


def test_coming_back_to_an_empty_queue_forgets_no_debt() -> None:
    """The last to leave is the mark: who was served less than it is lifted, who was served more keeps its counter."""
    queue = filled(ticket("greedy"))
    served(queue, 1, answer=10_000)
    queue.add(ticket("modest"))
    assert queue._served["modest"] == queue._served["greedy"]
    served(queue, 1)
    queue.charge("greedy", 10_000)
    queue.add(ticket("modest"))
    queue.add(ticket("greedy"))
    assert served(queue, 1)[0].request.tenant == "modest"


def test_no_tenant_starves_a_random_crowd_of_them() -> None:
    draw = random.Random(0)
    queue = FairQueue()
    victim = ticket("victim", priority=3)
    for turn in range(200):
        for _ in range(2):
            queue.add(ticket(f"tenant {draw.randrange(6)}", draw.choice([-2, 0, 1, 3]), draw.randrange(1, 60)))
        if turn == 20:
            queue.add(victim)
        if served(queue, 1)[0] is victim:
            break
    else:
        pytest.fail("the victim never started")


def test_a_ticket_leaves_once() -> None:
    first, second = ticket(), ticket("b")
    queue = filled(first, second)
    queue.remove(first)
    queue.remove(first)
    assert len(queue) == 1
    assert queue.take() is second
    assert len(queue) == 0
    with pytest.raises(ValueError):
        queue.take()


def test_tenants_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "TENANTS", 8)
    queue = FairQueue()
    for number in range(1000):
        queue.add(ticket(f"tenant {number}"))
        served(queue, 1)
    assert len(queue._served) <= 9


def test_ahead_is_who_has_the_same_priority_or_a_smaller_one() -> None:
    low, normal, high = ticket(priority=5), ticket(), ticket(priority=-1)
    queue = filled(low, normal, high)
    assert queue.ahead("", 0, 10) == [high, normal]
    assert queue.ahead("", -2, 10) == []
    assert set(queue.ahead("", 9, 10)) == {low, normal, high}


def test_of_a_tenant_that_floods_only_a_share_is_ahead_of_others() -> None:
    flood, own = [ticket("flood", prompt=10) for _ in range(50)], ticket("own", prompt=15)
    queue = filled(*flood, own)
    assert queue.ahead("flood", 0, 10) == [*flood, own]
    assert queue.ahead("new", 0, 25) == [*flood[:3], own]
    assert queue.ahead("own", 0, 25) == [own, *flood[:4]]


def test_ahead_agrees_with_who_is_served() -> None:
    """A newcomer beside a flood starts after about as many tokens as it was told."""
    queue = filled(*[ticket("flood", prompt=10) for _ in range(50)])
    newcomer = ticket("new", prompt=30)
    told = len(queue.ahead("new", 0, 30))
    queue.add(newcomer)
    order = served(queue, 20, answer=0)
    assert order.index(newcomer) <= told <= 3
