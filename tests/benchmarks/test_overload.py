"""The overload benchmark over a mock server: what is sent is accounted for, and what a reply says is read as it is."""

import asyncio
import random

import pytest

from benchmarks import overload
from benchmarks.client import Reply
from benchmarks.overload import Work, arrivals, capacity, lines, served, summarize
from tradewind.errors import UserError

WORK = Work(factors=(20.0,), seconds=1.0, answer_tokens=8, slots=2, ttft_goal_ms=1000, characters=40)
MOCK = ("--engine", "mock", "--slots", "2", "--max-len", "512", "--max-waiting", "2")


def test_every_request_is_answered_or_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    texts = (f"{number} and so on" for number in range(10**6))
    with served("mock", MOCK) as place:
        rate = asyncio.run(capacity(place, texts, WORK, each=1))
        row = asyncio.run(overload.overload(place, texts, 1.0, 400.0, WORK))
    assert rate > 0
    assert row["sent"] == len(arrivals(400.0, WORK.seconds, random.Random(WORK.seed)))
    assert row["accepted"] + row["refused"] == row["sent"]
    assert not row["other"]
    assert row["accepted"] > 0
    assert row["retry_after_missing"] == 0
    assert row["ready"] == row["ready_asked"] > 0
    if row["refused"]:  # each stands in the server's log too
        assert row["refused_ms_by_the_server"]["max"] > 0
    assert "answered" in lines({"1": row})


def test_arrivals_are_of_the_rate_and_the_seed():
    moments = arrivals(50.0, 40.0, random.Random(0))
    assert moments == sorted(moments) == arrivals(50.0, 40.0, random.Random(0))
    assert moments[0] > 0 and moments[-1] < 40
    assert len(moments) == pytest.approx(2000, rel=0.1)


def test_what_is_neither_whole_nor_refused_is_counted_apart():
    replies = [
        Reply(200, 1.0, 0.1, 0.9, 8),
        Reply(200, 1.0, 0.1, 0.9, 3),
        Reply(200, 1.0, 0.1, 0.9, 0, "request_timeout"),
        Reply(429, 0.002, error="slow_down", headers={"retry-after": "2"}),
        Reply(429, 0.004, error="slow_down"),
        Reply(0, 0.1, error="connection"),
    ]
    row = summarize(replies, [Reply(200, 0.01), Reply(503, 0.02)], [1.5], 9.0, WORK)
    assert (row["accepted"], row["refused"], row["retry_after_missing"]) == (1, 2, 1)
    assert row["other"] == {"200 None": 1, "200 request_timeout": 1, "0 connection": 1}
    assert row["refused_ms"]["max"] == pytest.approx(4)
    assert row["ttft_ms"]["p50"] == pytest.approx(100)
    assert (row["ready"], row["ready_asked"]) == (1, 2)


def test_a_server_that_does_not_start_says_why(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="unknown engine 'cuda'"), served("mock", ("--engine", "cuda")):
        pass
