"""The cluster benchmark without a cluster: how a path's parts are told apart, prompts that begin alike, what is counted."""

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator
from itertools import islice

import pytest
import yaml

pytest.importorskip("ray", reason="clusters need requirements-cluster.lock")

from benchmarks.attached import Counted, changed, looping
from benchmarks.cluster import PARTS, Routing, arguments, lines, logged, pooled, prompts, shares, split, through
from tradewind.cluster.plan import ENGINE
from tradewind.cluster.remote import Batch, ReplicaLost
from tradewind.engine.mock import MockEngine
from tradewind.engine.requests import Request
from tradewind.engine.scheduler import Scheduler
from tradewind.engine.text import ByteTokenizer
from tradewind.errors import UserError

TTFT = {"engine": [10.0, 20.0], "replica": [12.0, 23.0], "server": [11.0, 21.0], "cluster": [18.0, 29.0]}
RATE = {"engine": [100.0, 100.0], "replica": [90.0, 95.0], "server": [98.0, 98.0], "cluster": [49.0, 49.0]}


def test_what_each_part_of_the_path_adds_is_a_difference_within_a_repeat():
    row = split({1: {"ttft_ms": TTFT, "tokens_per_s": RATE}})["1"]
    assert row["handle_router_added_ms"]["median"] == pytest.approx(2.5)
    assert row["proxy_added_ms"]["median"] == pytest.approx(5.0)  # (6 - 1, 6 - 1)
    assert row["replica_lost_share"]["median"] == pytest.approx(0.075)
    assert row["cluster_lost_share"]["median"] == pytest.approx(0.5)


def test_a_scheduler_is_timed_as_what_stands_in_its_place_would_be():
    scheduler = Scheduler(MockEngine(slots=4, max_len=64, step_delay=0.002), ByteTokenizer())
    try:
        with looping() as call:
            rate, first = through(scheduler, call)([[1, 2, 3], [4, 5, 6]], 16)
            with pytest.raises(UserError, match="a request ended with"):
                through(Refusing(), call)([[1]], 4)
    finally:
        scheduler.close()
    assert 0 < rate < 2 * 16 / (15 * 0.002)
    assert first > 0


class Refusing:
    def submit_all(self, calls):
        from tradewind.engine.requests import Cancelled

        for _, sink in calls:
            sink(Cancelled())


def test_prompts_share_their_beginnings_and_nothing_else():
    work = Routing(groups=3, shared=64, own=8)
    made = list(islice(prompts(work, 1000, random.Random(0)), 60))
    assert made == list(islice(prompts(work, 1000, random.Random(0)), 60))
    assert {len(one) for one in made} == {72}
    assert len({one[:64] for one in made}) == 3
    assert len({one[64:] for one in made}) == 60
    others = {one[:64] for one in islice(prompts(work, 1000, random.Random(1)), 60)}
    assert not others & {one[:64] for one in made}


def test_requests_are_compared_with_the_slots_of_their_replicas():
    turn = {"seconds": 2.0, "ttft_ms": [5.0] * 6, "prompt_tokens": 600, "cached_tokens": 150}
    even = pooled([turn | {"placed": Counter(large=4, small=2)}] * 2, {"large": 8, "small": 4})
    assert (even["requests"], even["requests_per_s"], even["cached_share"]) == (12, 3.0, 0.25)
    assert even["imbalance"] == pytest.approx(1)
    assert even["by_slots"] == {"8": 8, "4": 4}
    blind = pooled([turn | {"placed": Counter(large=3, small=3)}], {"large": 8, "small": 4})
    assert blind["imbalance"] == pytest.approx(1.5)


def test_goodput_is_a_share_of_the_peak():
    phases = shares({"capacity": {"goodput_per_s": 4.0}, "5x": {"goodput_per_s": 3.6}, "client": {"cpu_share": 0.1}})
    assert phases["5x"]["peak_share"] == pytest.approx(0.9)
    assert "peak_share" not in phases["client"]


def test_only_engines_get_the_arguments():
    with open("serve.yaml", encoding="utf-8") as file:
        config = yaml.safe_load(file)
    made = changed(config, {"model": "student-int8", "slots": [8, 4]})
    for app in made["applications"]:
        ours = app["import_path"] == ENGINE
        assert (app["args"].get("model") == "student-int8") == ours
        assert (app["args"].get("slots") == [8, 4]) == ours


def test_requests_are_counted_where_they_are_placed_and_when_they_are_resumed():
    class Two:
        async def stream(self, request: Request, avoid: frozenset[str]) -> AsyncIterator[Batch]:
            if "none" in avoid:
                raise ReplicaLost("none", "nobody is there")
            for _ in range(2):
                yield Batch("a", [])

        def states(self):
            return []

    counted = Counted(Two())

    async def drain(request: Request, *avoid: str) -> None:
        async for _ in counted.stream(request, frozenset(avoid)):
            pass

    async def all_of_them() -> None:
        await drain(Request((1,), 4))
        await drain(Request((1,), 4, resumed=(2,)), "b")
        with pytest.raises(ReplicaLost):
            await drain(Request((1,), 4, resumed=(2,)), "none")

    asyncio.run(all_of_them())
    assert counted.placed == {"a": 2}
    assert counted.resumed == 1


def test_all_parts_are_reported():
    path = split({1: {"ttft_ms": TTFT, "tokens_per_s": RATE}})
    turn = {"seconds": 2.0, "ttft_ms": [5.0], "prompt_tokens": 6, "cached_tokens": 1, "placed": Counter(a=1)}
    phase = {"goodput_per_s": 3.0, "peak_share": 0.9, "ttft_p99_ms": 1.0, "requests": 9, "rejected": 1, "failures": 0}
    measured = {
        "path": {"streams": path, "calls": {"proxy_added_ms": {"median": 1.0, "interval": [0.5, 2.0]}}},
        "routing": {"strategies": {"round_robin": pooled([turn], {"a": 8})}},
        "overload": {"targets": {"1 replica": {"5x": phase, "client": {}}}},
    }
    text = lines(measured)
    assert all(part in text for part in ("handle and router +2.5", "GET /v1/models", "round_robin", "90% of the peak"))
    names = [one.name for one in logged(measured, 2)]
    assert len(names) == len(set(names))
    assert {"handle_router_added_ms_at_1", "round_robin/imbalance", "1_replica/5x/peak_share"} <= set(names)
    assert arguments([]).parts == PARTS
