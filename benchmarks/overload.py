"""Far more than the server can do: what is refused is refused at once, and what is taken keeps its goal.

    python -m benchmarks.overload [--variant teacher-int8] [--factors 2 5 10] [--seconds 20]

A server of its own is started; closed-loop clients, as many as slots, measure its capacity in requests/s. Then requests
come at random moments (Poisson, open loop: nobody waits for an answer before sending the next) at each factor times that
rate, about 128 tokens of text in and 64 out, every prompt new. Meanwhile /ready is asked twice a second. After each
factor the arrivals stop, what was accepted ends, and the server must be back at nothing running and nothing waiting.
Seconds are the client's, in a process of its own, from before the connection is opened; beside them stand the server's
own of the 429s, from its log: what lies between is the machine's and the client's.

Written to reports/benchmarks/overload.json. Goals: p99 of the 429s below 50 ms, TTFT of the accepted within the server's
own goal at p95, always ready. Not covered: many keys, long prompts, clients that retry.
"""

import argparse
import asyncio
import random
import re
import statistics
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
from tqdm import tqdm

from benchmarks.client import Reply, get, post
from benchmarks.servers import Server, free_port, started
from tradewind import host
from tradewind.config import run
from tradewind.errors import UserError
from tradewind.files import read_jsonl, write_json
from tradewind.tracking import Measurement, git_commit, record_run

CALM_S, PROBE_S = 60.0, 0.5
GOAL_429_MS = 50.0
COMPLETIONS = "/v1/completions"
REFUSED_IN_LOG = re.compile(rf"POST {COMPLETIONS} 429 ([0-9.]+) ms")


@dataclass(frozen=True)
class Work:
    """seconds: of arrivals at each factor. characters: of each prompt, some 128 tokens of English documentation."""

    factors: tuple[float, ...]
    seconds: float
    answer_tokens: int
    slots: int
    ttft_goal_ms: int
    characters: int = 500
    seed: int = 0


@dataclass(frozen=True)
class Place:
    """A running server and its log."""

    port: int
    model: str
    log: Path


def main() -> None:
    parser = argparse.ArgumentParser(description="The server under several times its capacity.")
    parser.add_argument("--variant", default="teacher-int8")
    parser.add_argument("--variants", type=Path, default=Path("artifacts/variants"))
    parser.add_argument("--corpus", type=Path, default=Path("artifacts/corpus"))
    parser.add_argument("--out", type=Path, default=Path("reports/benchmarks/overload.json"))
    parser.add_argument("--factors", type=float, nargs="+", default=[2, 5, 10])
    parser.add_argument("--seconds", type=float, default=20)
    parser.add_argument("--ttft-goal-ms", type=int, default=5000)
    given = parser.parse_args()
    work = Work(tuple(given.factors), given.seconds, 64, 8, given.ttft_goal_ms)
    texts = passages(given.corpus, work)
    options = ("--model", given.variant, "--variants", str(given.variants), "--slots", str(work.slots))
    with served(given.variant, (*options, "--max-len", "1024", "--ttft-goal-ms", str(work.ttft_goal_ms))) as place:
        rate = asyncio.run(capacity(place, texts, work))
        print(f"capacity: {rate:.2f} requests/s at {work.slots} streams")
        factors = {f"{factor:g}": asyncio.run(overload(place, texts, factor, rate, work)) for factor in work.factors}
    _log(given.variant, factors, work, given.out.parent.parent / "runs")
    facts = {"device": host.device(), "git_commit": git_commit(), "work": asdict(work), "variant": given.variant}
    write_json(given.out, facts | {"capacity_per_s": rate, "factors": factors})
    print(lines(factors))


def passages(corpus: Path, work: Work) -> Iterator[str]:
    """Windows of the test passages behind a number, so that no two prompts begin alike."""
    text = "\n\n".join(row["passage"] for row in read_jsonl(corpus / "test.jsonl"))
    for number in range(10**6):
        start = number * work.characters % max(1, len(text) - work.characters)
        yield f"{number}: {text[start : start + work.characters]}"


@contextmanager
def served(model: str, options: Sequence[str]) -> Iterator[Place]:
    """A server's process, and the log that it writes."""
    port = free_port()
    command = (sys.executable, "-m", "tradewind.serving", "--port", str(port), *options)
    with started(Server("the server", model, command, port, "/ready")) as log:
        yield Place(port, model, log)


async def ask(place: Place, text: str, work: Work) -> Reply:
    body = {"model": place.model, "prompt": text, "max_tokens": work.answer_tokens, "temperature": 0}
    body |= {"ignore_eos": True, "stream": True, "stream_options": {"include_usage": True}}
    return await post(place.port, COMPLETIONS, body)


async def capacity(place: Place, texts: Iterator[str], work: Work, each: int = 3) -> float:
    """Requests/s of `slots` clients that each send `each` requests one after the other, a first one uncounted."""

    async def client() -> None:
        for _ in range(each):
            reply = await ask(place, next(texts), work)
            if reply.completion_tokens != work.answer_tokens:
                raise UserError(f"the server answered {reply} to a client within its capacity")

    await ask(place, next(texts), work)
    begun = time.perf_counter()
    await asyncio.gather(*(client() for _ in range(work.slots)))
    return work.slots * each / (time.perf_counter() - begun)


async def overload(place: Place, texts: Iterator[str], factor: float, rate: float, work: Work) -> dict[str, Any]:
    """One factor: arrivals, probes beside them, and the calm after them."""
    before = place.log.stat().st_size
    moments = arrivals(factor * rate, work.seconds, random.Random(work.seed))
    stop = asyncio.Event()
    probes = asyncio.create_task(probing(place, stop))
    begun = time.perf_counter()

    async def at(moment: float) -> Reply:
        await asyncio.sleep(max(0.0, begun + moment - time.perf_counter()))
        return await ask(place, next(texts), work)

    replies = [
        await one
        for one in tqdm(
            asyncio.as_completed([at(moment) for moment in moments]),
            total=len(moments),
            desc=f"{factor:g} times the capacity",
            disable=None,
        )
    ]
    stop.set()
    calm = await calm_after(place)
    with open(place.log) as log:
        log.seek(before)
        own = [float(found) for found in REFUSED_IN_LOG.findall(log.read())]
    return summarize(replies, await probes, own, factor * rate, work) | {"calm_after_s": calm}


def arrivals(rate: float, seconds: float, chance: random.Random) -> list[float]:
    """Moments of a Poisson process, in seconds from its begin."""
    moments, now = [], chance.expovariate(rate)
    while now < seconds:
        moments.append(now)
        now += chance.expovariate(rate)
    return moments


async def probing(place: Place, stop: asyncio.Event) -> list[Reply]:
    seen = []
    while not stop.is_set():
        seen.append(await get(place.port, "/ready"))
        await asyncio.sleep(PROBE_S)
    return seen


async def calm_after(place: Place) -> float:
    """Seconds until nothing runs and nothing waits. Raises UserError where that does not come."""
    begun = time.perf_counter()
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{place.port}", timeout=30) as http:
        while time.perf_counter() - begun < CALM_S:
            text = (await http.get("/metrics")).text
            if sum(map(float, re.findall(r"^vllm:num_requests_(?:running|waiting)\{.*\} (\S+)$", text, re.M))) == 0:
                return time.perf_counter() - begun
            await asyncio.sleep(0.05)
    raise UserError(f"{CALM_S:.0f} s after the last arrival the server still holds requests")


def summarize(
    replies: Sequence[Reply], probes: Sequence[Reply], own_ms: Sequence[float], rate: float, work: Work
) -> dict[str, Any]:
    """own_ms: the server's seconds of its 429s. other: replies that are neither whole nor 429, by status and error."""
    refused = [one for one in replies if one.status == 429]
    whole = [one for one in replies if one.status == 200 and one.completion_tokens == work.answer_tokens]
    other = Counter(f"{r.status} {r.error}" for r in replies if r.status != 429 and r not in whole)
    waits = [float(one.headers["retry-after"]) for one in refused if "retry-after" in one.headers]
    firsts = [1000 * (one.first or 0.0) for one in whole]
    return {
        "arrivals_per_s": rate,
        "sent": len(replies),
        "accepted": len(whole),
        "refused": len(refused),
        "other": dict(other),
        "refused_ms": quantiles([1000 * one.seconds for one in refused]),
        "refused_ms_by_the_server": quantiles(own_ms),
        "retry_after_s": quantiles(waits),
        "retry_after_missing": len(refused) - len(waits),
        "ttft_ms": quantiles(firsts),
        "refused_goal_ms": GOAL_429_MS,
        "ttft_goal_ms": work.ttft_goal_ms,
        "ttft_within_goal": statistics.fmean(one <= work.ttft_goal_ms for one in firsts) if firsts else None,
        "ready": sum(one.status == 200 for one in probes),
        "ready_asked": len(probes),
        "ready_ms": quantiles([1000 * one.seconds for one in probes]),
    }


def quantiles(values: Sequence[float]) -> dict[str, float] | None:
    if not values:
        return None
    at = {"p50": 50, "p95": 95, "p99": 99, "max": 100}
    return {name: float(np.percentile(values, share)) for name, share in at.items()}


def lines(factors: dict[str, dict[str, Any]]) -> str:
    out = []
    for factor, row in factors.items():
        refused, first = row["refused_ms"] or {}, row["ttft_ms"] or {}
        own = row["refused_ms_by_the_server"] or {}
        out.append(
            f"{factor} times the capacity: {row['accepted']} answered, {row['refused']} refused, other {row['other']}; "
            f"429 in ms p50 {refused.get('p50', 0):.1f} p99 {refused.get('p99', 0):.1f} max {refused.get('max', 0):.1f} "
            f"(server's own p99 {own.get('p99', 0):.1f}; goal {GOAL_429_MS:.0f}); TTFT in ms p50 {first.get('p50', 0):.0f} "
            f"p95 {first.get('p95', 0):.0f} (goal {row['ttft_goal_ms']}); ready {row['ready']} of {row['ready_asked']}; "
            f"calm after {row['calm_after_s']:.2f} s"
        )
    return "\n".join(out)


def _log(variant: str, factors: dict[str, dict[str, Any]], work: Work, runs: Path) -> None:
    params = asdict(work) | {"factors": list(work.factors)}
    path = runs / f"overload-{variant}.json"
    with record_run(
        stage="overload", question="serving", variant=variant, params=params, tags={"engine": "ort"}, path=path
    ) as made:
        for factor, row in factors.items():
            for name, key in (("refused_p99_ms", "refused_ms"), ("ttft_p95_ms", "ttft_ms")):
                held, at = row[key], "p99" if "p99" in name else "p95"
                count = row["refused"] if key == "refused_ms" else row["accepted"]
                formula = f"{at} over replies, the client's clock, arrivals at {factor} times the capacity"
                made.log(Measurement(f"{name}_at_{factor}", held[at] if held else None, "ms", count, formula=formula))


if __name__ == "__main__":
    run(main)
