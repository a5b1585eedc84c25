"""What a cluster costs and brings: the way through it, five ways to route, and far more requests than it can answer.

    python -m benchmarks.cluster [--variant teacher-int8] [--parts hop path routing overload]

hop: a first token of the mock engine, which takes no time, from this process and from a replica, in turns: what handle and
    router add (goal: 3 ms).
path: the same greedy prompts, in turns, by four ways: `engine`, a scheduler in this process; `replica`, one replica
    through handle and router, from this process; `server`, HTTP to one process that serves; `cluster`, HTTP to the proxy
    of the same replica. So replica - engine is what handle and router add to TTFT, and what cluster - replica is more
    than server - engine is the proxy's own; so is what a call that no engine sees takes longer.
routing: two replicas unlike in slots, closed-loop callers, prompts of which several begin alike; each strategy in turns
    on the same replicas, each time with beginnings that nobody has seen. The strategy is that of this process's router.
overload: Locust's scenario (`loadtests/overload.py`) against one server, one replica, two replicas, one after the other:
    closed-loop peak, then 2, 5 and 10 times as many arrivals; goodput under the SLO of conf/loadtest.

Every process has `threads` threads. Replicas share the machine's cores with each other, the proxy and the client, so that
more of them bring no more tokens/s. Each part runs in a process of its own and is written to
reports/benchmarks/cluster.json beside the others. Not covered: several machines, several API replicas, HAProxy.
"""

import argparse
import asyncio
import random
import statistics
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from tqdm import tqdm

from benchmarks.attached import Attached, cluster, reached
from benchmarks.client import get
from benchmarks.llama_cpp import Work as Prompting
from benchmarks.llama_cpp import ours
from benchmarks.llama_cpp import prompts as windows
from benchmarks.overhead import Side, Values, compare, over_http
from benchmarks.overhead import Work as PathWork
from benchmarks.overload import quantiles
from benchmarks.servers import Server, started
from tradewind import host
from tradewind.cluster.routing import STRATEGIES
from tradewind.config import build, read_params, run
from tradewind.engine import load_engine
from tradewind.engine.backend import Backend
from tradewind.engine.mock import MockEngine
from tradewind.engine.requests import TERMINAL, Delta, Done, Event, Request
from tradewind.engine.sampling import SamplingParams
from tradewind.engine.scheduler import Scheduler
from tradewind.engine.text import ByteTokenizer
from tradewind.errors import UserError
from tradewind.evaluation.bootstrap import median_interval
from tradewind.evaluation.variant import load_codec
from tradewind.files import read_json, write_json
from tradewind.load.scenario import LoadSettings, run_scenario
from tradewind.load.server import started as serving
from tradewind.tracking import Measurement, git_commit, record_run

PARTS = ("hop", "path", "routing", "overload")
HOPS, WARM_HOPS = 200, 30
GOAL_ADDED_MS, GOAL_OF_PEAK = 3.0, 0.85
GREEDY = SamplingParams(temperature=0)
Call = Callable[[Any], Any]
"""Runs a coroutine in the event loop of `Attached` and gives its result."""
Row = dict[str, Any]


@dataclass(frozen=True)
class Routing:
    """slots: of the replicas. shared, own: prompt tokens that `groups` of prompts begin with, and that follow. seconds: of
    a strategy in a round. callers: as many as answers fit, that ask again at once."""

    slots: tuple[int, ...] = (8, 4)
    rounds: int = 2
    seconds: float = 12.0
    callers: int = 12
    groups: int = 6
    shared: int = 256
    own: int = 32
    answer_tokens: int = 32


class Timed:
    """A request's sink: when its first token came, and how it ended. Called from any thread."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop, self._begun = loop, time.perf_counter()
        self.first_ms = 0.0
        self.end: asyncio.Future[Event] = loop.create_future()

    def __call__(self, event: Event) -> None:
        if not self.first_ms and isinstance(event, Delta):
            self.first_ms = 1000 * (time.perf_counter() - self._begun)
        if isinstance(event, TERMINAL):
            self._loop.call_soon_threadsafe(self.end.set_result, event)

    async def done(self) -> Done:
        """Raises UserError where the request ended otherwise."""
        end = await self.end
        if not isinstance(end, Done):
            raise UserError(f"a request ended with {end}")
        return end


def main() -> None:
    given = arguments()
    if len(given.parts) > 1:  # a process attaches to one cluster in its life
        for part in given.parts:
            own = [text for text in sys.argv[1:] if text not in ("--parts", *PARTS)]
            if subprocess.run(
                [sys.executable, "-m", "benchmarks.cluster", *own, "--parts", part], check=False
            ).returncode:
                raise UserError(f"part {part} broke off")
        return
    (part,) = given.parts
    size = {"slots": given.slots, "max_len": 1024, "threads": given.threads}
    args = {"model": given.variant, "engine": given.engine, "variants": str(given.variants.resolve())} | size
    measured = {part: measure(part, given, args)}
    _log(given, measured)
    facts = {"device": host.device(), "git_commit": git_commit(), "variant": given.variant, "threads": given.threads}
    kept = read_json(given.out) if given.out.exists() else {}
    write_json(given.out, kept | facts | measured)
    print(lines(measured))


def measure(part: str, given: argparse.Namespace, args: Mapping[str, Any]) -> Row:
    if part == "hop":
        return hop(given)
    if part == "path":
        return path(given, args)
    return routing(given, args, Routing(seconds=given.seconds)) if part == "routing" else overload(given, args)


def arguments(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="What a cluster costs and brings.")
    parser.add_argument("--variant", default="teacher-int8")
    parser.add_argument("--engine", default="ort")
    parser.add_argument("--variants", type=Path, default=Path("artifacts/variants"))
    parser.add_argument("--corpus", type=Path, default=Path("artifacts/corpus"))
    parser.add_argument("--out", type=Path, default=Path("reports/benchmarks/cluster.json"))
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--seconds", type=float, default=12.0, help="of each strategy in each round")
    parser.add_argument("--overload-seconds", type=int, default=100, help="of each target")
    for option, default in (("repeats", 5), ("requests", 5), ("threads", 1), ("slots", 8), ("ttft-goal-ms", 4000)):
        parser.add_argument(f"--{option}", type=int, default=default)
    return parser.parse_args(argv)


# --- the hop ----------------------------------------------------------------------------------------------------------


def hop(given: argparse.Namespace) -> Row:
    args = {"model": "mock", "engine": "mock", "slots": given.slots, "max_len": 1024}
    scheduler = Scheduler(MockEngine(given.slots, 1024), ByteTokenizer())
    prompt = [list(range(64))]
    try:
        with cluster(args, "--replicas", "1"), reached() as there:
            near, far = through(scheduler, there.call), through(there.remote, there.call)
            pairs = [(near(prompt, 1)[1], far(prompt, 1)[1]) for _ in range(WARM_HOPS + HOPS)][WARM_HOPS:]
    finally:
        scheduler.close()
    added = middle([replica - engine for engine, replica in pairs])
    return {
        "engine": quantiles([one for one, _ in pairs]),
        "replica": quantiles([one for _, one in pairs]),
        "added_ms": added,
    }


# --- the path ---------------------------------------------------------------------------------------------------------


def path(given: argparse.Namespace, args: Mapping[str, Any]) -> Row:
    """Nothing is refused, cached or drafted here: that would hide what the path costs."""
    work = PathWork(given.repeats, given.requests, (1, given.slots), 128, 64, given.threads, given.slots)
    prompting = Prompting(work.repeats, work.requests, work.prompt_tokens, work.answer_tokens, work.threads)
    plain = {"ttft_goal_ms": 0, "lookup_tokens": 0, "prefix_cache_mib": 0}
    alone = ours(given.variant, given.variants, prompting)
    options = ("--ttft-goal-ms", "0", "--lookup-tokens", "0", "--slots", str(work.slots))
    alone = replace(alone, command=(*alone.command, *options))
    folder = given.variants / given.variant
    engine = load_engine(folder, given.engine, work.slots, 1024, work.threads)
    engine.warm_up()
    scheduler = Scheduler(engine, load_codec(folder))  # type: ignore[arg-type] # a Codec of a variant is one
    try:
        with started(alone), cluster({**args, **plain}, "--replicas", "1") as url, reached() as there:
            port = urlsplit(url).port or 0
            sides = {
                "engine": through(scheduler, there.call),
                "replica": through(there.remote, there.call),
                "server": over_http(alone),
                "cluster": over_http(Server("the cluster", given.variant, (), port, "/ready")),
            }
            values = compare(sides, windows(folder, given.corpus, prompting), work)
            calls = asyncio.run(plain_calls({"server": alone.port, "cluster": port}))
    finally:
        scheduler.close()
    return {"work": asdict(work), "streams": split(values), "calls": calls}


def through(backend: Backend, call: Call) -> Side:
    """Requests given to a scheduler, or to what stands in its place: no HTTP."""

    async def at_once(asked: Sequence[list[int]], answer_tokens: int) -> tuple[float, float]:
        loop, begun, sinks = asyncio.get_running_loop(), time.perf_counter(), []
        for prompt in asked:
            sinks.append(Timed(loop))
            backend.submit_all([(Request(tuple(prompt), answer_tokens, GREEDY, ignore_eos=True), sinks[-1])])
        ends = [await sink.done() for sink in sinks]
        rate = sum(end.completion_tokens for end in ends) / (time.perf_counter() - begun)
        return rate, statistics.median(sink.first_ms for sink in sinks)

    def side(asked: Sequence[list[int]], answer_tokens: int) -> tuple[float, float]:
        rate, first = call(at_once(asked, answer_tokens))
        return rate, first

    return side


async def plain_calls(ports: Mapping[str, int], count: int = 100) -> Row:
    """Milliseconds of GET /v1/models, in turns, a connection each: no engine and no handle is asked."""
    seen: dict[str, list[float]] = {name: [] for name in ports}
    for _ in range(count):
        for name, port in ports.items():
            seen[name].append(1000 * (await get(port, "/v1/models")).seconds)
    added = [far - near for far, near in zip(seen["cluster"], seen["server"], strict=True)]
    return {name: quantiles(values) for name, values in seen.items()} | {"proxy_added_ms": middle(added)}


def split(values: Values) -> Row:
    """Of each number of streams: medians of the sides, and what each part adds, by differences within a repeat."""
    out: Row = {}
    for streams, measures in values.items():
        first, rate = measures["ttft_ms"], measures["tokens_per_s"]
        of = zip(first["engine"], first["replica"], first["server"], first["cluster"], strict=True)
        added = [(replica - engine, (far - replica) - (near - engine)) for engine, replica, near, far in of]
        out[str(streams)] = {
            "ttft_ms": {side: statistics.median(seen) for side, seen in first.items()},
            "tokens_per_s": {side: statistics.median(seen) for side, seen in rate.items()},
            "handle_router_added_ms": middle([one for one, _ in added]),
            "proxy_added_ms": middle([other for _, other in added]),
            "replica_lost_share": middle(lost(rate["replica"], rate["engine"])),
            "cluster_lost_share": middle(lost(rate["cluster"], rate["server"])),
            "repeats": measures,
        }
    return out


def lost(far: Sequence[float], near: Sequence[float]) -> list[float]:
    return [1 - one / other for one, other in zip(far, near, strict=True)]


def middle(values: Sequence[float]) -> Row:
    return {"median": statistics.median(values), "interval": list(median_interval(list(values), seed=0))}


# --- routing ----------------------------------------------------------------------------------------------------------


def routing(given: argparse.Namespace, args: Mapping[str, Any], work: Routing) -> Row:
    seen: dict[str, list[Row]] = {name: [] for name in STRATEGIES}
    vocabulary = 200 if given.engine == "mock" else 4000
    settings = {**args, "slots": list(work.slots), "ttft_goal_ms": 0}
    with cluster(settings, "--replicas", str(len(work.slots))), reached() as there:
        there.call(asked(there, prompts(work, vocabulary, random.Random("warm-up")), replace(work, seconds=1.0)))
        for number in tqdm(range(work.rounds), desc="rounds", disable=None):
            names = list(STRATEGIES) if number % 2 else list(reversed(STRATEGIES))
            for place, name in enumerate(names):
                there.route(name)
                texts = prompts(work, vocabulary, random.Random(f"{number} {place}"))
                seen[name].append(there.call(asked(there, texts, work)))
        slots = there.slots()
    return {"work": asdict(work), "strategies": {name: pooled(rows, slots) for name, rows in seen.items()}}


def prompts(work: Routing, vocabulary: int, chance: random.Random) -> Iterator[tuple[int, ...]]:
    """Token ids: one of the shared beginnings, drawn, and an end of its own. No text: what a token says is not routed by."""

    def tokens(count: int) -> tuple[int, ...]:
        return tuple(chance.randrange(10, vocabulary) for _ in range(count))

    beginnings = [tokens(work.shared) for _ in range(work.groups)]
    while True:
        yield chance.choice(beginnings) + tokens(work.own)


async def asked(there: Attached, texts: Iterator[tuple[int, ...]], work: Routing) -> Row:
    """One strategy's turn."""
    loop, begun, ended = asyncio.get_running_loop(), time.perf_counter(), list[tuple[Timed, Done]]()
    before = there.counted.placed.copy()

    async def caller() -> None:
        while time.perf_counter() - begun < work.seconds:
            sink = Timed(loop)
            there.remote.submit_all([(Request(next(texts), work.answer_tokens, GREEDY, ignore_eos=True), sink)])
            ended.append((sink, await sink.done()))

    await asyncio.gather(*(caller() for _ in range(work.callers)))
    return {
        "seconds": time.perf_counter() - begun,
        "ttft_ms": [sink.first_ms for sink, _ in ended],
        "prompt_tokens": sum(done.prompt_tokens for _, done in ended),
        "cached_tokens": sum(done.cached_tokens for _, done in ended),
        "placed": there.counted.placed - before,
    }


def pooled(rows: Sequence[Row], slots: Mapping[str, int]) -> Row:
    """imbalance: requests a slot of the fullest replica over those of all together, 1 where all fill alike."""
    placed: Counter[str] = sum((row["placed"] for row in rows), Counter())
    per_slot = placed.total() / sum(slots.values())
    firsts = [first for row in rows for first in row["ttft_ms"]]
    return {
        "requests": len(firsts),
        "requests_per_s": len(firsts) / sum(row["seconds"] for row in rows),
        "ttft_ms": quantiles(firsts),
        "cached_share": sum(row["cached_tokens"] for row in rows) / sum(row["prompt_tokens"] for row in rows),
        "by_slots": {str(count): placed[name] for name, count in sorted(slots.items(), key=lambda one: -one[1])},
        "imbalance": max(placed[name] / count for name, count in slots.items()) / per_slot,
    }


# --- overload ---------------------------------------------------------------------------------------------------------


def overload(given: argparse.Namespace, args: Mapping[str, Any]) -> Row:
    """With the server's own settings; its goal for the first token, the same for all, is what refuses."""
    args = {**args, "ttft_goal_ms": given.ttft_goal_ms}
    settings = build(LoadSettings, read_params().get("loadtest", {}), "loadtest")
    settings = replace(settings, scenario="overload", model=given.variant, seconds=given.overload_seconds)
    out: Row = {}
    options = [text for key, value in args.items() for text in (f"--{key.replace('_', '-')}", str(value))]
    with serving(options) as url:
        out["server"] = loaded(settings, url)
    for count in (1, 2):
        with cluster(args, "--replicas", str(count)) as url:
            out[f"{count} replicas" if count > 1 else "1 replica"] = loaded(settings, url)
    return {"settings": asdict(settings), "ttft_goal_ms": given.ttft_goal_ms, "targets": out}


def loaded(settings: LoadSettings, url: str) -> Row:
    """The phases of one target: every measurement of each by its name."""
    found: Row = {}
    for one in run_scenario(settings, 0, url).measurements:
        phase, _, name = one.name.rpartition("/")
        found.setdefault(phase or "client", {})[name] = one.value
    return shares(found)


def shares(phases: Row) -> Row:
    """peak_share: goodput over that of the closed loop."""
    peak = phases["capacity"]["goodput_per_s"]
    for phase in phases.values():
        if "goodput_per_s" in phase:
            phase["peak_share"] = phase["goodput_per_s"] / peak if peak else None
    return phases


# --- the report -------------------------------------------------------------------------------------------------------


def lines(measured: Mapping[str, Row]) -> str:
    out = []
    if "hop" in measured:
        out.append(
            f"a first token of the mock engine: handle and router {shown(measured['hop']['added_ms'])} ms (goal "
            f"{GOAL_ADDED_MS:.0f})"
        )
    for streams, row in measured.get("path", {}).get("streams", {}).items():
        sides = [f"{side} {first:.1f} ms, {row['tokens_per_s'][side]:.1f}/s" for side, first in row["ttft_ms"].items()]
        out.append(f"{streams} streams, TTFT p50 and tokens: {'; '.join(sides)}")
        out.append(
            f"  handle and router {shown(row['handle_router_added_ms'])} ms of TTFT, "
            f"the proxy {shown(row['proxy_added_ms'])} ms; tokens/s lost to handle and router "
            f"{shown(row['replica_lost_share'], 100)} %, to the cluster {shown(row['cluster_lost_share'], 100)} %"
        )
    if "path" in measured:
        added = measured["path"]["calls"]["proxy_added_ms"]
        out.append(f"GET /v1/models: the proxy {shown(added)} ms")
    for name, row in measured.get("routing", {}).get("strategies", {}).items():
        out.append(
            f"{name:18} {row['requests_per_s']:6.2f} requests/s, TTFT p50 {row['ttft_ms']['p50']:.0f} p95 "
            f"{row['ttft_ms']['p95']:.0f} ms, cached {row['cached_share']:.0%}, by slots {row['by_slots']}, "
            f"imbalance {row['imbalance']:.2f}"
        )
    for target, phases in measured.get("overload", {}).get("targets", {}).items():
        for phase, row in phases.items():
            if "goodput_per_s" in row:
                out.append(
                    f"{target:10} {phase:9} goodput {row['goodput_per_s']:.2f}/s ({row['peak_share'] or 0:.0%} of the "
                    f"peak; goal at 5x {GOAL_OF_PEAK:.0%}), TTFT p99 {row['ttft_p99_ms']:.0f} ms, refused "
                    f"{row['rejected']:.0f} (p99 {row.get('refusal_p99_ms') or 0:.0f} ms), failed {row['failures']:.0f}"
                )
    return "\n".join(out)


def shown(value: Row, scale: float = 1.0) -> str:
    low, high = value["interval"]
    return f"{scale * value['median']:+.1f} [{scale * low:.1f}, {scale * high:.1f}]"


def logged(measured: Mapping[str, Row], repeats: int) -> Iterator[Measurement]:
    if "hop" in measured:
        value = measured["hop"]["added_ms"]
        formula = "median over pairs of the mock engine's TTFT as a replica - in this process"
        yield Measurement("hop_added_ms", value["median"], "ms", HOPS, tuple(value["interval"]), formula, 0)
    for streams, row in measured.get("path", {}).get("streams", {}).items():
        for name, unit, formula in (
            ("handle_router_added_ms", "ms", "median over repeats of TTFT through handle and router - engine"),
            ("proxy_added_ms", "ms", "median over repeats of (cluster - replica) - (server - engine), TTFT"),
            ("replica_lost_share", "1", "median over repeats of 1 - tokens/s through handle and router / engine"),
            ("cluster_lost_share", "1", "median over repeats of 1 - tokens/s of the cluster / one server"),
        ):
            low, high = row[name]["interval"]
            yield Measurement(f"{name}_at_{streams}", row[name]["median"], unit, repeats, (low, high), formula, 0)
    for name, row in measured.get("routing", {}).get("strategies", {}).items():
        count = row["requests"]
        yield Measurement(f"{name}/requests_per_s", row["requests_per_s"], "requests/s", count, formula="ended / time")
        yield Measurement(f"{name}/ttft_p95_ms", row["ttft_ms"]["p95"], "ms", count, formula="p95 over requests")
        yield Measurement(f"{name}/cached_share", row["cached_share"], "1", count, formula="cached / prompt tokens")
        yield Measurement(f"{name}/imbalance", row["imbalance"], "1", count, formula=(pooled.__doc__ or "").strip())
    for target, phases in measured.get("overload", {}).get("targets", {}).items():
        for phase, row in phases.items():
            for name, unit in (("goodput_per_s", "requests/s"), ("peak_share", "1"), ("ttft_p99_ms", "ms")):
                if name in row:
                    label = f"{target.replace(' ', '_')}/{phase}/{name}"
                    yield Measurement(
                        label, row[name], unit, round(row["requests"]), formula="see loadtests/overload.py"
                    )


def _log(given: argparse.Namespace, measured: Mapping[str, Row]) -> None:
    record = given.out.parent.parent / "runs" / f"cluster-{given.parts[0]}-{given.variant}.json"
    params = {"threads": given.threads, "slots": given.slots, "parts": list(given.parts), "repeats": given.repeats}
    tags = {"engine": given.engine}
    with record_run(
        stage="cluster", question="serving", variant=given.variant, params=params, tags=tags, path=record
    ) as made:
        for one in logged(measured, given.repeats):
            made.log(one)


if __name__ == "__main__":
    run(main)
