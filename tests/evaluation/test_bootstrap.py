import numpy as np
import pytest
from scipy import stats

from tradewind.evaluation.bootstrap import (
    cluster_median_interval,
    macro_interval,
    macro_mean,
    median_interval,
    paired_interval,
    ratio_interval,
)


def test_kinds_weigh_the_same_however_many_questions_they_have():
    assert macro_mean({"a": [1.0] * 9, "b": [0.0]}) == 0.5


def test_interval_is_seeded_covers_the_mean_and_agrees_with_the_normal_one(rng):
    values = {kind: rng.normal(loc, 0.2, 40) for kind, loc in (("a", 0.3), ("b", 0.7))}
    low, high = macro_interval(values, seed=1)
    assert (low, high) == macro_interval(dict(reversed(values.items())), seed=1)
    assert low < macro_mean(values) < high
    error = 0.5 * np.sqrt(sum(v.var() / len(v) for v in values.values()))
    assert high - low == pytest.approx(2 * stats.norm.ppf(0.975) * error, rel=0.05)


def test_coverage_is_near_95_percent(rng):
    hits = 0
    for seed in range(200):
        low, high = macro_interval({"a": rng.random(40), "b": rng.random(40)}, seed, resamples=500)
        hits += low <= 0.5 <= high
    assert 0.90 <= hits / 200 <= 0.99


def test_pairing_removes_what_both_share(rng):
    hard = rng.random(30)
    ours = {"k": {str(i): h + 0.05 for i, h in enumerate(hard)}}
    theirs = {"k": {str(i): h for i, h in enumerate(hard)}}
    value, (low, high), count = paired_interval(ours, theirs, seed=0)
    assert (value, low, high, count) == pytest.approx((0.05, 0.05, 0.05, 30))
    back, (back_low, back_high), _ = paired_interval(theirs, ours, seed=0)
    assert (back, back_low, back_high) == pytest.approx((-value, -high, -low))


def test_pairs_are_the_questions_that_both_have():
    value, _, count = paired_interval({"k": {"1": 1.0, "2": 0.0}, "l": {"3": 1.0}}, {"k": {"2": 0.5}}, seed=0)
    assert (value, count) == (-0.5, 1)
    with pytest.raises(ValueError, match="share no question"):
        paired_interval({"k": {"1": 1.0}}, {"k": {"2": 1.0}}, seed=0)


def test_a_constant_ratio_and_a_constant_median_have_no_width():
    assert ratio_interval([2.0, 4.0, 6.0], [1.0, 2.0, 3.0], seed=0) == (2.0, 2.0)
    assert median_interval([3.0] * 5, seed=0) == (3.0, 3.0)
    low, high = median_interval([1.0, 2.0, 3.0, 4.0, 100.0], seed=0)
    assert 1 <= low < 3 < high <= 100


def test_values_of_one_cluster_are_no_evidence_of_their_own():
    alike = [[1.0] * 20, [2.0] * 20, [3.0] * 20]
    low, high = cluster_median_interval(alike, seed=0)
    assert (low, high) == (1.0, 3.0)
    one_low, one_high = median_interval([value for cluster in alike for value in cluster], seed=0)
    assert high - low > one_high - one_low
    assert cluster_median_interval([[1.0] * 5 + [2.0] * 5] * 3, seed=0) == (1.0, 2.0)  # its values are drawn, too
