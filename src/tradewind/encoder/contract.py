"""What an encoder promises: the vector of a text depends on its tokens alone, not on the texts beside it.

The tokens of a text are its own between [CLS] and [SEP]. What goes beyond `max_tokens` is refused, never cut: a vector of
half a text looks like any other.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import final

import numpy as np
from numpy.typing import NDArray

from tradewind.encoder.text import EncoderTokenizer
from tradewind.errors import UserError
from tradewind.files import digest

Tokens = Sequence[int]
Vectors = NDArray[np.float32]
"""[texts, dimensions], each of length 1."""


class TextTooLong(UserError):
    """place: of the text among those given. tokens: how many it has, [CLS] and [SEP] included."""

    def __init__(self, place: int, tokens: int, limit: int) -> None:
        super().__init__(f"text {place} has {tokens} tokens, the encoder reads at most {limit}")
        self.place, self.tokens, self.limit = place, tokens, limit


class Encoder(ABC):
    """runtime: its name, for vectors of two runtimes differ by rounding. May be used from several threads."""

    runtime: str

    def __init__(self, name: str, tokenizer: EncoderTokenizer, weights: str, dimensions: int, max_tokens: int) -> None:
        """weights: their digest, as they are run. max_tokens: of a text, [CLS] and [SEP] included."""
        self.name, self.tokenizer, self.weights_digest = name, tokenizer, weights
        self.dimensions, self.max_tokens = dimensions, max_tokens

    @cached_property
    def digest(self) -> str:
        """16 hexadecimal digits that name everything that a vector depends on beside its text."""
        return digest({"weights": self.weights_digest, "tokens": self.tokenizer.digest, "runtime": self.runtime})

    @final
    def embed(self, texts: Sequence[str]) -> Vectors:
        """Raises TextTooLong."""
        return self.embed_tokens(self.tokenizer.encode(texts))

    @final
    def embed_tokens(self, texts: Sequence[Tokens]) -> Vectors:
        """Of texts as `tokenizer.encode` gives them. Raises TextTooLong."""
        self.check(texts)
        vectors: Vectors = np.empty((len(texts), self.dimensions), np.float32)
        for places in self.batches([len(tokens) for tokens in texts]):
            vectors[places] = self.run([texts[place] for place in places])
        return vectors

    @final
    def check(self, texts: Sequence[Tokens]) -> None:
        """Raises TextTooLong for the first."""
        for place, tokens in enumerate(texts):
            if len(tokens) > self.max_tokens:
                raise TextTooLong(place, len(tokens), self.max_tokens)

    @abstractmethod
    def batches(self, lengths: Sequence[int]) -> Iterator[list[int]]:
        """Every place of `lengths` once, in groups that run together."""

    @abstractmethod
    def run(self, texts: Sequence[Tokens]) -> Vectors:
        """One such group."""
