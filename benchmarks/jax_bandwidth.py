"""`jax` on a CPU against the bound that memory sets: one-stream float32 decode beside a two-thread read of 512 MB.

    python -m benchmarks.jax_bandwidth [--variant teacher-fp32] [--repeats 5]

A repeat alternates single decode steps and reads, so that what else the machine does falls on both alike. The engine's
bandwidth is bytes of a step / median seconds of its steps; the stream's is bytes read / median seconds of its reads.
Bytes of a step = every float32 weight once (the tied table is read by the head; the one row that the embedding takes is
not counted) + keys and values of the tokens before it. The share of a repeat is the quotient of the two; the median of
the repeats and its 95 % bootstrap interval are printed and written to reports/benchmarks/jax_bandwidth.json. Not
covered: batches, prefill, bandwidth that a stream of more threads would reach.
"""

import argparse
import os
import statistics
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tradewind import host
from tradewind.compression.variant import load_variant
from tradewind.config import run
from tradewind.engine import Engine
from tradewind.engine.jax import JaxEngine, keep_compiled
from tradewind.evaluation.bootstrap import median_interval
from tradewind.files import write_json
from tradewind.model.decoder import DecoderConfig
from tradewind.tracking import Measurement, git_commit, home, record_run

STREAM_BYTES, STREAM_THREADS = 512 * 2**20, 2
FLOAT = 4
UNITS = {
    "decode_gb_per_s": "GB/s",
    "stream_gb_per_s": "GB/s",
    "share_of_bandwidth": "1",
    "decode_tokens_per_s": "token/s",
}
SHARE = (
    "decode_gb_per_s / stream_gb_per_s of a repeat, steps and reads taking turns; a step's bytes: float32 weights once + "
    "keys and values of {prompt_tokens} tokens and those decoded; {slots} slots of {max_len}"
)


@dataclass(frozen=True)
class Work:
    """A repeat: `turns` times one read of the stream and `steps` decode steps. One uncounted repeat goes before."""

    repeats: int
    turns: int
    steps: int
    prompt_tokens: int
    slots: int
    max_len: int


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--variant", default="teacher-fp32")
    parser.add_argument("--variants", type=Path, default=Path("artifacts/variants"))
    parser.add_argument("--out", type=Path, default=Path("reports/benchmarks/jax_bandwidth.json"))
    for field, default in (("repeats", 5), ("turns", 12), ("steps", 4), ("prompt-tokens", 128), ("slots", 8)):
        parser.add_argument(f"--{field}", type=int, default=default)
    parser.add_argument("--max-len", type=int, default=2048)
    given = parser.parse_args()
    work = Work(given.repeats, given.turns, given.steps, given.prompt_tokens, given.slots, given.max_len)
    keep_compiled(home() / "jax")
    config = load_variant(given.variants / given.variant).decoder
    engine = JaxEngine.load(given.variants / given.variant, slots=work.slots, max_len=work.max_len)
    values = compare(engine, config, stream(), work)
    result = summarize(values)
    _log(given.variant, result, work, given.out.parent.parent / "runs")
    print(table(result))
    facts = {"device": host.device(), "git_commit": git_commit(), "variant": given.variant, "work": asdict(work)}
    load = {"load_average_1m": os.getloadavg()[0]}
    write_json(given.out, facts | load | {"measures": result})


def step_bytes(config: DecoderConfig, past: int) -> int:
    """Bytes that one decode step of one row must read: weights, and keys and values of `past` tokens, in float32."""
    per_token = 2 * config.num_layers * config.num_kv_heads * config.head_dim
    return FLOAT * (config.num_parameters + past * per_token)


def stream(size: int = STREAM_BYTES, threads: int = STREAM_THREADS) -> Callable[[], float]:
    """A call that reads `size` bytes with `threads` threads, by summing float64, and gives bytes a second."""
    parts = np.split(np.ones(size // 8), threads)
    pool = ThreadPoolExecutor(threads)

    def read() -> float:
        started = time.perf_counter()
        list(pool.map(np.sum, parts))
        return sum(part.nbytes for part in parts) / (time.perf_counter() - started)

    return read


def compare(engine: Engine, config: DecoderConfig, read: Callable[[], float], work: Work) -> dict[str, list[float]]:
    """Measure -> value of each repeat."""
    values: dict[str, list[float]] = {name: [] for name in UNITS}
    for number in range(work.repeats + 1):
        measured = repeat(engine, config, read, work)
        for name, value in measured.items() if number else ():
            values[name].append(value)
    return values


def repeat(engine: Engine, config: DecoderConfig, read: Callable[[], float], work: Work) -> dict[str, float]:
    prefix = engine.prefill([0] * work.prompt_tokens)
    assert prefix.logits is not None
    engine.insert(prefix, 0)
    token, reads, seconds = int(prefix.logits.argmax()), [], []
    for _ in range(work.turns):
        reads.append(read())
        for _ in range(work.steps):
            started = time.perf_counter()
            token = int(engine.step({0: [token]})[0][-1].argmax())
            seconds.append(time.perf_counter() - started)
    past = (work.prompt_tokens + engine.length(0) - 1) // 2
    engine.release(0)
    decode, streamed = step_bytes(config, past) / statistics.median(seconds), statistics.median(reads)
    return {
        "decode_gb_per_s": decode / 1e9,
        "stream_gb_per_s": streamed / 1e9,
        "share_of_bandwidth": decode / streamed,
        "decode_tokens_per_s": 1 / statistics.median(seconds),
    }


def summarize(values: dict[str, list[float]]) -> dict[str, Any]:
    return {
        name: {"median": statistics.median(row), "interval": list(median_interval(row, seed=0)), "repeats": row}
        for name, row in values.items()
    }


def table(result: dict[str, Any]) -> str:
    lines = ["| measure | median | 95 % interval | repeats |", "|---|---:|---:|---|"]
    for name, row in result.items():
        low, high = row["interval"]
        each = ", ".join(f"{value:.2f}" for value in row["repeats"])
        lines.append(f"| {name} ({UNITS[name]}) | {row['median']:.2f} | {low:.2f} to {high:.2f} | {each} |")
    return "\n".join(lines)


def _log(name: str, result: dict[str, Any], work: Work, runs: Path) -> None:
    path, tags = runs / f"jax_bandwidth-{name}.json", {"engine": "jax"}
    with record_run(
        stage="jax_bandwidth", question="serving", variant=name, params=asdict(work), tags=tags, path=path
    ) as made:
        for measure, row in result.items():
            interval = (row["interval"][0], row["interval"][1])
            formula = SHARE.format(**asdict(work)) if measure == "share_of_bandwidth" else "median of a repeat"
            made.log(Measurement(measure, row["median"], UNITS[measure], work.repeats, interval, formula, 0))


if __name__ == "__main__":
    run(main)
