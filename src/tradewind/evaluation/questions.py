"""Test questions as token ids: what is asked (the prompt) and what is scored (the gold answer).

It knows the shape of a corpus sample, nothing of engines. Prompts are built as the server builds them: the chat
template over all messages but the last, with the generation prompt.
"""

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

from tradewind.corpus.prompt import REFUSAL, Message, user_message
from tradewind.errors import UserError

Sample = Mapping[str, Any]


class Codec(Protocol):
    """What evaluation needs of a tokenizer (`tradewind.model.tokenizer.Tokenizer` has it)."""

    @property
    def eos_token_ids(self) -> Sequence[int]: ...
    def encode(self, text: str) -> list[int]: ...
    def decode(self, ids: list[int]) -> str: ...
    def chat(self, messages: Sequence[Message], add_generation_prompt: bool = True) -> list[int]: ...


@dataclass(frozen=True)
class Question:
    """prompt: ids up to where the answer starts. gold: ids of the gold answer's text, without the end token."""

    id: str
    kind: str
    answerable: bool
    answer: str
    prompt: tuple[int, ...]
    gold: tuple[int, ...]

    def mapped(self, ids: Sequence[int]) -> "Question":
        """The same text with each token id replaced by `ids[token]` (a student's ids -> its teacher's)."""
        return replace(self, prompt=tuple(ids[t] for t in self.prompt), gold=tuple(ids[t] for t in self.gold))


def questions(samples: Iterable[Sample], codec: Codec, shots: Sequence[Message] = ()) -> list[Question]:
    """Every sample as a question; `shots` (user and assistant messages) are put before its own first user message."""
    return [_question(sample, codec, shots) for sample in samples]


def _question(sample: Sample, codec: Codec, shots: Sequence[Message]) -> Question:
    system = [m for m in sample["messages"] if m["role"] == "system"]
    turns = [m for m in sample["messages"][:-1] if m["role"] != "system"]
    return Question(
        id=sample["id"],
        kind=sample["kind"],
        answerable=sample["answerable"],
        answer=sample["answer"],
        prompt=tuple(codec.chat([*system, *shots, *turns], add_generation_prompt=True)),
        gold=tuple(codec.encode(sample["answer"])),
    )


def by_hash(name: str) -> str:
    """A sort key that is a fixed shuffle: the same for every run, host and order of the file."""
    return hashlib.sha256(name.encode()).hexdigest()


def stratified(asked: Sequence[Question], count: int) -> list[Question]:
    """At most `count` questions, taken in turn from each kind in the order of their ids' hashes."""
    kinds: dict[str, list[Question]] = {}
    for question in sorted(asked, key=lambda q: by_hash(q.id)):
        kinds.setdefault(question.kind, []).append(question)
    rounds = [(place, kind, q) for kind, rows in kinds.items() for place, q in enumerate(rows)]
    return [question for _, _, question in sorted(rounds, key=lambda row: row[:2])[:count]]


def few_shots(train: Iterable[Sample], count: int, max_tokens: int, length: Callable[[str], int]) -> list[Message]:
    """User and assistant messages of `count` examples from the training split, each with a passage and one question.

    Short ones (at most `max_tokens`, as `length` counts a text), of different kinds of question as far as the split
    marks them, in hash order; the last one is refused, so that the baseline is shown that too. Raises UserError where
    the split has too few.
    """
    wanted = [False] * (count - 1) + [True]
    shots: list[Message] = []
    for sample in sorted(train, key=lambda s: by_hash(s["id"])):
        if not wanted:
            break
        if (pair := _example(sample, refused=wanted[0])) and length(pair[0]["content"]) <= max_tokens:
            shots += pair
            wanted.pop(0)
    if wanted:
        raise UserError(f"the training split has too few examples of at most {max_tokens} tokens for {count} shots")
    return shots


def _example(sample: Sample, refused: bool) -> list[Message] | None:
    """The passage with the first of the conversation's questions that is answered (or refused), and its answer."""
    turns = [m for m in sample["messages"] if m["role"] != "system"]
    for asked, answered in zip(turns[::2], turns[1::2], strict=False):
        if (answered["content"] == REFUSAL) == refused:
            opening = asked["content"] if asked is turns[0] else user_message(sample["passage"], asked["content"])
            return [{"role": "user", "content": opening}, {"role": "assistant", "content": answered["content"]}]
    return None
