"""Streamed text against the whole text, over any split of its bytes."""

from hypothesis import given, settings
from hypothesis import strategies as st

from tradewind.engine.detokenize import TextStream

texts = st.text(alphabet=st.sampled_from("ab\n é€😀ש\u0301"), max_size=30)
short = st.text(alphabet="ab€", min_size=1, max_size=4)


def split(data: st.DataObject, whole: bytes) -> list[bytes]:
    cuts = sorted(data.draw(st.lists(st.integers(0, len(whole)), max_size=len(whole) + 2)))
    return [whole[start:end] for start, end in zip([0, *cuts], [*cuts, len(whole)], strict=True)]


@settings(max_examples=200, deadline=None)
@given(text=st.text(max_size=30) | texts, data=st.data())
def test_any_split_reproduces_the_text(text: str, data: st.DataObject) -> None:
    whole = text.encode("utf-8", "replace")
    stream = TextStream()
    shown = [stream.add(piece) for piece in split(data, whole)]
    assert "".join(shown) + stream.finish() == whole.decode()
    assert not any("\ufffd" in piece for piece in shown) or "\ufffd" in text


@given(whole=st.binary(max_size=20), data=st.data())
def test_bytes_that_are_not_text_are_replaced_alike(whole: bytes, data: st.DataObject) -> None:
    def streamed(pieces: list[bytes]) -> str:
        stream = TextStream()
        return "".join(map(stream.add, pieces)) + stream.finish()

    assert streamed(split(data, whole)) == streamed([whole])
    assert whole.decode("utf-8", "replace").startswith(streamed([whole]))


def test_half_a_character_is_never_shown() -> None:
    stream = TextStream()
    assert [stream.add(bytes([byte])) for byte in "a€".encode()] == ["a", "", "", "€"]
    stream.add("😀".encode()[:3])
    assert stream.finish() == ""


def cut_at_stop(text: str, stops: list[str]) -> str:
    """The definition, by looking at every end from left to right."""
    for end in range(len(text) + 1):
        starts = [end - len(stop) for stop in stops if text[:end].endswith(stop)]
        if starts:
            return text[: min(starts)]
    return text


@settings(max_examples=300, deadline=None)
@given(text=st.text(alphabet="ab€", max_size=20), stops=st.lists(short, min_size=1, max_size=4), data=st.data())
def test_stops_hold_back_and_cut_as_defined(text: str, stops: list[str], data: st.DataObject) -> None:
    stream, shown = TextStream(stops), ""
    for piece in split(data, text.encode()):
        shown += stream.add(piece)
        assert text.startswith(shown)
        if stream.stopped:
            break
    want = cut_at_stop(text, stops)
    assert shown + stream.finish() == want
    assert stream.stopped == (want != text or any(text.endswith(stop) for stop in stops))
    assert stream.shown == len(want)
