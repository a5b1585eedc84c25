"""How likely a model finds a prompt: log-probabilities of the prompt's own tokens, gathered as chunks of it are run.

The logits after a token score the next one; the first token of a prompt has no score. It knows no engine and no HTTP.
"""

from tradewind.engine.contract import Logits
from tradewind.engine.detokenize import TextStream
from tradewind.engine.requests import Request, TokenLogprob
from tradewind.engine.sampling import report
from tradewind.engine.text import Tokenizer


class PromptScores:
    """`entries` grows with each `add`: one for each token of the prompt at the end."""

    def __init__(self, request: Request, tokenizer: Tokenizer) -> None:
        self.prompt, self.count = request.prompt, request.sampling.logprobs or 0
        self.tokenizer, self.specials = tokenizer, frozenset(tokenizer.special_ids)
        self.entries: list[TokenLogprob] = []
        self._stream = TextStream()
        self._append(None, ())

    def add(self, lines: Logits | None) -> None:
        """lines [n, vocab]: the logits after each of the next n tokens. Raises RuntimeError where there are none."""
        if lines is None:
            raise RuntimeError("the engine kept no logits of the prompt")
        for line in lines[: len(self.prompt) - len(self.entries)]:
            scored = report(line, self.prompt[len(self.entries)], self.count)
            self._append(scored.logprob, tuple((token, self._bytes(token), value) for token, value in scored.top))

    def _append(self, logprob: float | None, top: tuple[tuple[int, bytes, float], ...]) -> None:
        token = self.prompt[len(self.entries)]
        piece = self._bytes(token)
        self.entries.append(TokenLogprob(token, piece, logprob, top, self._stream.decoded))
        self._stream.add(piece)

    def _bytes(self, token: int) -> bytes:
        return b"" if token in self.specials else self.tokenizer.token_bytes(token)
