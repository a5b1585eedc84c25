"""Whole evaluations of tiny variants in the runtime that serves."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from tests.compression.tiny import CONFIG, rules, tiny_flat, tiny_tokenizer
from tests.evaluation.conftest import sample
from tests.evaluation.test_divergence import naive_kl
from tradewind.compression.export import write_variant
from tradewind.compression.quantize import quantize
from tradewind.corpus.prompt import REFUSAL, conversation
from tradewind.engine import load_engine
from tradewind.errors import UserError
from tradewind.evaluation.metrics import log_softmax
from tradewind.evaluation.questions import questions
from tradewind.evaluation.variant import (
    Place,
    Settings,
    chosen,
    evaluate_variant,
    few_shot_baseline,
    load_codec,
    passage_baseline,
)
from tradewind.files import write_json, write_jsonl

MAX_LEN = 400
SETTINGS = Settings(
    engine="ort",
    slots=3,
    max_len=MAX_LEN,
    threads=1,
    max_new_tokens=6,
    questions_per_kind=None,
    answer_positions=100,
    prompts=0,
    prompt_stride=1,
    teacher_questions=5,
    shots=2,
    shot_tokens=120,
    shot_questions_per_kind=1,
)


def samples() -> list[dict]:
    answered = [sample(n, kind, f"a copy of {n}") for kind in ("what", "default") for n in range(2)]
    return [*answered, sample(0, "unanswerable", REFUSAL, answerable=False)]


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Place:
    """teacher in fp32 and int8, and a student that is the teacher under another name."""
    root = tmp_path_factory.mktemp("place")
    config = dataclasses.replace(CONFIG, max_position=MAX_LEN)
    flat, tokenizer = tiny_flat(config), tiny_tokenizer()
    for name, tensors in (
        ("teacher-fp32", flat),
        ("teacher-int8", quantize(flat, rules("int8"))),
        ("student-fp32", flat),
    ):
        write_variant(root / "variants" / name, name, config, tensors, tokenizer, {})
    write_json(root / "vocabulary.json", {"teacher_ids": list(range(config.vocab_size))})
    turns = [("What?", "A copy."), ("Why?", REFUSAL)]
    passages = [f"f{n}\nCopies." for n in range(3)]
    train = [{"id": text, "passage": text, "messages": conversation(text, turns)} for text in passages]
    write_jsonl(root / "corpus" / "test.jsonl", samples())
    write_jsonl(root / "corpus" / "train.jsonl", train)
    return Place(root / "variants", root / "corpus", root / "vocabulary.json")


@pytest.fixture(autouse=True)
def state(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("TRADEWIND_HOME", str(tmp_path))
    return tmp_path / "references"


def values(result) -> dict[str, float | None]:
    return {m.name: m.value for m in result.measurements}


def test_fp32_has_answers_and_no_divergence(place):
    result = evaluate_variant("teacher-fp32", SETTINGS, 0, place)
    assert [row["id"] for row in result.rows] == [row["id"] for row in samples()]
    assert set(values(result)) == {
        "answer_f1", "exact_match", "refusal_precision", "refusal_recall", "false_refusals", "bits_per_byte", "perplexity",
    }  # fmt: skip
    assert all(row["tokens"] <= 6 for row in result.rows)


def test_kl_is_that_of_two_dense_runs_whether_or_not_the_reference_was_kept(place, state):
    engines = {
        name: load_engine(place.variants / name, "ort", 1, MAX_LEN, 1) for name in ("teacher-fp32", "teacher-int8")
    }
    kl, same = [], []
    for question in questions(samples(), load_codec(place.variants / "teacher-fp32")):
        whole = [*question.prompt, *question.gold[:-1]]
        parent, child = (e.prefill(whole, keep_logits=True).all_logits[-len(question.gold) :] for e in engines.values())
        kl += [naive_kl(p, q) for p, q in zip(parent, child, strict=True)]
        same += list(parent.argmax(axis=1) == child.argmax(axis=1))

    computed = evaluate_variant("teacher-int8", SETTINGS, 0, place)
    assert len(list(state.iterdir())) == 1
    evaluate_variant("teacher-fp32", SETTINGS, 0, place)
    kept = evaluate_variant("teacher-int8", SETTINGS, 0, place)
    assert values(kept) == values(computed)
    assert kept.rows == computed.rows
    assert values(kept)["kl_to_parent"] == pytest.approx(np.mean(kl), abs=1e-3)
    assert values(kept)["top1_agreement"] == pytest.approx(np.mean(same))


def test_a_student_that_is_its_teacher_has_no_divergence_from_it(place):
    found = values(evaluate_variant("student-fp32", SETTINGS, 0, place))
    assert found["kl_to_teacher"] == pytest.approx(0, abs=1e-5)


def test_prompt_positions_add_to_the_answers(place):
    found = evaluate_variant("teacher-int8", dataclasses.replace(SETTINGS, prompts=2, prompt_stride=5), 0, place)
    without = evaluate_variant("teacher-int8", SETTINGS, 0, place)
    count = {m.name: m.n for m in found.measurements}["kl_to_parent"]
    assert count > {m.name: m.n for m in without.measurements}["kl_to_parent"]


def test_likelihood_is_of_the_text_given_the_prompt(place):
    row = evaluate_variant("teacher-fp32", SETTINGS, 0, place).rows[0]
    (question,) = questions(samples()[:1], load_codec(place.variants / "teacher-fp32"))
    engine = load_engine(place.variants / "teacher-fp32", "ort", 1, MAX_LEN, 1)
    logits = engine.prefill([*question.prompt, *question.gold], keep_logits=True).all_logits
    logprobs = log_softmax(logits[len(question.prompt) - 1 : -1])
    assert row["nats"] == pytest.approx(-sum(logprobs[i, t] for i, t in enumerate(question.gold)), rel=1e-4)
    assert (row["gold_tokens"], row["gold_bytes"]) == (len(question.gold), len(b"a copy of 0"))


def test_baselines(place):
    first = passage_baseline(SETTINGS, 0, lambda passage: passage.split("\n")[1], place)
    assert first.rows[0]["answer"] == "Does thing 0. More text."
    assert "bits_per_byte" not in values(first)
    shots = few_shot_baseline("teacher-fp32", SETTINGS, 0, place)
    assert len(shots.rows) == 3


def test_a_kind_is_cut_to_the_same_questions_whatever_the_order():
    rows = samples()
    kept = {row["id"] for row in chosen(rows, 1)}
    assert len(kept) == 3
    assert kept == {row["id"] for row in chosen(rows[::-1], 1)}


def test_an_unknown_variant_gives_the_choices(place):
    with pytest.raises(UserError, match="student-fp32, teacher-fp32, teacher-int8"):
        evaluate_variant("teacher-int2", SETTINGS, 0, place)
