"""Plans against what can be worked out by hand."""

import itertools

import pytest

from tradewind.errors import UserError
from tradewind.load.results import Slo
from tradewind.planning.plan import Crowd, Lengths, capacity, fitted, replicas_for, tried
from tradewind.planning.simulation import Limits, ServiceTimes

TIMES = ServiceTimes(prefill_rate=1000, step=0.004, row=0.002)
LIMITS = Limits()
LENGTHS = Lengths(prompt=100, answer=20)
SLO = Slo(ttft_ms=2000, itl_ms=250)


def test_service_times_are_found_again_in_noise() -> None:
    prefills = [(tokens, 0.01 + tokens / 900 * (1.01 if tokens % 3 else 0.99)) for tokens in (32, 64, 128, 256)]
    steps = [(rows, 0.004 + 0.001 * rows) for rows in (1, 2, 4, 8)]
    found = fitted(prefills, steps, overhead=0.003)
    assert found.times.prefill_rate == pytest.approx(900, rel=0.03)
    assert found.times.call == pytest.approx(0.01, rel=0.1)
    assert (found.times.step, found.times.row) == (pytest.approx(0.004), pytest.approx(0.001))
    assert found.times.overhead == 0.003
    assert 0 < found.chunk_residual < 0.02
    assert found.step_residual == pytest.approx(0, abs=1e-9)
    with pytest.raises(UserError, match="do not fit"):
        fitted(prefills, [(1, 0.01), (8, 0.001)])


def test_a_constant_is_never_below_zero() -> None:
    found = fitted([(10, 0.1), (20, 0.24)], [(1, 0.002), (2, 0.005)])
    assert (found.times.call, found.times.step) == (0, 0)
    assert 1 / found.times.prefill_rate == pytest.approx(0.011, rel=0.1)


def test_a_replica_at_its_capacity_is_busy_and_above_it_is_not_good_enough() -> None:
    one = capacity(TIMES, LIMITS, LENGTHS, SLO)
    # A request takes 0.1 s of prefill and 20 steps, shared by up to 8: between these bounds.
    assert 1 / (0.1 + 20 * 0.006) < one.rate < 1 / (0.1 + 20 * (0.002 + 0.004 / 8))
    assert one.goodput_share >= 0.95
    assert one.utilization > 0.8
    assert tried(1.3 * one.rate, 1, TIMES, LIMITS, LENGTHS, SLO, 0).goodput_share < 0.95
    with pytest.raises(UserError, match="at no rate"):
        capacity(TIMES, LIMITS, LENGTHS, Slo(ttft_ms=50))


def test_replicas_grow_with_the_crowd_and_keep_the_goals() -> None:
    one = capacity(TIMES, LIMITS, LENGTHS, SLO)
    counts = []
    for users in (10**2, 10**3, 10**4):
        crowd = Crowd(users, think_s=30)
        plan = replicas_for(crowd.most_per_s, one, TIMES, LIMITS, LENGTHS, SLO)
        assert plan.goodput_share >= 0.95
        counts.append(plan.replicas)
    assert counts == sorted(set(counts))
    assert counts[2] == pytest.approx(10 * counts[1], rel=0.1)


def test_lengths_have_their_medians() -> None:
    prompts, answers = zip(*itertools.islice(Lengths(100, 40, spread=0.8).draws(0), 4001), strict=True)
    assert sorted(prompts)[2000] == pytest.approx(100, rel=0.06)
    assert sorted(answers)[2000] == pytest.approx(40, rel=0.06)
    assert max(prompts) == 400
    assert set(itertools.islice(Lengths(7, 3).draws(0), 5)) == {(7, 3)}
