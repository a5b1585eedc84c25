import itertools

import numpy as np
import pytest

from tradewind.engine.mock import IM_END, MockEngine
from tradewind.errors import UserError
from tradewind.evaluation.generate import answers, common_length, scored
from tradewind.evaluation.questions import questions


def alone(engine, prompt, count) -> tuple[tuple[int, ...], bool]:
    """The reference: one token at a time, everything prefilled anew."""
    tokens: list[int] = []
    while len(tokens) < count:
        token = int(engine.prefill([*prompt, *tokens]).logits.argmax())
        if token == IM_END:
            return tuple(tokens), True
        tokens.append(token)
    return tuple(tokens), False


def test_answers_are_those_of_each_question_alone(engine, codec, samples):
    asked = questions(samples, codec)
    said = answers(engine, scored(engine, asked), 40, codec.eos_token_ids)
    assert {name: (a.tokens, a.finished) for name, a in said.items()} == {
        q.id: alone(engine, q.prompt, 40) for q in asked
    }
    assert any(a.finished for a in said.values()), "the samples should exercise the end token"
    assert all(engine.length(slot) == 0 for slot in range(engine.slots))


def test_gold_and_prompt_logits_are_those_of_one_whole_prefill(engine, codec, samples):
    asked = questions(samples, codec)
    keep = frozenset(q.id for q in asked[::2])
    seen = 0
    for item in scored(engine, asked, keep):
        prompt, gold = item.question.prompt, item.question.gold
        whole = engine.prefill([*prompt, *gold], keep_logits=True).all_logits
        np.testing.assert_array_equal(item.gold_logits, whole[len(prompt) - 1 : -1])
        assert (item.prompt_logits is not None) == (item.question.id in keep)
        if item.prompt_logits is not None:
            held = len(item.prompt_logits)
            np.testing.assert_array_equal(item.prompt_logits, whole[len(prompt) - held : len(prompt)])
        seen += 1
    assert seen == len(asked)


def test_what_prompts_share_is_run_once(codec, samples):
    class Counting(MockEngine):
        run = 0

        def prefill(self, tokens, past=None, **more):
            self.run += len(tokens)
            return super().prefill(tokens, past, **more)

    engine = Counting(slots=2, max_len=400)
    asked = questions(samples, codec)
    list(scored(engine, asked))
    ordered = sorted(q.prompt for q in asked)
    own = len(ordered[0]) + sum(max(1, len(b) - common_length(a, b)) for a, b in itertools.pairwise(ordered))
    assert engine.run == own + sum(len(q.gold) - 1 for q in asked)


def test_a_question_beyond_the_context_is_named(codec, samples):
    with pytest.raises(UserError, match="what-0"):
        list(scored(MockEngine(slots=1, max_len=60), questions(samples[:1], codec)))


def test_an_answer_ends_where_the_context_does(codec, samples):
    (question,) = questions(samples[:1], codec)
    engine = MockEngine(slots=1, max_len=len(question.prompt) + len(question.gold))
    said = answers(engine, scored(engine, [question]), 1000, eos_token_ids=())
    assert not said[question.id].finished
    assert len(said[question.id].tokens) <= len(question.gold) + 1
