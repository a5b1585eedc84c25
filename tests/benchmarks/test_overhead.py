"""The overhead benchmark over mock engines: the same work on both sides, and the arithmetic of the difference."""

import sys

import pytest

from benchmarks.overhead import Work, bare, compare, lines, over_http, summarize
from benchmarks.servers import Server, free_port, started
from tradewind.engine.mock import MockEngine
from tradewind.errors import UserError

WORK = Work(repeats=2, requests=2, streams=(1, 8), prompt_tokens=16, answer_tokens=8, threads=1)


@pytest.fixture
def server(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    port = free_port()
    command = (sys.executable, "-m", "tradewind.serving", "--engine", "mock", "--port", str(port))
    made = Server("ort", "mock", command, port, "/ready")
    with started(made):
        yield made


def test_both_sides_do_the_work(server):
    texts = iter([[97 + n % 26] * WORK.prompt_tokens for n in range(100)])
    result = summarize(compare({"http": over_http(server), "bare": bare(MockEngine(slots=8))}, texts, WORK))
    assert set(result) == {"1", "8"}
    for row in result.values():
        for measure in ("tokens_per_s", "ttft_ms"):
            assert all(len(row["repeats"][measure][side]) == WORK.repeats for side in ("http", "bare"))
        low, high = row["lost_share"]["interval"]
        assert low <= row["lost_share"]["median"] <= high < 1
        assert row["ttft_added_ms"]["median"] > 0  # arithmetic takes no time, HTTP does
    assert "tokens/s lost" in lines(result)


def test_a_refused_request_is_no_measurement(server):
    with pytest.raises(UserError, match="context_length_exceeded"):
        over_http(server)([[97] * 3000], 8)


def test_the_bare_loop_makes_every_token():
    engine = MockEngine(slots=2, max_len=300)
    fed = []
    step = engine.step
    engine.step = lambda feed: fed.append(len(feed)) or step(feed)
    rate, first = bare(engine)([[97] * 100] * 5, 4)  # five prompts, two slots
    assert sum(fed) == 5 * 3  # the first token of each is the prompt's
    assert (rate > 0, first > 0) == (True, True)
    assert not any(engine.length(slot) for slot in range(2))


def test_what_is_lost_is_a_share_within_a_repeat():
    values = {1: {"tokens_per_s": {"http": [90.0, 40.0, 9.0], "bare": [100.0, 50.0, 10.0]},
                  "ttft_ms": {"http": [12.0, 24.0, 36.0], "bare": [10.0, 20.0, 30.0]}}}  # fmt: skip
    row = summarize(values)["1"]
    assert row["lost_share"]["median"] == pytest.approx(0.1)
    assert row["ttft_added_ms"]["median"] == pytest.approx(4)
