"""The guard refuses what turns an answer round; under `strict`, whatever is not said in the same words and order."""

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from tradewind.caching.guard import FILLERS, OPPOSITES, differs

WORDS = ("merge", "array", "frame", "into", "from", "and", "or", "why", "when", "column")


@pytest.mark.parametrize(
    ("one", "other", "reason"),
    [
        ("sum over axis 0", "sum over axis 1", "numbers"),
        ("Is it 1-D?", "Is it 2-D?", "numbers"),
        ("cast to float32", "cast to float64", "numbers"),
        ("since version 1.2", "since version 1.20", "numbers"),
        ("shift by -1", "shift by 1", "numbers"),
        ("keep one row", "keep two rows", "numbers"),
        ("is x copied?", "is x not copied?", "negation"),
        ("it does copy", "it doesn't copy", "negation"),
        ("it does copy", "it doesn\u2019t copy", "negation"),
        ("fit with X", "fit without X", "negation"),
        ("sort in ascending order", "sort in descending order", "polarity"),
        ("How do I enable caching?", "How do I disable caching?", "polarity"),
        ("What is `axis`?", "What is `copy`?", "identifiers"),
        ("What is skip_na?", "What is min_count?", "identifiers"),
        ("What is numpy.sum?", "What is numpy.prod?", "identifiers"),
        ("What is LineSearch?", "What is GridSearch?", "identifiers"),
        ("What is 'left'?", "What is \"both\"?", "polarity"),
        ("What is axis in sum?", "What is copy in sum?", "words"),
        ("convert x to y", "Please convert the x to y.", None),
        ("How do I convert a list to a tuple?", "How do I convert a tuple to a list?", "words"),
        ("How do I move arrays from the GPU to the CPU?", "How do I move arrays from the CPU to the GPU?", "words"),
        ("Can I sort by index then by column?", "Can I sort by column then by index?", "words"),
        ("merge frames and series", "merge frames or series", "words"),
        ("Why does it raise ValueError?", "When does it raise ValueError?", "words"),
        ("Can I change it?", "Can it change me?", "words"),
        ("Does it copy?", "Did it copy?", "words"),
        ("What does Text do?", "What does text do?", "words"),
        ("is x != y", "is x = y", "words"),
        ("in [zero, n)", "in [zero, n]", "words"),
        ("mask with ~x", "mask with x", "words"),
        ("add x to x twice", "add x twice", "words"),
    ],
)  # fmt: skip
def test_the_guard_refuses_what_turns_an_answer_round(one, other, reason):
    assert differs(one, other, strict=True) == differs(other, one, strict=True) == reason
    assert differs(one, other) == (None if reason == "words" else reason)
    assert differs(one, one, strict=True) is None


@pytest.mark.parametrize("pair", OPPOSITES)
def test_the_guard_knows_every_pair_of_its_table_in_a_sentence(pair):
    first, second = (f"What happens if the {word.title()}, please?" for word in pair)
    assert differs(first, second) in ("polarity", "negation")


@given(st.lists(st.sampled_from(WORDS), min_size=2, max_size=8), st.data())
def test_strict_lets_no_other_order_pass(said, data):
    other = data.draw(st.permutations(said))
    assume(other != said)
    assert differs(" ".join(said), " ".join(other), strict=True) == "words"


@given(st.lists(st.sampled_from(WORDS), min_size=1, max_size=8), st.data())
def test_strict_lets_no_other_words_pass(said, data):
    at = data.draw(st.integers(0, len(said) - 1))
    other = [*said[:at], data.draw(st.sampled_from([word for word in WORDS if word != said[at]])), *said[at + 1 :]]
    for text in (" ".join(other), " ".join(said[:at] + said[at + 1 :])):
        assert differs(" ".join(said), text, strict=True)


@given(st.lists(st.sampled_from(WORDS), min_size=1, max_size=8), st.data())
def test_strict_overlooks_fillers_and_what_ends_a_sentence(said, data):
    at, filler = data.draw(st.integers(0, len(said))), data.draw(st.sampled_from(sorted(FILLERS)))
    text = " ".join([*said[:at], filler, *said[at:]])
    end = data.draw(st.sampled_from(["", ".", "?", "!"]))
    assert differs(" ".join(said), f"{text[0].upper()}{text[1:]}{end}", strict=True) is None


def test_no_filler_relates_or_asks():
    """Words that tell one argument from another, or one question from another."""
    relating = "and or not to from into by in on of for with as at if then before after"
    asking = "how why when where what which who whose"
    assert FILLERS.isdisjoint(f"{relating} {asking}".split())
