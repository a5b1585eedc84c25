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
    after,
    poisson,
    ramp,
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
    # First turn: 10 tokens, then as many of the late one as a turn of 100 leaves, a step. Second: its other 60, a step.
    assert ended(simulation) == [[0.1, 1.11, 1.83, 1.94], [1.71, 1.83]]


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
    assert all(job.rejected is None or job.rejected >= 1 for job in simulation.jobs)
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


def test_a_chunk_has_a_cost_besides_its_tokens() -> None:
    simulation = Simulation([Replica(ServiceTimes(100, 0.1, 0.01, overhead=0.5, call=0.25), OPEN)])
    simulation.at(0.0, lambda: simulation.send(Job(0.0, 250, 2)))
    simulation.run()
    # Nothing else runs: 200 tokens in one chunk, 50 in the next; what is outside the engine comes on top.
    assert ended(simulation) == [[0.25 + 2 + 0.25 + 0.5 + 0.5, 3.61]]


def test_replicas_of_one_machine_slow_each_other_down_while_both_work() -> None:
    simulation = Simulation([Replica(TIMES, OPEN, str(n)) for n in range(2)], sharing=2.0, together=2)
    simulation.at(0.0, lambda: simulation.send(Job(0.0, 100, 1)))
    simulation.at(0.5, lambda: simulation.send(Job(0.5, 100, 1)))
    simulation.run()
    # Alone to 0.5, then each half as fast: the first ends at 1.5, after which the other's last half second is its own.
    assert ended(simulation) == [[1.5], [2.0]]


def test_replicas_that_take_turns_on_their_cores_bring_no_requests() -> None:
    rates = {}
    for count, sharing in ((1, 1.0), (2, 2.0), (2, 1.5), (2, 1.0)):
        replicas = [Replica(ServiceTimes(100, 0.0, 0.05), OPEN, str(number)) for number in range(count)]
        simulation = Simulation(replicas, sharing=sharing, together=2)
        users(simulation, 4, 2000, itertools.repeat((20, 5)))
        rates[count, sharing] = len(simulation.jobs)
    assert rates[2, 2.0] / rates[1, 1.0] == pytest.approx(1, rel=0.02)
    assert rates[2, 1.5] / rates[1, 1.0] == pytest.approx(2 / 1.5, rel=0.02)
    assert rates[2, 1.0] / rates[1, 1.0] == pytest.approx(2, rel=0.02)


def test_phases_follow_each_other_as_in_a_real_run() -> None:
    simulation = Simulation([Replica(TIMES, OPEN)])
    phases = ramp(simulation, [(1, 50.0), (2, 50.0)], itertools.repeat((20, 5)))
    found = {one.name: one.value for one in measure(recorded(simulation, 100.0, phases), 0.0, 0)}
    assert found["1 users/requests_per_s"] == pytest.approx(1 / 0.64, rel=0.02)
    assert found["2 users/requests_per_s"] > 1.1 * found["1 users/requests_per_s"]
    assert found["knee_users"] == 2

    simulation = Simulation([Replica(TIMES, OPEN)])
    closed = after(simulation, "capacity", 2, 20.0, itertools.repeat((20, 5)), seed=0)
    opened = after(simulation, "poisson", 0.5, 100.0, itertools.repeat((20, 5)), seed=0)
    assert opened.start >= closed.end  # answers of the first phase end before the next begins
    assert not any(closed.end <= job.start < opened.start for job in simulation.jobs)
    arrived = sum(opened.start <= job.start for job in simulation.jobs)
    assert arrived == pytest.approx(50, abs=20)


def test_a_simulated_run_is_measured_like_a_real_one() -> None:
    simulation = Simulation([Replica(TIMES, OPEN)])
    users(simulation, 1, 100, itertools.repeat((50, 3)))
    found = {one.name: one.value for one in measure(recorded(simulation, 100.0), 0.0, 0)}
    assert found["ttft_p50_ms"] == pytest.approx(500)
    assert found["itl_p50_ms"] == pytest.approx(110)
    assert found["requests_per_s"] == pytest.approx(1 / 0.72, rel=0.02)
