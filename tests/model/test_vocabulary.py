"""Trimming: closed, exact where it can be, and a round trip everywhere."""

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tradewind.errors import UserError
from tradewind.model.tokenizer import SPECIALS, Tokenizer, byte_characters
from tradewind.model.vocabulary import closure, frequent, trim

DOMAIN = ["the values of the axis are returned", "the returned axis"]


@pytest.fixture(scope="module")
def full() -> Tokenizer:
    words = "the array is returned as a copy of the array the values of the axis if the axis is None there is another"
    return Tokenizer.train([words] * 20 + [word * 2 for word in words.split()] * 5, 400)


@pytest.fixture(scope="module")
def kept(full: Tokenizer) -> set[int]:
    return {i for text in DOMAIN for i in full.encode(text)}


def test_the_domain_is_encoded_as_before(full: Tokenizer, kept: set[int]) -> None:
    student, teacher_ids = trim(full, kept)
    assert student.vocab_size == len(teacher_ids) < full.vocab_size
    for text in [*DOMAIN, "<|im_start|>user\nthe axis<|im_end|>"]:
        assert [teacher_ids[i] for i in student.encode(text)] == full.encode(text)


@settings(max_examples=80, deadline=None)
@given(text=st.text(alphabet=st.sampled_from("theaxisrund vlfc\n1\u00e9\U0001f642"), max_size=60), data=st.data())
def test_every_text_survives(full: Tokenizer, text: str, data: st.DataObject) -> None:
    """Any kept set: bytes round trip, and where the full encoding uses kept tokens alone it is the same encoding."""
    chosen = data.draw(st.sets(st.integers(0, full.vocab_size - 1), max_size=60))
    student, teacher_ids = trim(full, chosen)
    ids = student.encode(text)
    assert b"".join(map(student.token_bytes, ids)) == text.encode()
    assert student.decode(ids) == text
    want = full.encode(text)
    if set(want) <= set(teacher_ids):
        assert [teacher_ids[i] for i in ids] == want


def test_ids_map_one_to_one(full: Tokenizer, kept: set[int]) -> None:
    student, teacher_ids = trim(full, kept)
    assert teacher_ids == sorted(set(teacher_ids))
    assert [full.tokens[old] for old in teacher_ids] == student.tokens
    assert all(student.token_bytes(new) == full.token_bytes(old) for new, old in enumerate(teacher_ids))


def test_bytes_and_specials_stay(full: Tokenizer) -> None:
    student, _ = trim(full, ())
    assert set(student.tokens) == set(SPECIALS) | set(byte_characters())
    assert not student.merges
    assert student.eos_token_ids == full.eos_token_ids
    assert student.chat_template == full.chat_template


def test_a_closure_is_closed(full: Tokenizer, kept: set[int]) -> None:
    closed = closure(full, kept)
    assert closure(full, closed) == closed >= kept


def test_most_frequent_first(full: Tokenizer) -> None:
    counts = Counter(i for text in DOMAIN for i in full.encode(text))
    floor = len(closure(full, ()))
    for size in (floor, floor + 3, floor + 20, full.vocab_size):
        chosen = frequent(full, counts, size)
        assert len(chosen) <= size
        assert closure(full, chosen) == chosen
    assert set(counts) <= chosen
    best = counts.most_common(1)[0][0]
    assert best in frequent(full, counts, floor + len(closure(full, [best]) - closure(full, ())))


def test_mistakes(full: Tokenizer) -> None:
    with pytest.raises(UserError, match="token 400 is outside"):
        trim(full, [400])
    with pytest.raises(UserError, match="more than 10"):
        frequent(full, {}, 10)


def test_trimming_twice(full: Tokenizer, kept: set[int]) -> None:
    once, first = trim(full, kept)
    twice, second = trim(once, once.encode(DOMAIN[1]))
    assert [first[second[i]] for i in twice.encode(DOMAIN[1])] == full.encode(DOMAIN[1])
