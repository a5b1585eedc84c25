import math

import numpy as np
import pytest

from tradewind.engine.contract import Prefix
from tradewind.evaluation.divergence import Comparison, Positions, Recorder, Saved, kl_divergence
from tradewind.evaluation.generate import Scored
from tradewind.evaluation.metrics import log_softmax
from tradewind.evaluation.questions import Question
from tradewind.evaluation.scores import divergence_measurements, teacher_measurement


def naive_kl(p_logits, q_logits) -> float:
    """By the definition, one position, in float64 and plain Python."""
    p = [math.exp(x) for x in p_logits.astype(float)]
    q = [math.exp(x) for x in q_logits.astype(float)]
    p, q = [x / sum(p) for x in p], [x / sum(q) for x in q]
    return sum(a * (math.log(a) - math.log(b)) for a, b in zip(p, q, strict=True))


def scored(name: str, gold: np.ndarray, prompt: np.ndarray | None = None) -> Scored:
    return Scored(Question(name, "k", True, "", (1,), (2,) * len(gold)), Prefix(1), gold, prompt)


def test_kl_against_the_definition(rng):
    p, q = rng.normal(scale=3, size=(2, 5, 11)).astype(np.float32)
    wanted = [naive_kl(a, b) for a, b in zip(p, q, strict=True)]
    np.testing.assert_allclose(kl_divergence(log_softmax(p), log_softmax(q)), wanted, atol=1e-5)
    np.testing.assert_allclose(kl_divergence(log_softmax(p), log_softmax(p)), 0, atol=1e-6)


def test_float16_references_move_a_small_mean_kl_by_less_than_1e_4(rng):
    p = rng.normal(scale=3, size=(200, 500)).astype(np.float32)
    q = p + rng.normal(scale=0.1, size=p.shape).astype(np.float32)
    exact = kl_divergence(log_softmax(p), log_softmax(q)).mean()
    rounded = kl_divergence(log_softmax(p).astype(np.float16), log_softmax(q)).mean()
    assert 0.003 < exact < 0.01
    assert abs(rounded - exact) < 1e-4


def test_positions_take_the_first_gold_tokens_and_every_nth_prompt_token(rng):
    gold, prompt = rng.normal(size=(6, 4)), rng.normal(size=(9, 4))
    positions = Positions(answer_positions=2, prompts=1, prompt_stride=4)
    np.testing.assert_array_equal(
        positions.block(scored("a", gold, prompt)), np.concatenate([prompt[[0, 4, 8]], gold[:2]])
    )
    np.testing.assert_array_equal(positions.block(scored("a", gold)), gold[:2])


def test_a_saved_reference_compares_as_computed_by_hand(tmp_path, rng):
    positions = Positions(8, 0, 1)
    parents = {name: rng.normal(scale=2, size=(n, 9)).astype(np.float32) for name, n in (("a", 3), ("b", 5))}
    recorder = Recorder(positions)
    for name, logits in parents.items():
        recorder(scored(name, logits))
    recorder.save(tmp_path / "reference.safetensors")

    comparison = Comparison(positions, Saved(tmp_path / "reference.safetensors"))
    children = {name: logits + rng.normal(size=logits.shape).astype(np.float32) for name, logits in parents.items()}
    for name, logits in children.items():
        comparison(scored(name, logits))
    comparison(scored("unknown", parents["a"]))
    kl, same = divergence_measurements(comparison, seed=0)
    pairs = [(p, q) for name in parents for p, q in zip(parents[name], children[name], strict=True)]
    assert kl.value == pytest.approx(np.mean([naive_kl(p, q) for p, q in pairs]), abs=1e-3)
    assert same.value == np.mean([p.argmax() == q.argmax() for p, q in pairs])
    assert kl.n == same.n == 8
    assert kl.interval[0] <= kl.value <= kl.interval[1]


def test_a_teacher_is_renormalised_over_the_students_vocabulary(tmp_path, rng):
    positions, ids = Positions(8, 0, 1), [4, 1, 6]
    teacher, student = rng.normal(size=(2, 8)).astype(np.float32), rng.normal(size=(2, 3)).astype(np.float32)
    recorder = Recorder(positions, ids)
    recorder(scored("a", teacher))
    recorder.save(tmp_path / "t.safetensors")
    comparison = Comparison(positions, Saved(tmp_path / "t.safetensors"))
    comparison(scored("a", student))
    wanted = np.mean([naive_kl(t[ids], s) for t, s in zip(teacher, student, strict=True)])
    assert teacher_measurement(comparison, seed=0).value == pytest.approx(wanted, abs=1e-3)
