"""Scores of a prompt against the definition, however the prompt is cut into chunks."""

import numpy as np
import pytest

from tests.engine.test_scheduler import send
from tradewind.engine.mock import IM_END, MockEngine
from tradewind.engine.requests import Delta, Done, PromptLogprobs, Request
from tradewind.engine.sampling import SamplingParams
from tradewind.engine.scheduler import Scheduler, SchedulerSettings
from tradewind.engine.text import ByteTokenizer

PROMPT = (*"aé b".encode(), IM_END, ord("c"))


@pytest.mark.parametrize("chunk", [1, 2, 3, 100])
def test_each_token_is_scored_by_the_logits_before_it(chunk: int) -> None:
    scheduler = Scheduler(MockEngine(max_len=64), ByteTokenizer(), SchedulerSettings(prefill_chunk=chunk))
    request = Request(PROMPT, 2, SamplingParams(temperature=0), n=2, prompt_logprobs=2)
    _, inbox = send(scheduler, request)
    assert isinstance(inbox.end(), Done)
    scheduler.close()
    scored, *rest = inbox.events
    assert isinstance(scored, PromptLogprobs)
    assert not any(isinstance(event, PromptLogprobs) for event in rest)
    lines = MockEngine(max_len=64).prefill(PROMPT, keep_logits=True).all_logits
    assert lines is not None
    first, *others = scored.entries
    assert (first.logprob, first.top) == (None, ())
    for entry, line, token in zip(others, lines, PROMPT[1:], strict=False):
        total = float(np.log(np.exp(line.astype(np.float64)).sum()))
        assert entry.token == token
        assert entry.logprob == pytest.approx(line[token] - total, abs=1e-5)
        assert [top for top, _, _ in entry.top] == np.argsort(-line, kind="stable")[:2].tolist()
    assert len(scored.entries) == len(PROMPT)
    assert [entry.offset for entry in scored.entries] == [0, 1, 1, 2, 3, 4, 4]
    assert [entry.piece for entry in scored.entries][-2:] == [b"", b"c"]


def test_a_prompt_may_be_scored_without_an_answer() -> None:
    scheduler = Scheduler(MockEngine(max_len=len(PROMPT)), ByteTokenizer())
    _, inbox = send(scheduler, Request(PROMPT, 0, n=2, prompt_logprobs=0))
    assert inbox.end() == Done(len(PROMPT), 0)
    assert inbox.events[1:-1] == [Delta(index, "", 0, (), "length") for index in (0, 1)]
    assert scheduler.snapshot().completion_tokens == 0
    scheduler.close()
