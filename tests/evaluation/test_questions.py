import pytest

from tests.evaluation.conftest import sample
from tradewind.corpus.prompt import REFUSAL, conversation
from tradewind.errors import UserError
from tradewind.evaluation.questions import few_shots, questions, stratified


def train(number: int, turns: list[tuple[str, str]], passage: str = "") -> dict:
    passage = passage or f"q.g{number}(y)\nMakes {number}."
    return {"id": f"train-{number}", "passage": passage, "messages": conversation(passage, turns)}


def test_prompts_end_where_the_answer_starts(codec, samples):
    asked = questions(samples, codec)
    for row, question in zip(samples, asked, strict=True):
        whole = codec.chat(row["messages"], add_generation_prompt=False)
        assert [*question.prompt, *question.gold] == whole[: len(question.prompt) + len(question.gold)]


def test_strata_are_taken_in_turn_and_do_not_depend_on_file_order(codec, samples):
    asked = questions(samples, codec)
    kept = stratified(asked, 7)
    assert (
        sorted(q.kind for q in kept) == ["default"] * 2 + ["unanswerable"] * 2 + ["what"] * 3
        or len({q.kind for q in kept}) == 3
    )
    assert {q.id for q in kept} == {q.id for q in stratified(asked[::-1], 7)}
    assert len(stratified(asked, 100)) == len(asked)


def test_shots_have_their_passage_and_the_last_is_refused():
    split = [train(n, [("What?", "That."), ("Why?", REFUSAL)]) for n in range(5)]
    shots = few_shots(split, 3, max_tokens=200, length=len)
    assert [m["role"] for m in shots] == ["user", "assistant"] * 3
    assert [m["content"] for m in shots[1::2]] == ["That.", "That.", REFUSAL]
    for user in shots[::2]:
        assert user["content"].startswith("q.g")
    assert shots[4]["content"].endswith("Why?")
    assert len({user["content"] for user in shots[::2]}) == 3


def test_long_examples_are_passed_over_and_too_few_are_said():
    split = [train(0, [("What?", "That.")], passage="x" * 500), train(1, [("Why?", REFUSAL)])]
    with pytest.raises(UserError, match="too few examples"):
        few_shots(split, 2, max_tokens=100, length=len)


def test_shots_come_after_the_system_message(codec):
    shots = [{"role": "user", "content": "u"}, {"role": "assistant", "content": "a"}]
    row = sample(1, "what", "x")
    (question,) = questions([row], codec, shots)
    system, user = row["messages"][0], row["messages"][1]
    assert list(question.prompt) == codec.chat([system, *shots, user])


def test_mapped_replaces_every_id(codec, samples):
    question = questions(samples, codec)[0]
    ids = list(range(1000, 1300))
    assert question.mapped(ids).prompt == tuple(t + 1000 for t in question.prompt)
