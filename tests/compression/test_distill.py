from dataclasses import replace

import numpy as np
import pytest

from tests.compression.distilling import CONFIG, tiny_rows, tiny_teacher
from tradewind.compression.distill import DistillConfig, distill
from tradewind.compression.prune import PruneConfig, prune
from tradewind.compression.teacher_cache import ask_teacher
from tradewind.errors import UserError
from tradewind.model.weights import to_model
from tradewind.training.loop import OptimizerConfig, run_model
from tradewind.training.losses import combine

CHOICE = DistillConfig(4000, 4, OptimizerConfig(1e-2), {"logits": 1.0, "cross_entropy": 0.1, "hidden": 0.5})


@pytest.fixture(scope="module")
def setting():
    """Teacher's weights, its cache on its own vocabulary, and a student of three layers."""
    flat, packed = tiny_teacher(), tiny_rows()
    cache = ask_teacher(to_model(CONFIG, flat), np.arange(CONFIG.vocab_size), packed, k=16, rows=4)
    student = prune(CONFIG, flat, [packed.take(range(len(packed)))], PruneConfig(layers=3, mlp_size=16))
    return flat, cache, student


def divergence(config, flat, cache):
    batch, targets = cache.take(np.arange(len(cache.packed)))
    return float(combine({"logits": 1.0})(run_model(to_model(config, flat), batch), targets)[0])


def test_the_teacher_has_no_divergence_from_its_own_cache(setting):
    flat, cache, _ = setting
    assert divergence(CONFIG, flat, cache) < 1e-3  # float16


def test_distillation_brings_the_student_to_the_teacher(setting):
    _, cache, student = setting
    trained, result = distill(student.config, student.flat, cache, CHOICE, seed=0)
    before, after = (divergence(student.config, flat, cache) for flat in (student.flat, trained))
    assert after < 0.5 * before
    assert {"loss", "logits_kl", "cross_entropy", "hidden_cosine"} <= set(result.log[0])


def test_the_same_seed_gives_the_same_student(setting):
    _, cache, student = setting
    short = replace(CHOICE, tokens=300)
    one, two = (distill(student.config, student.flat, cache, short, seed=3)[0] for _ in range(2))
    assert all(np.array_equal(one[name], two[name]) for name in one)


def test_an_unknown_loss_or_type_is_a_user_error(setting):
    _, cache, student = setting
    with pytest.raises(UserError, match=r"unknown loss 'attention' .choices: cross_entropy, logits, hidden"):
        distill(student.config, student.flat, cache, replace(CHOICE, losses={"attention": 1.0}), seed=0)
    with pytest.raises(UserError, match=r"distill\.dtype: unknown type 'int8'"):
        replace(CHOICE, dtype="int8")
