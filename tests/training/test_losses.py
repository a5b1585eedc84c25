"""Every strategy against a slow reference in float64 NumPy."""

import numpy as np
import pytest

from tradewind.errors import UserError
from tradewind.training.losses import (
    CrossEntropy,
    HiddenCosine,
    JensenShannon,
    LogitsKL,
    Outputs,
    RelationsKL,
    ReverseKL,
    SkewKL,
    StreamsCosine,
    Targets,
    combine,
)

B, A, V, D = 2, 5, 17, 6


def log_softmax(x):
    x = x.astype(np.float64)
    return x - np.log(np.exp(x).sum(-1, keepdims=True))


@pytest.fixture
def case():
    rng = np.random.default_rng(0)
    student, teacher = (rng.normal(size=(B, A, V)).astype(np.float32) * 2 for _ in range(2))
    hidden = [rng.normal(size=(B, A, D)).astype(np.float32) for _ in range(2)]
    weights = (rng.random((B, A)) < 0.6).astype(np.float32)
    return student, teacher, hidden, weights, rng.integers(0, V, (B, A))


def targets_of(teacher, k, ids, weights, hidden):
    order = np.argsort(-teacher, axis=-1)[..., :k]
    logprobs = np.take_along_axis(log_softmax(teacher), order, -1)
    tail = np.maximum(1.0 - np.exp(logprobs).sum(-1), 0.0)
    return Targets(ids, weights, order, logprobs.astype(np.float32), tail.astype(np.float32), hidden)


def test_cross_entropy_is_the_mean_over_weighted_places_only(case):
    student, _, hidden, weights, ids = case
    picked = -np.take_along_axis(log_softmax(student), ids[..., None], -1)[..., 0]
    loss, _ = CrossEntropy()(Outputs(hidden[0], student), Targets(ids, weights))
    np.testing.assert_allclose(loss, (picked * weights).sum() / weights.sum(), rtol=1e-5)


def test_what_stands_at_unused_places_changes_nothing(case):
    student, teacher, hidden, weights, ids = case
    strategy = combine({"cross_entropy": 1.0, "logits": 1.0, "hidden": 1.0})
    targets = targets_of(teacher, 4, ids, weights, hidden[1])
    noisy = np.where(weights[..., None] > 0, student, 9.0 * student[::-1])
    one, two = (strategy(Outputs(hidden[0], logits), targets)[0] for logits in (student, noisy))
    np.testing.assert_allclose(one, two, rtol=1e-6)


def test_kl_with_the_whole_vocabulary_is_the_dense_divergence(case):
    student, teacher, hidden, weights, ids = case
    p, q = log_softmax(teacher), log_softmax(student)
    dense = (np.exp(p) * (p - q)).sum(-1)
    loss, _ = LogitsKL()(Outputs(hidden[0], student), targets_of(teacher, V, ids, weights, None))
    np.testing.assert_allclose(loss, (dense * weights).sum() / weights.sum(), rtol=1e-4)


@pytest.mark.parametrize("temperature", [1.0, 2.0])
@pytest.mark.parametrize("k", [1, 4])
def test_kl_with_a_tail_is_that_of_the_merged_distributions(case, k, temperature):
    student, teacher, hidden, weights, ids = case
    targets = targets_of(teacher, k, ids, weights, None)

    def merged(logits):
        top = np.exp(np.take_along_axis(log_softmax(logits), targets.top_ids, -1))
        outcomes = np.concatenate([top, 1 - top.sum(-1, keepdims=True)], -1) ** (1 / temperature)
        return outcomes / outcomes.sum(-1, keepdims=True)

    p, q = merged(teacher), merged(student)
    reference = (p * np.log(p / q)).sum(-1) * temperature**2
    loss, _ = LogitsKL(temperature)(Outputs(hidden[0], student), targets)
    np.testing.assert_allclose(loss, (reference * weights).sum() / weights.sum(), rtol=1e-4)
    same, _ = LogitsKL(temperature)(Outputs(hidden[0], teacher), targets)
    assert abs(float(same)) < 1e-5


def both(case, k):
    """Targets, and the merged distributions [B,A,K+1] of teacher and student in float64."""
    student, teacher, _, weights, ids = case
    targets = targets_of(teacher, k, ids, weights, None)
    top = [np.exp(np.take_along_axis(log_softmax(logits), targets.top_ids, -1)) for logits in (teacher, student)]
    return targets, *(np.concatenate([part, 1 - part.sum(-1, keepdims=True)], -1) for part in top)


def kl(p, q):
    return (p * np.log(p / q)).sum(-1)


@pytest.mark.parametrize(
    ("strategy", "reference"),
    [
        (ReverseKL(), lambda p, q: kl(q, p)),
        (JensenShannon(0.5), lambda p, q: 0.5 * kl(p, (p + q) / 2) + 0.5 * kl(q, (p + q) / 2)),
        (JensenShannon(0.1), lambda p, q: 0.1 * kl(p, 0.1 * p + 0.9 * q) + 0.9 * kl(q, 0.1 * p + 0.9 * q)),
        (SkewKL(0.2), lambda p, q: kl(p, 0.2 * p + 0.8 * q)),
    ],
)
def test_divergences_are_those_of_the_merged_distributions(case, strategy, reference):
    student, teacher, hidden, weights, _ = case
    targets, p, q = both(case, 4)
    loss, _ = strategy(Outputs(hidden[0], student), targets)
    np.testing.assert_allclose(loss, (reference(p, q) * weights).sum() / weights.sum(), rtol=1e-4)
    assert abs(float(strategy(Outputs(hidden[0], teacher), targets)[0])) < 1e-5


def test_streams_are_compared_by_direction_layer_by_layer(case):
    student, _, hidden, weights, ids = case
    rng = np.random.default_rng(3)
    mine, theirs = (rng.normal(size=(B, A, 3, D)).astype(np.float32) for _ in range(2))
    cosine = (mine * theirs).sum(-1) / np.linalg.norm(mine, axis=-1) / np.linalg.norm(theirs, axis=-1)
    targets = Targets(ids, weights, streams=theirs)
    loss, _ = StreamsCosine()(Outputs(hidden[0], student, streams=mine), targets)
    np.testing.assert_allclose(loss, ((1 - cosine.mean(-1)) * weights).sum() / weights.sum(), rtol=1e-5)


def test_relations_are_compared_as_distributions(case):
    student, _, hidden, weights, ids = case
    rng = np.random.default_rng(4)
    p, q = (np.exp(log_softmax(rng.normal(size=(B, A, 2, A)))) for _ in range(2))
    p[..., 0] = 0.0  # a place of another sample
    p /= p.sum(-1, keepdims=True)
    parts = np.where(p > 0, p * np.log(np.maximum(p, 1e-30) / q), 0.0).sum(-1).mean(-1)
    targets = Targets(ids, weights, relations=p.astype(np.float32))
    loss, _ = RelationsKL()(Outputs(hidden[0], student, relations=np.log(q).astype(np.float32)), targets)
    np.testing.assert_allclose(loss, (parts * weights).sum() / weights.sum(), rtol=1e-4)


@pytest.mark.parametrize(
    ("name", "named"),
    [("logits", "likeliest"), ("reverse", "likeliest"), ("hidden", "hidden"), ("streams", r"teacher_cache\.streams"),
     ("relations", r"teacher_cache\.relation_heads")],
)  # fmt: skip
def test_a_cache_without_what_a_loss_needs_is_a_user_error(case, name, named):
    student, _, hidden, weights, ids = case
    with pytest.raises(UserError, match=f"needs .*{named}.*teacher cache does not hold"):
        combine({name: 1.0})(Outputs(hidden[0], student), Targets(ids, weights))


def test_hidden_cosine_matches_numpy_and_ignores_length(case):
    student, _, (mine, theirs), weights, ids = case
    cosine = (mine * theirs).sum(-1) / np.linalg.norm(mine, axis=-1) / np.linalg.norm(theirs, axis=-1)
    targets = Targets(ids, weights, hidden=theirs)
    loss, _ = HiddenCosine()(Outputs(mine, student), targets)
    np.testing.assert_allclose(loss, ((1 - cosine) * weights).sum() / weights.sum(), rtol=1e-5)
    np.testing.assert_allclose(HiddenCosine()(Outputs(3 * mine, student), targets)[0], loss, rtol=1e-5)


def test_combined_loss_is_the_weighted_sum_with_each_metric_unweighted(case):
    student, teacher, hidden, weights, ids = case
    targets, outputs = targets_of(teacher, 4, ids, weights, hidden[1]), Outputs(hidden[0], student)
    loss, metrics = combine({"cross_entropy": 0.25, "logits": 2.0, "hidden": 0.0}, temperature=2.0)(outputs, targets)
    assert sorted(metrics) == ["cross_entropy", "logits_kl"]
    np.testing.assert_allclose(loss, 0.25 * metrics["cross_entropy"] + 2.0 * metrics["logits_kl"], rtol=1e-6)


@pytest.mark.parametrize(
    ("weights", "message"), [({"kl": 1.0}, "unknown loss 'kl'"), ({"logits": 0}, "every weight is 0")]
)
def test_unusable_choices_are_user_errors(weights, message):
    with pytest.raises(UserError, match=message):
        combine(weights)
