import pytest

from tradewind.corpus.prompt import REFUSAL
from tradewind.evaluation.scores import answer_measurements, answer_row, difference, kind_table, likelihood_measurements


def named(measurements) -> dict:
    return {m.name: m for m in measurements}


def test_macro_f1_and_refusals_by_hand(samples):
    said = {
        "what-0": samples[0]["answer"],
        "default-1": REFUSAL,
        "unanswerable-2": REFUSAL,
        "unanswerable-3": "answer 3",
    }
    rows = [answer_row(sample, said.get(sample["id"], "zzz")) for sample in samples]
    found = named(answer_measurements(rows, seed=0))
    assert found["answer_f1"].value == pytest.approx((1 / 4 + 0) / 2)
    assert found["exact_match"].value == pytest.approx((1 / 4 + 0) / 2)
    assert found["answer_f1"].n == 8
    assert found["refusal_precision"].value == 1 / 2
    assert found["refusal_recall"].value == 1 / 4
    assert found["false_refusals"].value == 1 / 8
    assert kind_table(rows)["unanswerable"] == {"n": 4, "refused": 0.25}


def test_no_refusal_at_all_has_no_precision(samples):
    found = named(answer_measurements([answer_row(sample, "x") for sample in samples], seed=0))
    assert found["refusal_precision"].value is None


def test_likelihood_sums_before_it_divides():
    rows = [{"nats": 8.0, "gold_bytes": 4, "gold_tokens": 2}, {"nats": 2.0, "gold_bytes": 16, "gold_tokens": 8}]
    found = named(likelihood_measurements(rows, seed=0))
    assert found["bits_per_byte"].value == pytest.approx(10 / 0.6931471805599453 / 20)
    assert found["perplexity"].value == pytest.approx(2.718281828459045)


def test_difference_leaves_unanswerable_questions_out(samples):
    right = [answer_row(sample, sample["answer"]) for sample in samples]
    wrong = [answer_row(sample, "zzz") for sample in samples]
    assert difference(right, wrong, seed=0) == {"value": 1.0, "interval": [1.0, 1.0], "n": 8}
