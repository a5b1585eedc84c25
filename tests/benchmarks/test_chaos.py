"""The chaos benchmark: answers that change, are cut or refused are told apart, and gaps are put down to their faults."""

import asyncio

import httpx
import pytest

from benchmarks.answers import KINDS, Answer, ask, differences, questions
from benchmarks.asking import Place, Sent, Work, around, counted, load
from benchmarks.chaos import moments, share, table
from tests.serving.conftest import serving
from tradewind.engine.mock import MockEngine
from tradewind.serving.settings import ServeSettings

TEXTS = ["count on", "and on"]


def told(text: str = "ab", logprobs: float = -0.5) -> dict[str, object]:
    return {"usage": {"completion_tokens": 2}, "reasons": {0: "length"}, "texts": {0: text}, "logprobs": {0: logprobs}}


def place() -> Place:
    asked = questions("mock", TEXTS[:1], 8)
    return Place(httpx.AsyncClient(), Work(), asked, [Answer(0.0, 200, told()) for _ in asked])


def test_an_answer_is_held_to_the_undisturbed_one() -> None:
    answers = [
        Answer(0.0, 200, told(), ended=1.0),
        Answer(0.0, 200, told("ac")),
        Answer(0.0, 200, told(logprobs=-0.6)),
        Answer(0.0, 503, error="status 503: server_is_overloaded", retry_after="5"),
        Answer(0.0, 503, error="status 503: none"),
        Answer(0.0, 200, error="the stream ended without [DONE]", events=[0.1, 0.4]),
        Answer(0.0, 0, error="ConnectError: no"),
    ]
    row = counted(place(), [Sent(0, one) for one in answers])
    assert (row["requests"], row["answered"], row["refused"], row["failed"]) == (7, 3, 1, 3)
    assert (row["altered"], row["altered_logprobs"], row["cut"]) == (1, 1, 1)
    assert row["altered_kinds"] == {"chat, stream: texts": 1, "chat, stream: logprobs": 1}
    assert "altered_kinds" in table({"kills": row})


def test_a_gap_is_of_the_fault_that_it_follows() -> None:
    sent = [Sent(0, Answer(0.0, 200, events=[1.0, 1.1, 3.1, 3.2, 40.0])), Sent(0, Answer(0.0, 200, events=[5.0, 5.5]))]
    assert around(sent, [2.0]) == pytest.approx([36.8])
    assert around(sent[1:], [5.2]) == pytest.approx([0.5])
    assert around(sent[1:], [2.0, 6.0]) == []
    assert Answer(0.0).longest_gap(0, 9) is None


def test_shares_and_moments() -> None:
    assert share(7, {7: 10, 8: 10}, {7: 20, 8: 40, 9: 10}) == 0.2
    assert share(7, {7: 10, 8: 10}, {8: 40}) is None
    assert moments(Work(seconds=180, every=20)) == [20.0 * one for one in range(1, 9)]


@pytest.fixture(scope="module")
def mock_url():
    with serving(MockEngine(slots=4, max_len=512), ServeSettings()) as served:
        yield served.url


def test_the_same_question_has_the_same_answer_as_a_stream_and_as_a_whole(mock_url: str) -> None:
    asked = questions("mock", TEXTS, 12)
    assert len(asked) == 2 * len(KINDS) * len(TEXTS)

    async def main() -> list[Answer]:
        async with httpx.AsyncClient(base_url=mock_url, timeout=60) as http:
            return [await ask(http, one) for one in asked]

    answers = asyncio.run(main())
    for kind, stream, whole in zip(asked[::2], answers[::2], answers[1::2], strict=True):
        assert stream.error is None, kind
        assert whole.error is None, kind
        assert list(differences(stream, whole)) == [], kind
        assert len(stream.events) > 1
        assert not whole.events


def test_workers_ask_until_the_block_ends_and_nothing_is_altered(mock_url: str) -> None:
    async def main() -> dict[str, object]:
        async with httpx.AsyncClient(base_url=mock_url, timeout=60) as http:
            here = Place(http, Work(workers=3), questions("mock", TEXTS, 12))
            here.undisturbed = [await ask(http, one) for one in here.questions]
            async with load(here) as sent:
                while len(sent) < 20:
                    await asyncio.sleep(0.01)
            return counted(here, sent)

    row = asyncio.run(main())
    assert row["requests"] == row["answered"] >= 20
    assert (row["altered"], row["altered_logprobs"], row["failed"]) == (0, 0, 0)
