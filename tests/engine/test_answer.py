"""An answer by itself: its events add up, and nothing of its neighbours is in it."""

import numpy as np
import pytest

from tradewind.engine.answer import Answer
from tradewind.engine.requests import Delta, Request
from tradewind.engine.sampling import SamplingParams
from tradewind.engine.text import ByteTokenizer

SIZE = ByteTokenizer.vocab_size
FULL = SamplingParams(
    seed=3, logprobs=2, min_p=0.01, presence_penalty=1.0, frequency_penalty=0.5, repetition_penalty=1.3,
    logit_bias=((97, 2.0),),
)  # fmt: skip


def logits(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, 3, SIZE).astype(np.float32)


def deltas(request: Request, index: int = 0) -> list[Delta]:
    made = Answer(request, index, ByteTokenizer())
    found: list[Delta] = []
    while made.finish_reason is None:
        delta = made.accept(logits(made.count))
        found += [delta] if delta else []
    return found


@pytest.mark.parametrize("sampling", [SamplingParams(temperature=0), SamplingParams(seed=1), FULL])
def test_interleaved_answers_are_those_made_alone(sampling: SamplingParams) -> None:
    request = Request((97, 98), 12, sampling, ignore_eos=True)
    alone = [deltas(request, index) for index in range(3)]
    together = [Answer(request, index, ByteTokenizer()) for index in range(3)]
    found: list[list[Delta]] = [[], [], []]
    for place in range(12):
        for answer, own in zip(together, found, strict=True):
            delta = answer.accept(logits(place))
            own += [delta] if delta else []
    assert found == alone


def test_no_tokens_no_answer() -> None:
    made = Answer(Request((1,), 0), 0, ByteTokenizer())
    assert made.accept(logits(0)) == Delta(0, "", 0, (), "length")
    assert made.count == 0


def test_tokens_of_deltas_sum_to_the_count() -> None:
    found = deltas(Request((1,), 30, SamplingParams(seed=2), ignore_eos=True))
    assert sum(delta.tokens for delta in found) == 30
    assert [delta.finish_reason for delta in found] == [None] * (len(found) - 1) + ["length"]
