"""Log-probabilities of a prompt's own tokens, gathered chunk by chunk so that no [prompt, vocab] array is ever kept.

It knows one prompt and the tokenizer. The logits after a token are those of the next one, so the first token has none.
"""

import numpy as np

from tradewind.engine.contract import Logits
from tradewind.engine.detokenize import TextStream
from tradewind.engine.requests import PromptLogprobs, TokenLogprob
from tradewind.engine.sampling import report
from tradewind.engine.text import Tokenizer


class PromptScorer:
    """count: alternatives to report for each token."""

    def __init__(self, prompt: tuple[int, ...], count: int, tokenizer: Tokenizer) -> None:
        self.prompt, self.count, self.tokenizer = prompt, count, tokenizer
        self._specials = frozenset(tokenizer.special_ids)
        self._text = TextStream()
        self._entries: list[TokenLogprob] = []
        self._append(None, ())

    def add(self, lines: Logits) -> None:
        """lines [n, vocab]: after the next n tokens of the prompt. Raises ValueError where they are not finite."""
        if not np.isfinite(lines).all():
            raise ValueError("the engine gave logits that are not finite")
        for line in lines[: len(self.prompt) - len(self._entries)]:
            found = report(line, self.prompt[len(self._entries)], self.count)
            self._append(found.logprob, found.top)

    @property
    def event(self) -> PromptLogprobs:
        return PromptLogprobs(tuple(self._entries))

    def _append(self, logprob: float | None, top: tuple[tuple[int, float], ...]) -> None:
        token = self.prompt[len(self._entries)]
        piece = self._bytes(token)
        alternatives = tuple((other, self._bytes(other), value) for other, value in top)
        self._entries.append(TokenLogprob(token, piece, logprob, alternatives, self._text.decoded))
        self._text.add(piece)

    def _bytes(self, token: int) -> bytes:
        return b"" if token in self._specials else self.tokenizer.token_bytes(token)
