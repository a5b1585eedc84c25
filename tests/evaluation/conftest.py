"""A tokenizer of bytes for the mock engine, samples over it, and an engine whose next token is a table."""

from collections.abc import Sequence

import numpy as np
import pytest

from tradewind.corpus.prompt import REFUSAL, conversation
from tradewind.engine.mock import IM_END, IM_START, MockEngine


class ByteCodec:
    """UTF-8 bytes as ids, and the mock's two marks; the shape of ChatML."""

    eos_token_ids: Sequence[int] = (IM_END,)

    def encode(self, text: str) -> list[int]:
        return list(text.encode())

    def decode(self, ids: list[int]) -> str:
        return bytes(t for t in ids if t < 256).decode(errors="replace")

    def chat(self, messages, add_generation_prompt=True) -> list[int]:
        ids: list[int] = []
        for message in messages:
            ids += [IM_START, *message["role"].encode(), 10, *message["content"].encode(), IM_END, 10]
        return [*ids, IM_START, *b"assistant\n"] if add_generation_prompt else ids


def sample(number: int, kind: str, answer: str, answerable: bool = True) -> dict:
    passage, question = f"p.f{number}(x)\nDoes thing {number}. More text.", f"What about {number}?"
    messages = conversation(passage, [(question, answer)])
    return {"id": f"{kind}-{number}", "kind": kind, "symbols": [f"p.f{number}"], "passage": passage,
            "question": question, "answer": answer, "answerable": answerable, "messages": messages}  # fmt: skip


@pytest.fixture
def codec() -> ByteCodec:
    return ByteCodec()


@pytest.fixture
def samples() -> list[dict]:
    kinds = [sample(n, kind, f"answer {n} of {kind}") for kind in ("what", "default") for n in range(4)]
    return kinds + [sample(n, "unanswerable", REFUSAL, answerable=False) for n in range(4)]


@pytest.fixture
def engine() -> MockEngine:
    return MockEngine(slots=3, max_len=400)


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(5)
