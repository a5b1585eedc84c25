"""What the scheduler and the API need of a tokenizer, and the byte-level one that goes with the mock engine.

`tradewind.model.tokenizer.Tokenizer` has the same shape for real models.
"""

from collections.abc import Mapping, Sequence
from typing import Protocol

from tradewind.engine.mock import BYTES, IM_END, IM_START

Message = Mapping[str, str]
"""`role` and `content`."""


class Tokenizer(Protocol):
    """The bytes of tokens joined are the text's bytes, special tokens left out."""

    @property
    def eos_token_ids(self) -> Sequence[int]: ...
    @property
    def special_ids(self) -> Sequence[int]: ...
    @property
    def vocab_size(self) -> int: ...
    def encode(self, text: str) -> list[int]: ...
    def chat(self, messages: Sequence[Message], add_generation_prompt: bool = True) -> list[int]: ...
    def token_bytes(self, token: int) -> bytes: ...


class ByteTokenizer:
    """One token a UTF-8 byte, two specials; chat in ChatML. Text cannot spell a special token."""

    eos_token_ids = (IM_END,)
    special_ids = (IM_START, IM_END)
    vocab_size = BYTES + 2

    def encode(self, text: str) -> list[int]:
        return list(text.encode())

    def decode(self, tokens: Sequence[int]) -> str:
        return b"".join(map(self.token_bytes, tokens)).decode("utf-8", "replace")

    def token_bytes(self, token: int) -> bytes:
        return bytes([token]) if 0 <= token < BYTES else b""

    def chat(self, messages: Sequence[Message], add_generation_prompt: bool = True) -> list[int]:
        ids: list[int] = []
        for message in messages:
            ids += [IM_START, *self.encode(f"{message['role']}\n{message['content']}"), IM_END, *b"\n"]
        return [*ids, IM_START, *b"assistant\n"] if add_generation_prompt else ids
