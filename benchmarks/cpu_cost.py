"""Where a token's processor time goes: the engine, the scheduler's thread outside it, the event loop.

    python -m benchmarks.cpu_cost [--variant teacher-int8] [--streams 1 8] [--repeats 5]

Processor time of threads, not time on the clock: it says what the API costs on a machine that others use, too, where
`benchmarks/overhead.py` says nothing. The server runs in this process, its client in one of its own; greedy streams,
128 tokens in and 64 out, then answers of one token for the cost that TTFT bears. `own` is what the engine's thread spends
outside the engine's calls (sampling, text, queues) and delays every step by; `http` is the event loop's, beside it on
another core where there is one. Their shares are of the time in the engine's calls, in which `http` runs on one of
`threads` cores; `added_share` is their sum, what is lost where all cores are busy. Not covered: the client's part, waits
for the interpreter's lock, the system's work on sockets outside these threads.
"""

import argparse
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tradewind import host
from tradewind.config import run
from tradewind.engine import Engine
from tradewind.engine.scheduler import Scheduler
from tradewind.errors import UserError
from tradewind.evaluation.bootstrap import median_interval
from tradewind.files import write_json
from tradewind.serving.app import create_app
from tradewind.serving.metrics import Metrics
from tradewind.serving.server import Server, bind, config_of
from tradewind.serving.settings import ServeSettings
from tradewind.serving.variants import load
from tradewind.tracking import Measurement, git_commit, record_run

CALLS = ("prefill", "insert", "step", "release", "fork", "rewind")
CLIENT = """
import asyncio, random, sys
from benchmarks.client import post
port, streams, tokens, seed = map(int, sys.argv[2:])
chance = random.Random(seed)
async def main():
    common = {"model": sys.argv[1], "max_tokens": tokens, "temperature": 0, "ignore_eos": True, "stream": True}
    common["stream_options"] = {"include_usage": True}
    prompts = [[chance.randrange(97, 123) for _ in range(128)] for _ in range(streams)]
    replies = await asyncio.gather(*(post(port, "/v1/completions", common | {"prompt": one}) for one in prompts))
    sys.exit(any(reply.completion_tokens != tokens for reply in replies))
asyncio.run(main())
"""


@dataclass
class Clocks:
    """Processor seconds: in the engine's calls, of its whole thread, of the event loop's thread."""

    engine: float = 0.0
    threads: list[threading.Thread] = field(default_factory=list)

    def watch(self, engine: Engine) -> None:
        for name in CALLS:
            setattr(engine, name, self._timed(getattr(engine, name)))

    def _timed(self, call: Any) -> Any:
        def timed(*given: Any, **named: Any) -> Any:
            begun = time.thread_time()
            try:
                return call(*given, **named)
            finally:
                self.engine += time.thread_time() - begun

        return timed

    def read(self) -> tuple[float, float, float]:
        """In the engine's calls, of its thread outside them, of the event loop's thread."""
        loop, http = (time.clock_gettime(time.pthread_getcpuclockid(one.ident or 0)) for one in self.threads)
        return self.engine, loop - self.engine, http


@contextmanager
def serving(settings: ServeSettings) -> Iterator[tuple[str, int, Clocks]]:
    """Model, port and clocks of a server in this process."""
    name, engine, tokenizer = load(settings)
    engine.warm_up()
    tokenizer.token_bytes(0)
    clocks = Clocks()
    clocks.watch(engine)
    metrics = Metrics(name, engine.max_len)
    before = set(threading.enumerate())
    scheduler = Scheduler(engine, tokenizer, settings.scheduler, metrics.finished)
    listener = bind(settings.host, 0)
    server = Server(config_of(create_app(scheduler, tokenizer, name, settings, None, metrics), settings))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    clocks.threads = [*(set(threading.enumerate()) - before), thread]
    thread.start()
    while not server.started:
        time.sleep(0.01)
    yield name, listener.getsockname()[1], clocks
    server.should_exit = True
    thread.join(30)


def spend(name: str, port: int, clocks: Clocks, streams: int, tokens: int, seed: int) -> tuple[float, float, float]:
    """Processor ms a token (all streams' together) in the engine, outside it, and of the event loop."""
    before = clocks.read()
    command = [sys.executable, "-c", CLIENT, name, *map(str, (port, streams, tokens, seed))]
    if subprocess.run(command, check=False).returncode:
        raise UserError("the server did not answer as asked")
    engine, own, http = (1000 * (b - a) / (streams * tokens) for a, b in zip(before, clocks.read(), strict=True))
    return engine, own, http


def main() -> None:
    parser = argparse.ArgumentParser(description="Processor time a token, by thread.")
    parser.add_argument("--variant", default="teacher-int8")
    parser.add_argument("--variants", type=Path, default=Path("artifacts/variants"))
    parser.add_argument("--engine", default="ort")
    parser.add_argument("--out", type=Path, default=Path("reports/benchmarks/cpu_cost.json"))
    parser.add_argument("--streams", type=int, nargs="+", default=[1, 8])
    for name, default in (("repeats", 5), ("tokens", 64), ("threads", 2)):
        parser.add_argument(f"--{name}", type=int, default=default)
    given = parser.parse_args()
    settings = ServeSettings(
        given.variant, engine=given.engine, variants=str(given.variants), max_len=1024, threads=given.threads
    )
    with serving(settings) as (name, port, clocks):
        rows = {}
        for streams, tokens in [*((one, given.tokens) for one in given.streams), (1, 1)]:
            seen = [spend(name, port, clocks, streams, tokens, seed) for seed in range(given.repeats + 1)][1:]
            rows[f"{streams} streams of {tokens}"] = summarize(seen, given.threads)
    params = {key: value for key, value in vars(given).items() if key in ("streams", "repeats", "tokens", "threads")}
    _log(given.variant, rows, params, given.out.parent.parent / "runs")
    facts = {"device": host.device(), "git_commit": git_commit(), "work": params, "variant": given.variant}
    write_json(given.out, facts | {"rows": rows})
    print("\n".join(line(work, row) for work, row in rows.items()))


def summarize(seen: list[tuple[float, float, float]], threads: int) -> dict[str, Any]:
    """Medians and intervals over the repeats: ms a token, and the shares added."""
    named = {
        "engine_ms": [engine for engine, _, _ in seen],
        "own_ms": [own for _, own, _ in seen],
        "http_ms": [http for _, _, http in seen],
        "own_share": [own / engine for engine, own, _ in seen],
        "added_share": [(own + http / threads) / engine for engine, own, http in seen],
        "added_ms": [own + http for _, own, http in seen],
    }
    return {
        name: {
            "median": statistics.median(values),
            "interval": list(median_interval(values, seed=0)),
            "repeats": values,
        }
        for name, values in named.items()
    }


def line(work: str, row: dict[str, Any]) -> str:
    at = {name: held["median"] for name, held in row.items()}
    low, high = row["added_share"]["interval"]
    return (
        f"{work}: {at['engine_ms']:.2f} ms a token in the engine, own {at['own_ms']:.3f} ms ({100 * at['own_share']:.1f} %), "
        f"http {at['http_ms']:.3f} ms; added {100 * at['added_share']:.1f} % [{100 * low:.1f}, {100 * high:.1f}], "
        f"{at['added_ms']:.2f} ms"
    )


def _log(variant: str, rows: dict[str, dict[str, Any]], params: dict[str, Any], runs: Path) -> None:
    path = runs / f"cpu_cost-{variant}.json"
    with record_run(
        stage="cpu_cost", question="serving", variant=variant, params=params, tags={"engine": "ort"}, path=path
    ) as made:
        for work, row in rows.items():
            for name in ("added_share", "added_ms"):
                low, high = row[name]["interval"]
                formula = "processor time outside the engine's calls; see benchmarks/cpu_cost.py"
                label = f"{name}_of_{work.replace(' ', '_')}"
                unit = "1" if name == "added_share" else "ms"
                count = len(row[name]["repeats"])
                made.log(Measurement(label, row[name]["median"], unit, count, (low, high), formula, 0))


if __name__ == "__main__":
    run(main)
