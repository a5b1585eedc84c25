"""What the response cache itself costs and gives, to a tenth of a millisecond: the same calls, in turns, to servers of the
mock engine without a cache, with one in memory, and two over one Redis.

    python -m studies.caching.cost

A round has a new question, once whole and once as a stream of TOKENS events. In an order of its own it is asked of all
servers (a miss where there is a cache); of the one with memory and of one over Redis also a question that is known there,
of the other one over Redis the question of the round before, which only the first has seen; and of one the empty route.
One connection to each server, RATE calls a second, a client that parses nothing: times are from the first byte sent to the
last one read. The mock engine takes next to no time, and the same for everybody, so that a miss minus the call without a
cache is what the cache adds. Results: reports/studies/caching/cost.json. Not covered: load beside it (see load.py).
"""

import http.client
import json
import random
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from tqdm import tqdm

from tradewind import host
from tradewind.caching.node import redis_node
from tradewind.config import run
from tradewind.errors import UserError
from tradewind.evaluation.bootstrap import median_interval
from tradewind.files import write_json
from tradewind.load.results import quantile
from tradewind.load.server import started
from tradewind.tracking import Measurement, git_commit, record_run

REPORT, RUNS = Path("reports/studies/caching/cost.json"), Path("reports/runs")
ROUNDS, WARM_UP, RATE, TOKENS, SEED = 400, 10, 50.0, 44, 0
KINDS = {"whole": False, "stream": True}
EXPECTED = {
    "none": None,
    "memory": "miss",
    "redis": "miss",
    "memory hit": "hit",
    "redis hit": "hit",
    "redis fetched": "hit",
}
"""Call -> what X-Cache says of it; the servers' names, and what is known where."""
SERVER = {"memory hit": "memory", "redis hit": "redis", "redis fetched": "redis two"}


class Client:
    """One connection."""

    def __init__(self, url: str) -> None:
        place = urlsplit(url)
        self.http = http.client.HTTPConnection(str(place.hostname), place.port, timeout=30)

    def ask(self, question: str, stream: bool) -> tuple[float, str | None]:
        """Milliseconds, and X-Cache. Raises UserError for a call that fails."""
        body = {"model": "mock", "max_tokens": TOKENS, "ignore_eos": True, "temperature": 0, "stream": stream}
        body |= {"messages": [{"role": "user", "content": question}]}
        return self._timed("POST", "/v1/chat/completions", json.dumps(body).encode())

    def empty(self) -> float:
        return self._timed("GET", "/health", None)[0]

    def _timed(self, method: str, path: str, body: bytes | None) -> tuple[float, str | None]:
        begun = time.perf_counter()
        self.http.request(method, path, body, {"Content-Type": "application/json"})
        reply = self.http.getresponse()
        text = reply.read()
        took = 1000 * (time.perf_counter() - begun)
        if reply.status != http.client.OK:
            raise UserError(f"{path}: status {reply.status}: {text[:200]!r}")
        return took, reply.headers["X-Cache"]


def main() -> None:
    with ExitStack() as stack:
        node = stack.enter_context(redis_node())
        caches = {"none": "none", "memory": "memory", "redis": node.url, "redis two": node.url}
        options = ["--engine", "mock", "--model", "mock", "--cache"]
        clients = {name: Client(stack.enter_context(started([*options, cache]))) for name, cache in caches.items()}
        times = measured(clients)
    write_json(REPORT, recorded(times))
    print(*lines(times), sep="\n")


def measured(clients: dict[str, Client]) -> dict[str, list[float]]:
    """Call and kind -> ms of each round; those of the warm-up are left out. Raises UserError where X-Cache is another than
    was expected: then it is not what it is called."""
    chance = random.Random(SEED)
    times: dict[str, list[float]] = {}
    for kind, stream in KINDS.items():
        for server in ("memory", "redis"):
            clients[server].ask(f"known {kind}", stream)
    for number in tqdm(range(-WARM_UP, ROUNDS), desc="rounds", disable=None):
        calls = [(name, kind) for name in EXPECTED for kind in KINDS if number > -WARM_UP or name != "redis fetched"]
        for name, kind in chance.sample([*calls, ("empty", "")], len(calls) + 1):
            begun = time.perf_counter()
            if name == "empty":
                took = clients["memory"].empty()
            else:
                question = {"memory hit": "known", "redis hit": "known", "redis fetched": f"round {number - 1}"}
                asked = f"{question.get(name, f'round {number}')} {kind}"
                took, told = clients[SERVER.get(name, name)].ask(asked, KINDS[kind])
                if told != EXPECTED[name]:
                    raise UserError(f"{name}, {kind}: X-Cache is {told}, not {EXPECTED[name]}")
            if number >= 0:
                times.setdefault(f"{name} {kind}".strip(), []).append(took)
            time.sleep(max(0.0, begun + 1 / RATE - time.perf_counter()))
    return times


def measurements(times: dict[str, list[float]]) -> list[Measurement]:
    found = []
    for name, values in times.items():
        for label, share in (("p50", 0.5), ("p95", 0.95)):
            value, interval = quantile(values, share)
            how = f"{label} (nearest rank): first byte sent to last one read"
            found.append(Measurement(f"{name}/{label}_ms", value, "ms", len(values), interval, how, SEED))
    for server in ("memory", "redis"):
        for kind in KINDS:
            added = differences(times[f"{server} {kind}"], times[f"none {kind}"])
            interval = median_interval(added, SEED)
            how = "median over rounds of a miss - the same call without a cache"
            found.append(
                Measurement(f"{server} {kind}/miss_cost_ms", median(added), "ms", len(added), interval, how, SEED)
            )
    return found


def differences(ours: Sequence[float], theirs: Sequence[float]) -> list[float]:
    return [one - other for one, other in zip(ours, theirs, strict=True)]


def median(values: Sequence[float]) -> float:
    return quantile(values, 0.5)[0]


def recorded(times: dict[str, list[float]]) -> dict[str, Any]:
    params = {"rounds": ROUNDS, "rate": RATE, "tokens": TOKENS}
    found = measurements(times)
    with record_run(
        stage="caching-cost", question="caching", variant="mock", params=params, tags={"engine": "mock"},
        path=RUNS / "caching-cost.json",
    ) as made:  # fmt: skip
        for one in found:
            made.log(one)
        facts = {"device": host.device(), "git_commit": git_commit(), "seed": SEED, "params": params}
        rows = {
            one.name: {"value": one.value, "interval": one.interval, "n": one.n, "formula": one.formula}
            for one in found
        }
        return facts | {"run_id": made.run_id, "measurements": rows}


def lines(times: dict[str, list[float]]) -> list[str]:
    return [
        f"{one.name}: {one.value:.2f} ms" + (f" [{one.interval[0]:.2f}, {one.interval[1]:.2f}]" if one.interval else "")
        for one in measurements(times)
        if one.value is not None
    ]


if __name__ == "__main__":
    run(main)
