"""Service times of an engine that takes its time as it is told."""

import pytest

from tests.planning.paced import PacedEngine
from tradewind.engine.mock import MockEngine
from tradewind.planning import service
from tradewind.planning.plan import fitted
from tradewind.planning.simulation import ServiceTimes

TIMES = ServiceTimes(prefill_rate=10_000, step=0.005, row=0.002, call=0.004)


def test_the_times_of_an_engine_are_found() -> None:
    engine = PacedEngine(TIMES, slots=4, max_len=300)
    found = fitted(*service.sample(engine, context=40, repeats=3, seed=0).medians())
    assert found.times.prefill_rate == pytest.approx(TIMES.prefill_rate, rel=0.25)
    assert found.times.call == pytest.approx(TIMES.call, rel=0.4)
    assert (found.times.step, found.times.row) == (pytest.approx(0.005, rel=0.4), pytest.approx(0.002, rel=0.25))
    assert max(found.chunk_residual, found.step_residual) < 0.2
    assert not any(engine.length(slot) for slot in range(4))


def test_each_size_and_each_number_of_rows_is_sampled() -> None:
    found = service.sample(MockEngine(slots=3, max_len=64), context=8, repeats=2, seed=0, sizes=(4, 16))
    assert {size: len(seconds) for size, seconds in found.chunks.items()} == {4: 2, 16: 2}
    assert {rows: len(seconds) for rows, seconds in found.steps.items()} == {1: 2, 2: 2, 3: 2}


def test_a_neighbour_that_sleeps_shares_nothing() -> None:
    engine = PacedEngine(TIMES, slots=2, max_len=200)
    ratio = service.sharing(engine, (".", "mock", 2, 200, 1), context=8, repeats=2, seed=0)
    assert 1.0 <= ratio < 2.0
