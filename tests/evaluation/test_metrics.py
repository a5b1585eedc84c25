import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tradewind.corpus.prompt import REFUSAL
from tradewind.evaluation.metrics import (
    bits_per_byte,
    exact_match,
    is_refusal,
    log_softmax,
    nats,
    normalise,
    perplexity,
    token_f1,
)


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        ("The array, of floats.", ["array", "of", "floats"]),
        ("`numpy.linalg.svd`.", ["numpy.linalg.svd"]),
        ("-1", ["-1"]),
        (".5 or 1e-08;", [".5", "or", "1e-08"]),
        ("'raise'", ["raise"]),
        ("()", ["()"]),
        ("(n,) array-like", ["n", "array-like"]),
        ("the", ["the"]),
        ("", []),
    ],
)
def test_identifiers_dots_and_signs_keep_their_meaning(text, tokens):
    assert normalise(text) == tokens


def test_f1_by_hand():
    # said: sum of squares (3), wanted: sum of the array elements -> sum, of, array, elements (4); shared: sum, of
    assert token_f1("The sum of squares.", "sum of the array elements") == pytest.approx(
        2 * (2 / 3) * (2 / 4) / (2 / 3 + 2 / 4)
    )
    assert token_f1("no no no", "no") == pytest.approx(2 * (1 / 3) * 1 / (1 / 3 + 1))
    assert token_f1("1", "-1") == 0
    assert token_f1("", "x") == 0
    assert token_f1("", "") == 1


@given(st.text(alphabet="ab .-1'", max_size=20), st.text(alphabet="ab .-1'", max_size=20))
def test_f1_is_symmetric_bounded_and_one_where_exact(left, right):
    value = token_f1(left, right)
    assert 0 <= value <= 1
    assert value == pytest.approx(token_f1(right, left))
    if exact_match(left, right):
        assert value == 1


def test_refusals_are_the_trained_sentence_and_what_follows_it():
    assert is_refusal(REFUSAL)
    assert is_refusal(f" {REFUSAL.lower()} Sorry!")
    assert not is_refusal("I do not know.")
    assert not is_refusal("")


def test_log_softmax_and_nats_against_the_definition(rng):
    logits = rng.normal(scale=9, size=(4, 7)).astype(np.float32)
    probabilities = np.exp(logits.astype(float))
    probabilities /= probabilities.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(log_softmax(logits), np.log(probabilities), atol=2e-6)
    wanted = -sum(math.log(probabilities[i, t]) for i, t in enumerate((3, 0, 6, 1)))
    assert nats(logits, (3, 0, 6, 1)) == pytest.approx(wanted, rel=1e-5)
    assert np.isfinite(log_softmax(logits * 1e4)).all()


def test_bits_per_byte_and_perplexity_of_fair_coins():
    assert bits_per_byte(8 * math.log(2), 1) == pytest.approx(8)
    assert perplexity(8 * math.log(2), 8) == pytest.approx(2)
