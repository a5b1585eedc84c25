import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tradewind.caching.codec import SKEW_S, Answer, BadValue, FromTheFuture, pack, seal, unpack, unseal
from tradewind.engine.requests import Delta, Done, Event, PromptLogprobs, TokenLogprob

finite = st.floats(allow_nan=False, allow_infinity=False)
count = st.integers(0, 2**31)
text = st.text(st.characters())  # lone surrogates too: half a pair may be a token's
top = st.tuples(count, st.binary(max_size=8), finite)
scored = st.builds(
    TokenLogprob, count, st.binary(max_size=8), st.none() | finite, st.lists(top, max_size=3).map(tuple), count
)
scores = st.lists(scored, max_size=3).map(tuple)
reasons = st.sampled_from([None, "stop", "length"])
deltas = st.builds(Delta, count, text, count, scores, reasons, st.lists(count, max_size=4).map(tuple))
events = st.tuples(
    st.lists(deltas | st.builds(PromptLogprobs, scores), max_size=5), st.builds(Done, count, count, count, count, count)
).map(lambda one: (*one[0], one[1]))
answers = st.builds(Answer, events, finite, finite)
SECRET, KEY = b"s" * 32, b"k" * 32


@given(answers)
def test_an_answer_comes_back_as_it_went(answer: Answer) -> None:
    assert unpack(pack(answer)) == answer


@given(answers)
def test_the_whole_answer_says_the_same(answer: Answer) -> None:
    def said(events: tuple[Event, ...]) -> dict[int, tuple[object, ...]]:
        out: dict[int, list[Delta]] = {}
        for event in events:
            if isinstance(event, Delta):
                out.setdefault(event.index, []).append(event)
        return {
            index: (
                "".join(one.text for one in parts), sum(one.tokens for one in parts),
                [entry for one in parts for entry in one.logprobs], [token for one in parts for token in one.ids],
            )
            for index, parts in out.items()
        }  # fmt: skip

    assert said(answer.whole) == said(answer.events)
    assert len([one for one in answer.whole if isinstance(one, Delta)]) == len(said(answer.events))
    assert answer.whole[-1] == answer.events[-1]


@given(answers)
def test_any_writer_of_json_is_read(answer: Answer) -> None:
    held = json.loads(pack(answer).decode("utf-8", "surrogatepass"))
    for spaced in (None, (",", ":")):
        text = json.dumps(held, ensure_ascii=False, separators=spaced)
        assert unpack(text.encode("utf-8", "surrogatepass")) == answer


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
def test_numbers_that_json_has_not_are_refused(number: float) -> None:
    end = Done(1, 1, 0, 0, 0)
    for scored in (TokenLogprob(1, b"x", number, (), 0), TokenLogprob(1, b"x", None, ((1, b"x", number),), 0)):
        with pytest.raises(ValueError, match="finite"):
            pack(Answer((Delta(0, "x", 1, (scored,)), end), 1.0, 1.0))
    for times in ((number, 1.0), (1.0, number)):
        with pytest.raises(ValueError, match="no time"):
            pack(Answer((end,), *times))


@given(st.binary(max_size=200))
def test_other_bytes_are_no_answer(value: bytes) -> None:
    with pytest.raises(BadValue):
        unpack(value)


@pytest.mark.parametrize(
    "value",
    [b"[1,2,[]]", b"[1,2,[[\"d\",0,\"x\",1,null,[],[]]]]", b"[1,2,[[\"e\",1,1,0,0,0],[\"e\",1,1,0,0,0]]]",
     b"[1,2,[[\"d\",0,\"x\",1,\"error\",[],[]],[\"e\",1,1,0,0,0]]]", b"[1,2,[[\"z\"],[\"e\",1,1,0,0,0]]]"],
)  # fmt: skip
def test_what_is_not_whole_is_no_answer(value: bytes) -> None:
    with pytest.raises(BadValue):
        unpack(value)


@given(payload=st.binary(max_size=64), place=st.integers(0), bit=st.integers(0, 7))
def test_a_seal_breaks_with_any_bit(payload: bytes, place: int, bit: int) -> None:
    sealed = bytearray(seal(SECRET, KEY, payload, 100.0, 200.0))
    assert unseal(SECRET, KEY, bytes(sealed), 150.0) == (payload, 50.0)
    sealed[place % len(sealed)] ^= 1 << bit
    with pytest.raises(BadValue):
        unseal(SECRET, KEY, bytes(sealed), 150.0)


def test_a_seal_is_of_its_key_and_secret() -> None:
    sealed = seal(SECRET, KEY, b"answer", 100.0, 200.0)
    for secret, key in ((b"t" * 32, KEY), (SECRET, b"l" * 32)):
        with pytest.raises(BadValue):
            unseal(secret, key, sealed, 150.0)


@pytest.mark.parametrize(
    ("now", "left"), [(150.0, 50.0), (200.0, 0.0), (1000.0, 0.0), (100.0 - SKEW_S, 100.0 + SKEW_S)]
)
def test_a_seal_has_its_time(now: float, left: float) -> None:
    assert unseal(SECRET, KEY, seal(SECRET, KEY, b"", 100.0, 200.0), now)[1] == left


def test_a_seal_of_a_later_time_is_named() -> None:
    with pytest.raises(FromTheFuture, match=r"6\.0 s"):
        unseal(SECRET, KEY, seal(SECRET, KEY, b"", 100.0 + SKEW_S + 1, 200.0), 100.0)
