"""How long the parts of a replica's work take, measured on a bare engine: chunks of prompts, steps of several rows.

Not covered: steps by context length (all are measured at one), drafts, engines under another process's load but for
`sharing`.
"""

import multiprocessing
import random
import statistics
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing.synchronize import Event
from pathlib import Path

from tradewind.engine import Engine, load_engine
from tradewind.errors import UserError

CHUNKS = (16, 32, 64, 96, 128, 192, 256)
STEPS = 4
"""In a row for each measurement; their mean counts."""
READY_S = 120.0


@dataclass
class Samples:
    """Seconds of chunks by their tokens (with the copy into a slot, where an answer starts), of steps by their rows."""

    chunks: dict[int, list[float]] = field(default_factory=dict)
    steps: dict[int, list[float]] = field(default_factory=dict)

    def medians(self) -> tuple[list[tuple[int, float]], list[tuple[int, float]]]:
        chunks, steps = (
            [(size, statistics.median(seconds)) for size, seconds in sorted(found.items())]
            for found in (self.chunks, self.steps)
        )
        return chunks, steps


def sample(engine: Engine, context: int, repeats: int, seed: int, sizes: Sequence[int] = CHUNKS) -> Samples:
    """`repeats` of each size of chunk and each number of rows up to the engine's slots, those at `context` tokens."""
    chance, found = random.Random(seed), Samples()
    for _ in range(repeats):
        for tokens in sizes:
            found.chunks.setdefault(tokens, []).append(chunk(engine, _tokens(engine, chance, tokens)))
        for row in range(engine.slots):
            engine.insert(engine.prefill(_tokens(engine, chance, context)), row)
            found.steps.setdefault(row + 1, []).append(step(engine, row + 1))
        for row in range(engine.slots):
            engine.release(row)
    return found


def chunk(engine: Engine, tokens: list[int]) -> float:
    """Seconds to run them and start an answer in slot 0, which is free."""
    begun = time.perf_counter()
    engine.insert(engine.prefill(tokens), 0)
    seconds = time.perf_counter() - begun
    engine.release(0)
    return seconds


def step(engine: Engine, rows: int) -> float:
    """Seconds of a step that feeds slots 0 to rows - 1 one token each."""
    begun = time.perf_counter()
    for _ in range(STEPS):
        engine.step(dict.fromkeys(range(rows), (1,)))
    return (time.perf_counter() - begun) / STEPS


def sharing(engine: Engine, place: tuple[str, str, int, int, int], context: int, repeats: int, seed: int) -> float:
    """How many times as long chunks and steps take while another process does the same: median over both, alone and beside
    it in turns. place: what the other loads (variant folder, engine, slots, max_len, threads)."""
    ratios = []
    alone = sample(engine, context, repeats, seed, sizes=(128,))
    with neighbour(place, context):
        beside = sample(engine, context, repeats, seed, sizes=(128,))
    for mine, others in ((alone.chunks, beside.chunks), (alone.steps, beside.steps)):
        ratios += [statistics.median(others[size]) / statistics.median(mine[size]) for size in mine]
    return max(1.0, statistics.median(ratios))


@contextmanager
def neighbour(place: tuple[str, str, int, int, int], context: int) -> Iterator[None]:
    """Another process that prefills and steps for the length of the block. Raises UserError where it does not start."""
    fresh = multiprocessing.get_context("spawn")
    ready, stop = fresh.Event(), fresh.Event()
    process = fresh.Process(target=_work, args=(place, context, ready, stop), daemon=True)
    process.start()
    try:
        if not ready.wait(READY_S):
            raise UserError(f"the second engine was not ready within {READY_S:.0f} s")
        yield
    finally:
        stop.set()
        process.join(READY_S)
        if process.is_alive():
            process.kill()


def _work(place: tuple[str, str, int, int, int], context: int, ready: Event, stop: Event) -> None:
    variant, name, slots, max_len, threads = place
    engine = load_engine(Path(variant), name, slots, max_len, threads)
    engine.warm_up()
    sample(engine, context, 1, 0, sizes=(128,))
    ready.set()
    while not stop.is_set():
        sample(engine, context, 1, 0, sizes=(128,))


def _tokens(engine: Engine, chance: random.Random, count: int) -> list[int]:
    return [chance.randrange(engine.vocab_size) for _ in range(count)]
