"""One pass over the questions in the serving runtime: score the gold answer, then answer greedily in the slots.

1. Questions are walked in the order of their prompts' ids, so that a prompt shares its longest known prefix with the
   one before it: that part is cut from the earlier prefix and not run again.
2. `prefill` runs the rest of the prompt; a second one runs the gold answer over it and keeps its logits.
3. The prompt's prefix goes into a free slot; all occupied slots take a greedy token at each step until one is free
   again.
It knows no text and no metric.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from tradewind.engine.contract import Engine, Prefix
from tradewind.errors import UserError
from tradewind.evaluation.questions import Question

Block = NDArray[np.float32]


@dataclass(frozen=True)
class Scored:
    """gold_logits [len(gold), vocab]: before each gold token. prompt_logits [m, vocab]: after each of the last m prompt
    tokens (those this prompt did not share), None where they were not asked for."""

    question: Question
    prefix: Prefix
    gold_logits: Block
    prompt_logits: Block | None


@dataclass(frozen=True)
class Answer:
    """Greedy token ids without the end token; `finished` is False where the budget ended the answer."""

    tokens: tuple[int, ...]
    finished: bool


def scored(engine: Engine, asked: Sequence[Question], keep_prompt: frozenset[str] = frozenset()) -> Iterator[Scored]:
    """Prefill every prompt and its gold answer; prompt logits are kept for the ids in `keep_prompt`.

    Raises UserError naming a question that does not fit the engine's context."""
    last: Prefix | None = None
    before: tuple[int, ...] = ()
    for question in tqdm(sorted(asked, key=lambda q: (q.prompt, q.id)), desc="questions", disable=None):
        if len(question.prompt) + len(question.gold) > engine.max_len:
            raise UserError(f"question {question.id!r} needs a context of {len(question.prompt) + len(question.gold)}")
        shared = min(common_length(before, question.prompt), len(question.prompt) - 1)
        past = last.cut(shared) if last is not None and shared else None
        last = engine.prefill(question.prompt[shared:], past, keep_logits=question.id in keep_prompt)
        before = question.prompt
        yield Scored(question, last, _gold_logits(engine, last, question.gold), last.all_logits)


def _gold_logits(engine: Engine, prefix: Prefix, gold: Sequence[int]) -> Block:
    assert prefix.logits is not None
    if len(gold) < 2:
        return prefix.logits[None][: len(gold)]
    rest = engine.prefill(gold[:-1], prefix, keep_logits=True).all_logits
    assert rest is not None
    return np.concatenate([prefix.logits[None], rest])


def common_length(left: Sequence[int], right: Sequence[int]) -> int:
    """How many tokens two sequences share from the start."""
    for place, (a, b) in enumerate(zip(left, right, strict=False)):
        if a != b:
            return place
    return min(len(left), len(right))


def answers(
    engine: Engine,
    stream: Iterable[Scored],
    max_new_tokens: int,
    eos_token_ids: Iterable[int],
    observe: Callable[[Scored], None] = lambda _: None,
) -> dict[str, Answer]:
    """Greedy answers by question id. `observe` sees each scored question while its logits are alive."""
    rows = _Rows(engine, max_new_tokens, frozenset(eos_token_ids))
    for item in stream:
        observe(item)
        while rows.full:
            rows.step()
        rows.add(item.question.id, item.prefix)
    while rows.active:
        rows.step()
    return rows.done


class _Rows:
    """The slots of the engine, each with the question that it answers and the tokens so far."""

    def __init__(self, engine: Engine, max_new_tokens: int, eos: frozenset[int]) -> None:
        self.engine, self.max_new_tokens, self.eos = engine, max_new_tokens, eos
        self.active: dict[int, tuple[str, list[int]]] = {}
        self.done: dict[str, Answer] = {}

    @property
    def full(self) -> bool:
        return len(self.active) == self.engine.slots

    def add(self, question: str, prefix: Prefix) -> None:
        assert prefix.logits is not None
        slot = next(slot for slot in range(self.engine.slots) if slot not in self.active)
        self.engine.insert(prefix, slot)
        self.active[slot] = (question, [])
        self._take(slot, int(prefix.logits.argmax()))

    def step(self) -> None:
        logits = self.engine.step({slot: [tokens[-1]] for slot, (_, tokens) in self.active.items()})
        best = {slot: int(block[-1].argmax()) for slot, block in logits.items()}
        for slot, token in best.items():
            self._take(slot, token)

    def _take(self, slot: int, token: int) -> None:
        question, tokens = self.active[slot]
        if token not in self.eos:
            tokens.append(token)
        room = self.engine.length(slot) < self.engine.max_len
        if token in self.eos or len(tokens) == self.max_new_tokens or not room:
            self.done[question] = Answer(tuple(tokens), finished=token in self.eos)
            self.engine.release(slot)
            del self.active[slot]
