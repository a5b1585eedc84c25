"""How the logits of a step become an answer's tokens."""

import numpy as np
import pytest

from tests.engine.scheduling import GREEDY
from tradewind.engine.answer import Answer
from tradewind.engine.contract import Logits
from tradewind.engine.lookup import Lookup
from tradewind.engine.mock import IM_END
from tradewind.engine.requests import Delta, Event, Request
from tradewind.engine.row import Row
from tradewind.engine.text import ByteTokenizer
from tradewind.engine.ticket import Ticket

PROMPT = tuple(b"abcdefgh abc")


def made(max_tokens: int = 20, stop: tuple[str, ...] = ()) -> tuple[Row, list[Event]]:
    request = Request(PROMPT, max_tokens, GREEDY, stop=stop)
    events: list[Event] = []
    answer = Answer(request, 0, ByteTokenizer())
    ticket = Ticket(request, events.append, [answer], lambda: None)
    return Row(ticket, answer, Lookup(PROMPT, len(PROMPT) + max_tokens, 3, 5)), events


def lines(text: bytes, *more: int) -> Logits:
    """[n, 258], of which the n bytes are the best tokens."""
    out = np.zeros((len(text) + len(more), 258), np.float32)
    out[range(len(out)), [*text, *more]] = 5
    return out


@pytest.mark.parametrize(
    ("draft", "chosen", "right"),
    [(b"", b"x", 0), (b"def", b"defg", 3), (b"def", b"dxfg", 1), (b"def", b"xefg", 0), (b"def", b"dexx", 2)],
)
def test_a_draft_counts_as_far_as_it_is_what_was_chosen(draft: bytes, chosen: bytes, right: int) -> None:
    row, events = made()
    assert row.accept(lines(chosen), tuple(draft)) == right
    assert row.tokens == list(chosen[: right + 1])
    assert "".join(event.text for event in events if isinstance(event, Delta)) == chosen[: right + 1].decode()
    assert row.length == len(PROMPT) + right
    assert (row.ticket.accepted, row.ticket.rejected) == (right, len(draft) - right)


def test_nothing_counts_behind_the_end() -> None:
    row, _ = made()
    assert row.accept(lines(b"d", IM_END, ord("f"), ord("g")), (ord("d"), IM_END, ord("f"))) == 2
    assert (row.tokens, row.finished) == ([ord("d"), IM_END], True)
    row, _ = made(stop=("e",))
    assert row.accept(lines(b"defg"), tuple(b"def")) == 2
    assert (row.tokens, row.answer.finish_reason) == (list(b"de"), "stop")
    row, _ = made(max_tokens=2)
    row.accept(lines(b"defg"), tuple(b"def"))
    assert (row.tokens, row.answer.finish_reason) == (list(b"de"), "length")


def test_no_draft_beyond_the_feed_or_the_end_of_the_answer() -> None:
    row, _ = made(max_tokens=4)
    assert bytes(row.draft(9)) == b"def"
    assert bytes(row.draft(3)) == b"de"
    assert row.draft(1) == ()
    row.accept(lines(b"d"))
    assert bytes(row.draft(9)) == b"ef"
    row.accept(lines(b"ef"), tuple(b"e"))
    assert row.draft(9) == ()
