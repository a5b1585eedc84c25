"""One answer in the making: sampled tokens become text, log-probabilities and a finish reason.

It knows its request and the tokenizer, not the engine or the other answers. `accept` is called once a position, in
order, until `finish_reason` is set.
"""

from collections.abc import Collection

from tradewind.engine.contract import Logits
from tradewind.engine.detokenize import TextStream
from tradewind.engine.requests import Delta, FinishReason, Request, TokenLogprob
from tradewind.engine.sampling import Sampled, Sampler
from tradewind.engine.text import Tokenizer


class Answer:
    """`accept` samples one token and gives what became certain; `last` is the token to feed next."""

    def __init__(self, request: Request, index: int, tokenizer: Tokenizer) -> None:
        self.request, self.index, self.tokenizer = request, index, tokenizer
        self.matcher = None if request.grammar is None else request.grammar.matcher()
        endless = request.ignore_eos and self.matcher is None
        self.ends: Collection[int] = () if endless else frozenset(tokenizer.eos_token_ids)
        banned = tuple(tokenizer.eos_token_ids) if endless else ()
        self.sampler = Sampler(request.sampling, request.first_index + index, banned, request.prompt)
        self.specials = frozenset(tokenizer.special_ids)
        self.stream = TextStream(request.stop)
        self.count = 0
        self.last = -1
        self.finish_reason: FinishReason | None = None
        self._unreported: list[int] = []
        self._logprobs: list[TokenLogprob] = []
        for token in request.resumed:
            self._replay(token)

    def accept(self, logits: Logits) -> Delta | None:
        """logits [vocab] after the last token. None where nothing can be shown yet. Raises BadStructure where the grammar
        proves too complex, ValueError where the logits are not finite.
        """
        if not self.request.max_tokens:
            self.finish_reason = "length"
            return Delta(self.index, "", 0, (), self.finish_reason)
        return self._told(self.sampler(logits, None if self.matcher is None else self.matcher.allowed()))

    @property
    def predictable(self) -> bool:
        """Whether its tokens are the largest logits but for banned ones, and nothing else of the logits is wanted."""
        return self.matcher is None and self.sampler.predictable

    def take(self, token: int) -> Delta | None:
        """As `accept`, of an answer that is `predictable`, where an engine has chosen."""
        self.sampler.replay(token)
        return self._told(Sampled(token))

    def _told(self, sampled: Sampled) -> Delta | None:
        self._unreported.append(sampled.token)
        text = self._take(sampled)
        logprobs = self._certain()
        if not text and not logprobs and self.finish_reason is None:
            return None
        ids, self._unreported = tuple(self._unreported), []
        reported = ids if self.request.sampling.logprobs is None else tuple(entry.token for entry in logprobs)
        return Delta(self.index, text, len(ids), logprobs, self.finish_reason, reported)

    def _replay(self, token: int) -> None:
        self.sampler.replay(token)
        self._take(Sampled(token))

    def _take(self, sampled: Sampled) -> str:
        """The text that the token makes certain."""
        self.last = sampled.token
        self.count += 1
        return self._text(sampled)

    def _text(self, sampled: Sampled) -> str:
        if sampled.token in self.ends:
            self.finish_reason = "stop"
            return self.stream.finish()
        offset = self.stream.decoded
        text = self.stream.add(self._bytes(sampled.token))
        if sampled.logprob is not None:
            self._logprobs.append(self._entry(sampled, sampled.logprob, offset))
        whole = self.matcher is not None and self.matcher.advance(sampled.token)
        if self.stream.stopped:
            self.finish_reason = "stop"
        elif whole:
            self.finish_reason = "stop"
            text += self.stream.finish()
        elif self.count >= self.request.max_tokens:
            self.finish_reason = "length"
            text += self.stream.finish()
        return text

    def _entry(self, sampled: Sampled, logprob: float, offset: int) -> TokenLogprob:
        top = tuple((token, self._bytes(token), value) for token, value in sampled.top)
        return TokenLogprob(sampled.token, self._bytes(sampled.token), logprob, top, offset)

    def _bytes(self, token: int) -> bytes:
        return b"" if token in self.specials else self.tokenizer.token_bytes(token)

    def _certain(self) -> tuple[TokenLogprob, ...]:
        """Entries of the tokens whose text is shown, in part at least; at the end all that no stop string cut off."""
        over = self.finish_reason is not None and not self.stream.stopped
        certain = tuple(entry for entry in self._logprobs if over or entry.offset < self.stream.shown)
        self._logprobs = self._logprobs[len(certain) :]
        return certain
