"""What the `jax` engine compiles, and when: all of it in `warm_up`, and once per machine with a folder to keep it in."""

import random
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from jax import monitoring

from tests.compression.tiny import CONFIG, tiny_flat, tiny_variant
from tradewind.engine import jax as engine_module
from tradewind.engine.jax import JaxEngine
from tradewind.engine.scheduler import SCORED_CHUNK
from tradewind.engine.settings import SchedulerSettings
from tradewind.model.weights import to_model

COMPILED = "/jax/core/compile/backend_compile_duration"
SLOTS, MAX_LEN = 3, 37  # sizes that no other test compiles
START = """
import sys
from pathlib import Path
from tradewind.engine.jax import JaxEngine, keep_compiled

keep_compiled(Path(sys.argv[2]))
JaxEngine.load(Path(sys.argv[1]), slots=2, max_len=16).warm_up()
"""


@pytest.fixture
def compiled() -> Iterator[list[float]]:
    """Seconds of each compilation from here on."""
    seconds: list[float] = []

    def note(event: str, duration: float, **_: object) -> None:
        if event == COMPILED:
            seconds.append(duration)

    monitoring.register_event_duration_secs_listener(note)
    yield seconds
    monitoring.unregister_event_duration_listener(note)


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> JaxEngine:
    """Several buckets of everything, of which nothing is compiled yet."""
    monkeypatch.setattr(engine_module, "CHUNKS", (4, 16))
    monkeypatch.setattr(engine_module, "FEEDS", (1, 4))
    monkeypatch.setattr(engine_module, "CONTEXTS", (8,))
    return JaxEngine(to_model(CONFIG, tiny_flat()), "digest", SLOTS, MAX_LEN)


def work(engine: JaxEngine, rng: random.Random, feed: int) -> None:
    """One of what a scheduler does: prefill in chunks, join, step, draft, rewind, keep, leave."""
    held = [slot for slot in range(SLOTS) if engine.length(slot)]
    if len(held) < SLOTS and rng.random() < 0.5:
        past = rng.choice([None, *(engine.fork(slot) for slot in held[:1])])
        if past is not None and rng.random() < 0.5:
            past = past.cut(rng.randint(1, past.length))
        room = MAX_LEN - (past.length if past is not None else 0)
        if not room:
            return
        tokens, scored = [1] * rng.randint(1, room), rng.random() < 0.3
        budget = rng.choice([None, 1, 5, 8, 13, 16, 32])
        prefix = engine.prefill(tokens, past, budget=budget, keep_logits=scored)
        while prefix.pending:
            prefix = engine.prefill((), prefix, budget=budget, keep_logits=scored)
        engine.insert(prefix, next(slot for slot in range(SLOTS) if slot not in held))
    elif held and (fed := [slot for slot in rng.sample(held, rng.randint(1, len(held))) if engine.max_feed(slot)]):
        most = min(engine.max_feed(fed[0]), feed if len(fed) == 1 else 1)
        engine.step({slot: [2] * (rng.randint(1, most) if len(fed) == 1 else 1) for slot in fed})
        engine.rewind(fed[0], rng.randint(1, engine.length(fed[0])))
    for slot in held:
        if rng.random() < 0.1:
            engine.release(slot)


@pytest.mark.parametrize("feed", [1, 4])
def test_no_request_pays_a_compilation(engine: JaxEngine, compiled: list[float], feed: int) -> None:
    engine.warm_up(feed, rows=1)
    shapes = (len(engine._contexts), len(engine_module.CHUNKS), len(engine._batches), len(engine_module.FEEDS) - 1)
    contexts, chunks, batches, feeds = shapes
    most = contexts * (chunks + batches + feeds + contexts + 3) + 2 * chunks
    assert contexts <= len(compiled) <= most  # the shapes are bounded, and compilations do count here
    compiled.clear()
    rng = random.Random(7)
    for _ in range(200):
        work(engine, rng, feed)
    assert compiled == []


def test_nor_does_a_burst(engine: JaxEngine, compiled: list[float]) -> None:
    """Of each number of rows, at each length, with and without tokens that may not be chosen."""
    engine.burst = 4
    engine.warm_up()
    assert compiled
    compiled.clear()
    for rows in range(1, SLOTS + 1):
        for length in range(1, MAX_LEN - engine.burst + 1, 5):
            for slot in range(rows):
                engine.insert(engine.prefill([1] * length), slot)
            engine.greedy(dict.fromkeys(range(rows), 1), engine.burst, {0: [3]} if length % 2 else None)
            for slot in range(rows):
                engine.release(slot)
    assert compiled == []


def test_what_was_not_warmed_up_does_compile(engine: JaxEngine, compiled: list[float]) -> None:
    """The counter above sees a feed of drafts that `warm_up` was not told of."""
    engine.warm_up()
    engine.insert(engine.prefill([1, 2]), 0)
    compiled.clear()
    engine.step({0: [1]})
    assert compiled == []
    engine.step({0: [1, 2]})
    assert len(compiled) == 1


def test_warm_up_leaves_taken_slots_alone(engine: JaxEngine) -> None:
    engine.insert(engine.prefill([1, 2]), 2)
    engine.warm_up()
    assert [engine.length(slot) for slot in range(SLOTS)] == [0, 0, 2]


def test_chunks_fit_what_the_scheduler_asks_for() -> None:
    """Its scored chunk, its usual one and that of an idle turn are run without padding."""
    usual = SchedulerSettings().prefill_chunk
    for asked in (SCORED_CHUNK, usual, 2 * usual):
        assert engine_module._chunk(asked, 2048) == asked
    assert [engine_module._chunk(rest, 2048) for rest in (1, 40, 96, 190, 192)] == [32, 32, 128, 128, 256]
    assert engine_module._chunk(100, 64) == 32


def test_what_was_compiled_is_kept_for_the_next_process(tmp_path: Path) -> None:
    tiny_variant(tmp_path / "tiny", "fp32")
    kept = tmp_path / "kept"
    command = [sys.executable, "-c", START, str(tmp_path / "tiny"), str(kept)]
    subprocess.run(command, check=True, timeout=120)
    first = {path.name for path in kept.glob("*-cache")}
    assert len(first) >= len(engine_module.CHUNKS)
    subprocess.run(command, check=True, timeout=120)
    assert {path.name for path in kept.glob("*-cache")} == first
