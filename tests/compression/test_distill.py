from dataclasses import replace

import numpy as np
import pytest

from tests.compression.distilling import CONFIG, batches_of, tiny_rows, tiny_teacher
from tradewind.compression.distill import DistillConfig, distill, fit_projection, recovery, student_taps
from tradewind.compression.on_policy import OnPolicyConfig, Scorer
from tradewind.compression.prune import PruneConfig, cut, prune
from tradewind.compression.prune_magnitude import is_matrix, sparsity
from tradewind.compression.teacher_cache import ask_teacher
from tradewind.errors import UserError
from tradewind.model.weights import check, to_model
from tradewind.training.loop import OptimizerConfig
from tradewind.training.losses import combine
from tradewind.training.taps import Taps, run_model

CHOICE = DistillConfig(3000, 4, OptimizerConfig(2e-3), {"logits": 1.0, "cross_entropy": 0.1, "hidden": 0.5})


@pytest.fixture(scope="module")
def setting():
    """The teacher, its cache on its own vocabulary, and a student of three layers and half the width."""
    flat, packed = tiny_teacher(), tiny_rows()
    teacher, ids = to_model(CONFIG, flat), np.arange(CONFIG.vocab_size)
    cache = ask_teacher(teacher, ids, packed, k=16, rows=4, taps=Taps((2, 4), 2))
    student = cut(CONFIG, flat, batches_of(packed), {"layers": 3, "mlp_size": 64, "heads": 2, "hidden_size": 32}, 0.0)
    return flat, cache, student, Scorer(teacher, ids, 16, 4)


def divergence(config, flat, cache):
    batch, targets = cache.take(np.arange(len(cache.packed)))
    return float(combine({"logits": 1.0})(run_model(to_model(config, flat), batch), targets)[0])


def test_the_teacher_has_no_divergence_from_its_own_cache(setting):
    flat, cache, *_ = setting
    assert divergence(CONFIG, flat, cache) < 1e-3  # float16


@pytest.mark.parametrize(
    "losses",
    [
        {"logits": 1.0, "cross_entropy": 0.1, "hidden": 0.5},
        {"reverse": 1.0, "streams": 1.0},
        {"jensen_shannon": 1.0, "skew": 1.0, "relations": 1.0},
    ],
)
def test_every_loss_brings_a_narrower_student_nearer_to_the_teacher(setting, losses):
    _, cache, student, _ = setting
    trained, result = distill(student.config, student.flat, cache, replace(CHOICE, losses=losses), seed=0)
    before, after = (divergence(student.config, flat, cache) for flat in (student.flat, trained))
    assert after < 0.7 * before
    check(student.config, {name: array.shape for name, array in trained.items()})  # no projection is left
    first, last = (np.mean([entry["loss"] for entry in part]) for part in (result.log[:4], result.log[-4:]))
    assert last < 0.8 * first


def test_the_projection_starts_where_the_student_is_the_teacher_in_another_basis(setting):
    flat, cache, *_ = setting
    student = cut(CONFIG, flat, batches_of(cache.packed), {"hidden_size": 32}, 0.01)
    model, taps = to_model(student.config, student.flat), student_taps(student.config, cache, {"streams": 1.0})
    assert taps == Taps((2, 4))
    projection = fit_projection(model, cache, taps)
    assert projection.shape == (3, 32, 64)
    model.projection = projection
    batch, targets = cache.take(np.arange(8))
    fitted = float(combine({"streams": 1.0})(run_model(model, batch, taps=taps), targets)[0])
    model.projection = np.stack([student.basis.T] * 3)
    assert fitted < float(combine({"streams": 1.0})(run_model(model, batch, taps=taps), targets)[0]) + 0.02


def test_layers_of_the_same_relative_depth_are_held_against_each_other(setting):
    _, cache, student, _ = setting
    assert student_taps(student.config, cache, {"streams": 1.0, "relations": 1.0}) == Taps((1, 2), 2)
    assert student_taps(student.config, cache, {"logits": 1.0}) == Taps()


def test_the_same_seed_gives_the_same_student(setting):
    _, cache, student, _ = setting
    short = replace(CHOICE, tokens=300)
    one, two = (distill(student.config, student.flat, cache, short, seed=3)[0] for _ in range(2))
    assert all(np.array_equal(one[name], two[name]) for name in one)


def test_on_policy_rounds_lower_the_divergence_and_count_their_steps_on(setting):
    _, cache, student, scorer = setting
    policy = OnPolicyConfig(share=0.5, rounds=2, answer_tokens=8, batch=4)
    choice = replace(CHOICE, tokens=2000, losses={"reverse": 1.0}, on_policy=policy)
    trained, result = distill(student.config, student.flat, cache, choice, seed=1, scorer=scorer)
    assert divergence(student.config, trained, cache) < 0.9 * divergence(student.config, student.flat, cache)
    assert [entry["step"] for entry in result.log] == list(range(1, len(result.log) + 1))
    assert {entry["round"] for entry in result.log} == {1, 2}


def test_zeros_stay_where_they_are_to_be_kept(setting):
    flat, cache, *_ = setting
    sparse = cut(CONFIG, flat, batches_of(cache.packed), {"sparsity": 0.5}, 0.0)
    short = replace(CHOICE, tokens=600)
    kept, filled = (
        distill(CONFIG, sparse.flat, cache, replace(short, keep_zeros=keep), seed=0)[0] for keep in (True, False)
    )
    assert sparsity(kept) >= 0.499 and sparsity(filled) < 0.1
    assert all((kept[name] == 0)[sparse.flat[name] == 0].all() for name in kept if is_matrix(name))
    assert divergence(CONFIG, kept, cache) < divergence(CONFIG, sparse.flat, cache)


def test_a_schedule_recovers_by_distillation(setting):
    flat, cache, _, scorer = setting
    entry, batches = {"layers": 3, "mlp_size": 32}, batches_of(cache.packed)
    raw = prune(CONFIG, flat, batches, PruneConfig([entry], ridge=0.0))
    again = recovery(scorer, cache.packed, CHOICE, 0)
    recovered = prune(CONFIG, flat, batches, PruneConfig([entry | {"tokens": 2000}], ridge=0.0), again)
    assert divergence(raw.config, recovered.flat, cache) < 0.8 * divergence(raw.config, raw.flat, cache)


def test_an_unknown_loss_or_type_is_a_user_error(setting):
    _, cache, student, _ = setting
    with pytest.raises(UserError, match=r"unknown loss 'attention' .choices: cross_entropy, logits, reverse"):
        distill(student.config, student.flat, cache, replace(CHOICE, losses={"attention": 1.0}), seed=0)
    with pytest.raises(UserError, match=r"distill\.dtype: unknown type 'int8'"):
        replace(CHOICE, dtype="int8")
    with pytest.raises(UserError, match=r"on_policy\.share: 2 is not within 0 to 1"):
        OnPolicyConfig(share=2)
    with pytest.raises(UserError, match="cross_entropy would take the student's own samples"):
        replace(CHOICE, on_policy=OnPolicyConfig(share=0.5))
