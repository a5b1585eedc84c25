"""The simulation against times worked out by hand, and against what queueing theory knows."""

import itertools
import math

import pytest

from tradewind.cluster.routing import strategy
from tradewind.load.results import measure
from tradewind.planning.simulation import (
    Job,
    Limits,
    Replica,
    ServiceTimes,
    Simulation,
    poisson,
    recorded,
    users,
)

TIMES = ServiceTimes(prefill_rate=100, step=0.1, row=0.01)
OPEN = Limits(slots=2, prefill_chunk=100, max_waiting=10**6, ttft_goal_s=0)


def ended(simulation: Simulation) -> list[list[float]]:
    return [[pytest.approx(moment) for moment in job.moments] for job in simulation.jobs]


def test_one_request_alone_by_hand() -> None:
    simulation = Simulation([Replica(TIMES, OPEN)])
    simulation.at(1.0, lambda: simulation.send(Job(1.0, 50, 3)))
    simulation.run()
    assert ended(simulation) == [[1.5, 1.61, 1.72]]


def test_a_late_joiner_shares_steps_and_a_long_prompt_is_run_in_chunks() -> None:
    simulation = Simulation([Replica(TIMES, OPEN)])
    simulation.at(0.0, lambda: simulation.send(Job(0.0, 10, 4)))
    simulation.at(0.05, lambda: simulation.send(Job(0.05, 150, 2)))
    simulation.run()
    # First turn: 0.1 + 0.11. Second: a chunk of 100 tokens beside a step. Third: the other 50, then both in one step.
    assert ended(simulation) == [[0.1, 0.21, 1.32, 1.94], [1.82, 1.94]]


def test_a_third_waits_for_a_slot() -> None:
    simulation = Simulation([Replica(TIMES, OPEN)])
    for _ in range(3):
        simulation.at(0.0, lambda: simulation.send(Job(0.0, 10, 3)))
    simulation.run()
    first = [job.moments[0] for job in simulation.jobs]
    assert first[0] < first[1] < simulation.jobs[0].moments[-1] < first[2]


def test_refusals_follow_the_goal_and_say_when_to_come_back() -> None:
    simulation = Simulation([Replica(TIMES, Limits(slots=2, prefill_chunk=100, ttft_goal_s=2.0))])
    for _ in range(20):
        simulation.at(0.0, lambda: simulation.send(Job(0.0, 50, 5)))
    simulation.run()
    taken = [job for job in simulation.jobs if job.rejected is None]
    assert 2 < len(taken) < 20
    assert all(job.rejected is None or job.rejected > 0 for job in simulation.jobs)
    assert all(job.moments[0] < 3.0 for job in taken)


def test_waits_are_those_of_an_m_d_1_queue() -> None:
    """One slot, answers of one token: a single server with a fixed service time, whose mean wait is known
    (Pollaczek-Khinchine): rho * s / (2 * (1 - rho))."""
    limits = Limits(slots=1, prefill_chunk=100, max_waiting=10**6, ttft_goal_s=0)
    simulation = Simulation([Replica(ServiceTimes(100, 0.0, 0.0), limits)])
    rho, service = 0.7, 1.0
    poisson(simulation, rho / service, 200_000, itertools.repeat((100, 1)), seed=1)
    waits = [job.moments[0] - job.start - service for job in simulation.jobs]
    assert sum(waits) / len(waits) == pytest.approx(rho * service / (2 * (1 - rho)), rel=0.05)


def test_users_who_think_obey_the_response_time_law() -> None:
    """users = throughput * (answer time + think time)."""
    simulation = Simulation([Replica(TIMES, OPEN)])
    users(simulation, 3, 5000, itertools.repeat((20, 5)), think_s=2.0, seed=2)
    done = [job for job in simulation.jobs if job.end is not None]
    rate = len(done) / 5000
    answer = sum((job.end or math.nan) - job.start for job in done) / len(done)
    assert rate * (answer + 2.0) == pytest.approx(3, rel=0.03)


def test_two_replicas_do_twice_the_work_and_two_choices_beat_none() -> None:
    rates = {}
    for count in (1, 2):
        simulation = Simulation([Replica(TIMES, OPEN) for _ in range(count)])
        users(simulation, 4 * count, 1000, itertools.repeat((20, 5)))
        rates[count] = len(simulation.jobs)
    assert rates[2] / rates[1] == pytest.approx(2, rel=0.02)

    worst = {}
    uneven = itertools.cycle([(10, 2), (10, 40)])
    for name in ("round_robin", "power_of_two", "least_loaded"):
        simulation = Simulation([Replica(TIMES, OPEN, str(number)) for number in range(4)], strategy(name))
        poisson(simulation, 1.2, 2000, uneven, seed=3)
        firsts = sorted(job.moments[0] - job.start for job in simulation.jobs)
        worst[name] = firsts[int(0.99 * len(firsts))]
    assert worst["least_loaded"] <= worst["power_of_two"] < worst["round_robin"]


def test_a_simulated_run_is_measured_like_a_real_one() -> None:
    simulation = Simulation([Replica(TIMES, OPEN)])
    users(simulation, 1, 100, itertools.repeat((50, 3)))
    found = {one.name: one.value for one in measure(recorded(simulation, 100.0), 0.0, 0)}
    assert found["ttft_p50_ms"] == pytest.approx(500)
    assert found["itl_p50_ms"] == pytest.approx(110)
    assert found["requests_per_s"] == pytest.approx(1 / 0.72, rel=0.02)
