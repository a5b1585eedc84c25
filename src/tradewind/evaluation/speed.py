"""Speed and memory of an engine, without HTTP: prefill, time to first token, decode at one stream and at full slots.

Every variant gets a fresh process; the processes take turns, one round each, so that a drift of the machine falls on
all of them alike. Rounds before the first counted one warm up and are not counted. Text does not matter to dense
weights: prompts are seeded random ids. It measures the engine alone; the load tests measure the server.
"""

import multiprocessing
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from tqdm import tqdm

from tradewind.engine import Engine, Prefix, load_engine
from tradewind.errors import UserError
from tradewind.evaluation.bootstrap import median_interval
from tradewind.host import peak_rss
from tradewind.tracking import Measurement

FORMULAS = {
    "prefill_tokens_per_s": ("token/s", "{prefill_tokens} prompt tokens / seconds of one prefill"),
    "ttft_ms": ("ms", "prefill of {ttft_tokens} prompt tokens, choice of the greedy token, in the engine, no HTTP"),
    "decode_tokens_per_s": (
        "token/s",
        "{decode_tokens} greedy tokens / seconds, one stream, after a prompt of {ttft_tokens}",
    ),
    "decode_cpu_ms_per_token": (
        "ms",
        "CPU time of the process, spinning threads included, over the same tokens / {decode_tokens}",
    ),
    "decode_tokens_per_s_batch": (
        "token/s",
        "{slots} rows x {batch_tokens} greedy tokens / seconds, each row after a prompt of {ttft_tokens}",
    ),
}
HOW = "; median of {repeats} interleaved repeats after {warm_up} uncounted, {threads} threads, engine {engine}"
LOAD = "seconds to open the variant in a fresh process, files in the page cache or not, and to warm it up"
RSS = (
    "highest resident set (VmHWM) of a fresh process that loads the engine with {slots} slots and runs all of the above"
)


@dataclass(frozen=True)
class Plan(ABC):
    """What a fresh process loads and how often it is asked. `max_len` is the context of a slot."""

    engine: str
    slots: int
    max_len: int
    threads: int
    repeats: int
    warm_up: int

    @abstractmethod
    def round(self, engine: Engine, seed: int) -> dict[str, float]:
        """One value a measure. All slots must be free, and are free again afterwards."""


@dataclass(frozen=True)
class SpeedPlan(Plan):
    """What one round runs, in tokens."""

    prefill_tokens: int
    ttft_tokens: int
    decode_tokens: int
    batch_tokens: int

    def round(self, engine: Engine, seed: int) -> dict[str, float]:
        return run_round(engine, self, seed)


def run_round(engine: Engine, plan: SpeedPlan, seed: int) -> dict[str, float]:
    """One value for each measure of `FORMULAS`."""
    rng = np.random.default_rng(seed)
    long = rng.integers(engine.vocab_size, size=plan.prefill_tokens).tolist()
    short = rng.integers(engine.vocab_size, size=plan.ttft_tokens).tolist()
    prefill_seconds, _ = _timed(lambda: engine.prefill(long))
    first_seconds, prefix = _timed(lambda: _first(engine.prefill(short)))
    one, cpu = _decode_rate(engine, prefix, 1, plan.decode_tokens)
    return {
        "prefill_tokens_per_s": plan.prefill_tokens / prefill_seconds,
        "ttft_ms": 1000 * first_seconds,
        "decode_tokens_per_s": one,
        "decode_cpu_ms_per_token": cpu,
        "decode_tokens_per_s_batch": _decode_rate(engine, prefix, plan.slots, plan.batch_tokens)[0],
    }


def _timed(call: Callable[[], Prefix]) -> tuple[float, Prefix]:
    started = time.perf_counter()
    answer = call()
    return time.perf_counter() - started, answer


def _first(prefix: Prefix) -> Prefix:
    assert prefix.logits is not None
    prefix.logits.argmax()
    return prefix


def _decode_rate(engine: Engine, prefix: Prefix, rows: int, tokens: int) -> tuple[float, float]:
    """Tokens a second, and the process's CPU milliseconds a token."""
    assert prefix.logits is not None
    for slot in range(rows):
        engine.insert(prefix, slot)
    chosen = [int(prefix.logits.argmax())] * rows
    started, used = time.perf_counter(), time.process_time()
    for _ in range(tokens):
        logits = engine.step({slot: [chosen[slot]] for slot in range(rows)})
        chosen = [int(logits[slot][-1].argmax()) for slot in range(rows)]
    seconds, used = time.perf_counter() - started, time.process_time() - used
    for slot in range(rows):
        engine.release(slot)
    return rows * tokens / seconds, 1000 * used / (rows * tokens)


class FreshProcess:
    """One variant in a process of its own, which runs a round when asked."""

    def __init__(self, folder: Path | None, plan: Plan) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, folder, plan), daemon=True)
        self._process.start()
        theirs.close()

    def round(self, seed: int) -> dict[str, float]:
        self._pipe.send(seed)
        values: dict[str, float] = self._receive()
        return values

    def close(self) -> tuple[int, float]:
        """End the process; its peak memory in bytes, and the seconds that it took to load."""
        self._pipe.send(None)
        peak, load_s = self._receive()
        self._process.join(timeout=30)
        return peak, load_s

    def kill(self) -> None:
        if self._process.is_alive():
            self._process.terminate()
            self._process.join(timeout=30)
        self._pipe.close()

    def _receive(self) -> Any:
        try:
            answer = self._pipe.recv()
        except (EOFError, ConnectionError):
            self._process.join(timeout=30)
            raise UserError(f"the process that was measured ended with code {self._process.exitcode}") from None
        if isinstance(answer, UserError):
            raise answer
        return answer


def _serve(pipe: Connection, folder: Path | None, plan: Plan) -> None:
    """Child process: load, then answer each seed with a round, and None with the peak memory."""
    try:
        started = time.perf_counter()
        engine = load_engine(folder, plan.engine, plan.slots, plan.max_len, plan.threads)
        engine.warm_up()
        load_s = time.perf_counter() - started
    except UserError as error:
        pipe.recv()
        pipe.send(error)
        return
    while (seed := pipe.recv()) is not None:
        pipe.send(plan.round(engine, seed))
    engine.close()
    pipe.send((peak_rss(), load_s))


class Turns(NamedTuple):
    """Of one variant: what each counted round gave, bytes of peak memory, seconds to load."""

    rounds: list[dict[str, float]]
    peak_rss: int
    load_s: float


def measure(variants: Mapping[str, Path | None], plan: SpeedPlan, seed: int) -> dict[str, list[Measurement]]:
    """Measurements by variant name."""
    return {name: measurements(*turns, plan, seed) for name, turns in take_turns(variants, plan, seed).items()}


def take_turns(variants: Mapping[str, Path | None], plan: Plan, seed: int) -> dict[str, Turns]:
    """By variant name: the processes take turns, `warm_up` uncounted rounds and then `repeats` counted ones."""
    processes: dict[str, FreshProcess] = {}
    rounds: dict[str, list[dict[str, float]]] = {name: [] for name in variants}
    try:
        for name, folder in variants.items():
            processes[name] = FreshProcess(folder, plan)
        for number in tqdm(range(plan.warm_up + plan.repeats), desc="rounds", disable=None):
            for name, process in processes.items():
                values = process.round(seed + number)
                rounds[name] += [values] if number >= plan.warm_up else []
        return {name: Turns(rounds[name], *process.close()) for name, process in processes.items()}
    finally:
        for process in processes.values():
            process.kill()


def measurements(
    rounds: list[dict[str, float]], peak_rss: int, load_s: float, plan: SpeedPlan, seed: int
) -> list[Measurement]:
    facts = vars(plan)
    out = []
    for name, (unit, formula) in FORMULAS.items():
        values = [values[name] for values in rounds]
        how = (formula + HOW).format(**facts)
        out.append(
            Measurement(name, float(np.median(values)), unit, len(values), median_interval(values, seed), how, seed)
        )
    peak = Measurement("peak_rss_bytes", peak_rss, "B", 1, None, RSS.format(**facts))
    return [*out, peak, Measurement("load_s", load_s, "s", 1, None, LOAD)]
