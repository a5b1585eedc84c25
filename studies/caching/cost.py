"""What the response cache itself costs and gives, to a tenth of a millisecond: the same calls to servers of the mock engine
without a cache, with one in memory, and two over one Redis.

    python -m studies.caching.cost

1. KNOWN questions of each kind (whole, or a stream of TOKENS events) are asked of the server with memory and of one over
   Redis: hits from then on, in an order in which each comes back after more others than a server keeps decoded.
2. A round has a block of every call and kind, in an order of its own: BLOCK calls, RATE a second, to one server while the
   others have none. The blocks of a kind's new questions, the same for all servers, follow each other: a miss where there is
   a cache. What the first server over Redis made in the round before, the second one fetches. The empty route has a block.
3. The first LEAD calls of a block, which open its connection and find a server that had nothing to do for a while, do not
   count.

The client parses nothing: times are from the first byte sent to the last one read. The
mock engine takes next to no time, and the same for everybody, so that a miss minus the same question's call without a cache
is what the cache adds. Intervals draw whole rounds anew. Results: reports/studies/caching/cost.json. Not covered: load
beside it (see load.py), questions and answers of other lengths.
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

import numpy as np
from tqdm import tqdm

from tradewind import host
from tradewind.caching.node import redis_node
from tradewind.config import run
from tradewind.errors import UserError
from tradewind.files import write_json
from tradewind.load.resampling import RESAMPLES, Interval, percentiles
from tradewind.load.results import quantile
from tradewind.load.server import started
from tradewind.tracking import Measurement, git_commit, record_run

REPORT, RUNS = Path("reports/studies/caching/cost.json"), Path("reports/runs")
ROUNDS, BLOCK, LEAD, RATE, TOKENS, KNOWN, SEED = 16, 30, 5, 50.0, 44, 200, 0
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
SERVER = {"memory hit": "memory", "redis hit": "redis", "redis fetched": "redis two", "empty": "memory"}
EMPTY = ("empty", "")
Times = dict[str, list[list[float]]]
"""Call and kind -> ms of each round's calls."""


class Client:
    """One connection at a time."""

    def __init__(self, url: str) -> None:
        place = urlsplit(url)
        self.http = http.client.HTTPConnection(str(place.hostname), place.port, timeout=30)

    def renew(self) -> None:
        """A server closes one that was idle for some seconds."""
        self.http.close()

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


def measured(clients: dict[str, Client]) -> Times:
    """Raises UserError where X-Cache is another than was expected: then the call is not what it is called."""
    for kind, stream in KINDS.items():
        for number in range(KNOWN):
            clients["memory"].ask(f"known {number} {kind}", stream)
            clients["redis"].ask(f"known {number} {kind}", stream)
        for number in range(BLOCK):
            clients["redis"].ask(f"round -1 {number} {kind}", stream)
    times: Times = {}
    plan = planned(random.Random(SEED))
    for number, name, kind in tqdm(plan, desc="blocks", disable=None):
        took = block(clients, number, name, kind)
        times.setdefault(f"{name} {kind}".strip(), []).append(took[LEAD:])
    return times


def planned(chance: random.Random) -> list[tuple[int, str, str]]:
    """Round, call and kind of every block. What is paired stands together, so that a slow second hits all of it alike."""
    new = [name for name, told in EXPECTED.items() if told != "hit"]
    alone = [[(name, kind)] for name, told in EXPECTED.items() for kind in KINDS if told == "hit"]
    groups = [*([(name, kind) for name in new] for kind in KINDS), *alone, [EMPTY]]
    return [
        (number, *one)
        for number in range(ROUNDS)
        for group in chance.sample(groups, len(groups))
        for one in chance.sample(group, len(group))
    ]


def block(clients: dict[str, Client], number: int, name: str, kind: str) -> list[float]:
    """ms of its calls in turn, on a connection of its own."""
    client, took = clients[SERVER.get(name, name)], []
    client.renew()
    for place in range(BLOCK):
        begun = time.perf_counter()
        if (name, kind) == EMPTY:
            took.append(client.empty())
        else:
            one, told = client.ask(question(number, place, name, kind), KINDS[kind])
            if told != EXPECTED[name]:
                raise UserError(f"{name}, {kind}: X-Cache is {told}, not {EXPECTED[name]}")
            took.append(one)
        time.sleep(max(0.0, begun + 1 / RATE - time.perf_counter()))
    return took


def question(number: int, place: int, name: str, kind: str) -> str:
    """The same for all servers that are asked something new."""
    if name == "redis fetched":
        return f"round {number - 1} {place} {kind}"
    if EXPECTED[name] == "hit":
        return f"known {(number * BLOCK + place) % KNOWN} {kind}"
    return f"round {number} {place} {kind}"


def measurements(times: Times) -> list[Measurement]:
    found = []
    for name, rounds in times.items():
        for label, share in (("p50", 0.5), ("p95", 0.95)):
            value, count = ranked(rounds, share), sum(map(len, rounds))
            how = f"{label} (nearest rank): first byte sent to last one read"
            found.append(Measurement(f"{name}/{label}_ms", value, "ms", count, interval(rounds, share), how, SEED))
    for server in ("memory", "redis"):
        for kind in KINDS:
            extra = differences(times[f"{server} {kind}"], times[f"none {kind}"])
            how, count = "median over questions of a miss - the same call without a cache", sum(map(len, extra))
            name = f"{server} {kind}/miss_cost_ms"
            found.append(Measurement(name, ranked(extra, 0.5), "ms", count, interval(extra, 0.5), how, SEED))
    return found


def ranked(rounds: Sequence[Sequence[float]], share: float) -> float:
    """Of all rounds' values together."""
    return quantile([one for held in rounds for one in held], share)[0]


def interval(rounds: Sequence[Sequence[float]], share: float) -> Interval | None:
    """95 %, whole rounds drawn anew: calls of a block come in one second, and are alike."""
    picks = np.random.default_rng(SEED).integers(len(rounds), size=(RESAMPLES, len(rounds)))
    return percentiles([ranked([rounds[place] for place in row], share) for row in picks])


def differences(ours: Sequence[Sequence[float]], theirs: Sequence[Sequence[float]]) -> list[list[float]]:
    """Question by question."""
    pairs = zip(ours, theirs, strict=True)
    return [[one - other for one, other in zip(*pair, strict=True)] for pair in pairs]


def recorded(times: Times) -> dict[str, Any]:
    params = {"rounds": ROUNDS, "block": BLOCK - LEAD, "known": KNOWN, "rate": RATE, "tokens": TOKENS}
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


def lines(times: Times) -> list[str]:
    return [
        f"{one.name}: {one.value:.2f} ms" + (f" [{one.interval[0]:.2f}, {one.interval[1]:.2f}]" if one.interval else "")
        for one in measurements(times)
        if one.value is not None
    ]


if __name__ == "__main__":
    run(main)
