"""The ways of running a prompt, over the mock engine, and what counts as a difference."""

import threading

import pytest

from benchmarks.equivalence import WAYS, Answer, Way, difference, merged, send, table
from tradewind.engine.mock import MockEngine
from tradewind.engine.requests import Delta, Done, Request, TokenLogprob
from tradewind.engine.sampling import SamplingParams
from tradewind.engine.scheduler import Scheduler
from tradewind.engine.text import ByteTokenizer

REQUESTS = [
    Request(tuple(text.encode()), 12, SamplingParams(temperature=0, logprobs=0), ignore_eos=True)
    for text in (
        "abcabcabcabcabc shared",
        "abcabcabcabcabc other",
        "zzzzzzzzzzzzzzzzzzzzzzz",
        "no two alike at all....",
    )
]


def run(name: str) -> list[Answer]:
    scheduler = Scheduler(MockEngine(slots=8, max_len=64), ByteTokenizer(), WAYS[name].settings)
    try:
        return send(scheduler, REQUESTS, WAYS[name], name)
    finally:
        scheduler.close()


@pytest.mark.parametrize("name", WAYS)
def test_every_way_gives_each_prompt_its_answer(name):
    alone, found = run("alone"), run(name)
    row = difference(alone, found)
    assert all(len(answer.tokens) == len(answer.logprobs) == 12 for answer in found)
    assert (row["answers"], row["differing"], row["largest_logprob_difference"]) == (4, 0, 0)
    assert (row["cached_tokens"] > 0) == (name == "prefix-cached")
    assert (row["drafted_tokens"] > 0) == name.startswith("speculative")


def answer(tokens: list[int], logprobs: list[float]) -> Answer:
    made = Answer(threading.Semaphore(0))
    entries = tuple(TokenLogprob(t, b"", p, (), 0) for t, p in zip(tokens, logprobs, strict=True))
    made(Delta(0, "", len(tokens), entries, "length"))
    made(Done(3, len(tokens), 2, 1, 4))
    return made


def test_differences_are_counted_up_to_the_first_other_token():
    want = [answer([1, 2, 3], [-0.1, -0.2, -0.3]), answer([1, 2, 3], [-0.1, -0.2, -0.3])]
    made = [answer([1, 2, 3], [-0.1, -0.2, -0.5]), answer([1, 9, 3], [-0.1, -7.0, -9.0])]
    row = difference(want, made)
    assert row["differing"] == 1
    assert row["largest_logprob_difference"] == pytest.approx(0.2)
    assert (row["cached_tokens"], row["drafted_tokens"], row["accepted_tokens"]) == (4, 10, 2)
    assert "batch of 2" in table("v", {"batch of 2": row})


def test_each_group_is_disturbed_while_it_runs():
    seen = []
    scheduler = Scheduler(MockEngine(slots=8, max_len=64), ByteTokenizer())
    try:
        send(scheduler, REQUESTS, Way(3), "groups", lambda answers, tokens: seen.append((len(answers), tokens)))
    finally:
        scheduler.close()
    assert seen == [(3, 36), (1, 12)]


def test_ways_join_those_of_the_same_work_only():
    same = {"prompts": 2, "tokens": 3, "weights_digest": "abc"}
    entry = same | {"git_commit": "old", "ways": {"alone": {}, "after failover": {"differing": 9}}}
    rows = {"after failover": {"differing": 0}}
    assert merged(entry, same, rows) == {"alone": {}, "after failover": {"differing": 0}}
    for other in ({}, entry | {"prompts": 4}, entry | {"weights_digest": "other"}):
        assert merged(other, same, rows) == rows
