"""The planning benchmark over an engine and a server of known speed: then what it predicts is what it measures."""

import itertools
from contextlib import contextmanager

import pytest

from benchmarks import planning
from benchmarks.planning import Lone, Work, cache, chunk_seconds, drift, lines, model, planned
from tests.planning.paced import PacedEngine
from tests.serving.conftest import serving
from tradewind.engine.mock import MockEngine
from tradewind.planning.service import Samples
from tradewind.planning.simulation import Limits, Replica, ServiceTimes, Simulation, after, ramp, recorded, users
from tradewind.serving.settings import ServeSettings

TIMES = ServiceTimes(prefill_rate=20_000, step=0.006, row=0.002, call=0.003)
SERVED = ServiceTimes(20_000, 0.006, 0.002, overhead=0.002, call=0.003)
WORK = Work(4, (0.5,), 64, 8, 4, 1, 1, 2, 300.0, 0.1)


def played(path, url, settings, seed):
    """What Locust would give against a server of known speed."""
    simulation = Simulation([Replica(SERVED, Limits(slots=4))])
    sizes, seconds = itertools.repeat((100, settings.answer_tokens)), float(settings.seconds)
    if path.stem == "steady":
        users(simulation, settings.users, seconds, sizes)
        return recorded(simulation, seconds)
    if path.stem == "ramp":
        phases = ramp(simulation, [(count, seconds / 6) for count in (1, 2, 4, 8, 16, 32)], sizes)
    elif path.stem == "poisson":
        phases = [after(simulation, "poisson", settings.rate, seconds, sizes, f"{seed} poisson 1 arrivals")]
    else:
        phases = [
            after(simulation, name, load, 4.0, sizes, f"{seed} {name} {number} arrivals")
            for number, (name, load) in enumerate((("capacity", 8), ("2x", 40), ("5x", 100)), 1)
        ]
    return recorded(simulation, phases[-1].end, phases)


@pytest.fixture
def known_speed(monkeypatch, root):
    monkeypatch.chdir(root)

    @contextmanager
    def nowhere(given, work):
        yield "http://127.0.0.1:1"

    monkeypatch.setattr(planning, "served", nowhere)
    monkeypatch.setattr(planning, "cache", lambda url: (0.0, 0.0))
    monkeypatch.setattr(planning, "drive", played)
    monkeypatch.setattr(planning, "load_engine", lambda *place: PacedEngine(TIMES, slots=4, max_len=400))
    monkeypatch.setattr(planning, "USERS", (10**3, 10**4))
    monkeypatch.setattr("sys.argv", ["planning", "--engine", "mock", "--variant", "mock"])
    return planning.arguments()


@pytest.mark.timing
def test_predictions_come_true_where_the_model_is_right(known_speed):
    result = planned(known_speed, WORK)
    assert set(result["errors"]) == {"ramp", "poisson 0.5", "overload"}
    assert abs(result["errors_by_quantity"]["requests_per_s"]["median"]) < 0.15
    assert result["errors_by_quantity"]["ttft_p50_ms"]["median_size"] < 0.25
    assert result["lone"]["prompt_tokens"] == 100
    assert [row["users"] for row in result["paper"]] == [1000, 10000]
    text = lines(result)
    assert "ramp 1 users/requests_per_s" in text
    assert "10,000 users" in text


def test_what_a_lone_request_takes_beyond_the_engine_is_overhead():
    samples = Samples({100: [0.008], 200: [0.013]}, {1: [0.004], 2: [0.006]})
    fit, token = model(Lone(120, 20, ttft_s=0.010, itl_s=0.005), samples, samples)
    assert fit.times.call == pytest.approx(0.003)
    assert fit.times.overhead == pytest.approx(0.002)  # of 100 tokens that are not cached
    assert token == pytest.approx(0.001)
    assert (fit.times.step, fit.times.row) == (pytest.approx(0.003), pytest.approx(0.002))
    assert chunk_seconds(300, ServiceTimes(1000, 0, 0, call=0.1)) == pytest.approx(0.5)  # two chunks
    assert drift(samples, Samples({}, {1: [0.008], 2: [0.012]})) == 2


def test_the_prefix_cache_is_read_from_the_server():
    with serving(MockEngine(slots=2, max_len=512), ServeSettings()) as served:
        before = cache(served.url)
        for _ in range(2):
            served.client().completions.create(model="mock", prompt="a" * 64, max_tokens=2)
        asked, hit = cache(served.url)
    assert asked - before[0] == 128
    assert 32 <= hit - before[1] < 64
