"""The study's pairs are what their class says, and thresholds of single entries keep to their bound."""

import random

import numpy as np
import pytest

from studies.caching.semantic_entries import Entry, replay
from studies.caching.semantic_pairs import RIGHT, WRONG, _number, _polarity, intents, pairs
from studies.caching.semantic_swaps import QUESTION_WORDS, SWAPPED, swapped
from tradewind.caching.guard import differs
from tradewind.caching.shadow import agreement
from tradewind.corpus.records import Parameter, Raised, Record, Returned, Sections


def record(number: int) -> Record:
    name = f"pack.mod.work_{'abcdefghij'[number]}"
    parameters = [
        Parameter("axis", "int", str(number), f"The axis number {number} along which to work."),
        Parameter("mode", "str", f"'m{number}'", f"Whether to keep the first or drop {number} of them."),
    ]
    sections = Sections(
        f"Compute the minimum of kind {number} of an array.", f"This works in ascending order of item {number} only.",
        parameters, [Returned("", "ndarray", f"The result of kind {number} as an array.")],
    )  # fmt: skip
    return Record(name, "pack", "1", "function", [], f"(axis={number}, mode='m{number}')", sections, family=name)


def test_pairs_differ_in_what_their_class_says():
    records = [record(number) for number in range(10)]
    rng = random.Random(0)
    pool = intents(records, rng, 10)
    by_text = {text: (one.record.id, one.group, one.parts) for one in pool for text in one.wordings()}
    gold = {text: one.gold for one in pool for text in one.wordings()}
    made, _ = pairs(records, pool, 20, rng)
    assert {pair.kind for pair in made} == {*RIGHT, *WRONG}
    for pair in made:
        assert pair.asked != pair.known
        if pair.kind in ("other_symbol", "other_parameter", "other_kind", "paraphrase"):
            one, other = by_text[pair.asked], by_text[pair.known]
            same = [a == b for a, b in zip(one, other, strict=True)]
            assert agreement(gold[pair.asked], gold[pair.known]).close == (pair.kind == "paraphrase")
            assert same[0] == (pair.kind != "other_symbol") and same[1] == (pair.kind != "other_kind")
            assert pair.kind != "other_parameter" or not same[2]
            assert pair.kind != "paraphrase" or all(same)


@pytest.mark.parametrize(
    ("flip", "text", "other"),
    [
        (_polarity, "How do I sort in ascending order?", "How do I sort in descending order?"),
        (_polarity, "Is it right that x must be set?", "Is it right that x must not be set?"),
        (_number, "How do I sum over axis 0 of it?", "How do I sum over axis 1 of it?"),
        (_number, "Is it right that it is float32 data?", "Is it right that it is float64 data?"),
    ],
)
def test_a_turned_sentence_has_one_word_turned(flip, text, other):
    assert flip(text, random.Random(0))[0] == other
    assert flip("Is it right that nothing?", random.Random(0)) is None


def documented(number: int) -> Record:
    """A class, or a function that takes two arguments, raises, and speaks of this and that."""
    one = record(number)
    one.kind = "class" if number % 2 else "function"
    one.sections.raises = [Raised("ValueError", "The mode is unknown.")]
    one.sections.description = f"This works for rows and columns or for item {number} alone."
    if number == 3:
        one.sections.summary = "Convert an array of bytes to a list of numbers."
    return one


def test_swapped_pairs_differ_in_order_in_and_or_or_in_the_question_word_alone():
    made = swapped([documented(number) for number in range(10)], 25, random.Random(0))
    assert {pair.kind for pair in made} == set(SWAPPED)
    for pair in made:
        one, other = (text.rstrip("?").split() for text in (pair.asked, pair.known))
        changed = [(a, b) for a, b in zip(one, other, strict=True) if a != b]
        assert changed
        if pair.kind == "reversed":
            assert sorted(one) == sorted(other)
        elif pair.kind == "and_or":
            assert changed in ([("and", "or")], [("or", "and")])
        else:
            assert len(changed) == 1 and one[1:] == other[1:] and {one[0], other[0]} <= set(QUESTION_WORDS)
    asked = {pair.asked: pair.known for pair in made}
    assert (
        asked["How do I convert an array of bytes to a list of numbers?"]
        == "How do I convert a list of numbers to an array of bytes?"
    )


def test_the_strict_guard_excludes_every_wrong_class_by_definition():
    """So that its zeros are no evidence; the rules do not see what is swapped."""
    records = [documented(number) for number in range(10)]
    rng = random.Random(0)
    made = [*pairs(records, intents(records, rng, 10), 20, rng)[0], *swapped(records, 20, rng)]
    wrong = [pair for pair in made if pair.kind not in RIGHT]
    assert {pair.kind for pair in wrong} == {*WRONG, *SWAPPED}
    assert all(differs(pair.asked, pair.known, strict=True) for pair in wrong)
    assert not any(differs(pair.asked, pair.known) for pair in wrong if pair.kind in SWAPPED)


def test_an_entry_becomes_sure_of_what_was_right_and_unsure_of_what_was_wrong():
    entry = Entry("x")
    before = entry.sure(0.95)
    for _ in range(20):
        entry.learn(0.9, right=True)
    assert entry.sure(0.95) > before
    for _ in range(20):
        entry.learn(0.95, right=False)
    assert entry.sure(0.95) < 0.5


@pytest.mark.parametrize("delta", [0.01, 0.05])
def test_where_the_cache_is_always_wrong_it_serves_about_delta(delta):
    vectors = {str(number): np.array([1.0, 0.0], np.float32) for number in range(3000)}
    found = replay([(str(number), f"answer {number}") for number in range(3000)], vectors, delta, seed=0)
    assert found.wrong == found.served <= 1.3 * delta * found.requests
