"""Drafts for speculative decoding, looked up in what an answer may copy from: its prompt and itself (prompt lookup).

The newest tokens, as an n-gram, are searched in the tokens before them, longest n first; what followed there is the
draft (Saxena, "Prompt Lookup Decoding", 2023; vLLM's `ngram` method). A draft only proposes: the sampler chooses every
token from the model's logits, and a drafted token stands where it is the one chosen. So answers are what they are
without drafts, sampled ones included.

Wrong drafts cost time, so their length follows the success: doubled after a draft that was all right, cut to what was
right otherwise; after drafts that were all wrong none is made for 2, 4, 8 ... `LONGEST_PAUSE` steps.

A `Lookup` knows one answer and no engine. Not covered: draft models, drafts from other requests.
"""

from collections.abc import Sequence
from typing import Self

import numpy as np
from numpy.typing import NDArray

from tradewind.engine.contract import Engine
from tradewind.engine.requests import Request
from tradewind.engine.settings import SchedulerSettings

SHORTEST = 2
"""Tokens of the shortest n-gram: a single token says too little of what follows."""
LONGEST_PAUSE = 64


class Lookup:
    """Drafts for one answer. room: tokens of prompt and answer at most. longest: n of the longest n-gram. most: tokens
    of a draft.
    """

    def __init__(self, prompt: Sequence[int], room: int, longest: int, most: int) -> None:
        self.longest, self.most = longest, most
        self._tokens: NDArray[np.int64] = np.empty(room, np.int64)
        self._count = len(prompt)
        self._tokens[: self._count] = prompt
        self._length, self._pause, self._misses = most, 0, 0

    @classmethod
    def of(cls, request: Request, settings: SchedulerSettings) -> Self | None:
        """None where the settings make no drafts."""
        if not settings.lookup_tokens:
            return None
        room = len(request.prompt) + request.max_tokens
        return cls(request.known, room, settings.lookup_ngram, settings.lookup_tokens)

    def add(self, token: int) -> None:
        self._tokens[self._count] = token
        self._count += 1

    def draft(self, most: int) -> tuple[int, ...]:
        """At most `most` tokens that may follow; often none. To be asked once a step."""
        if self._pause:
            self._pause -= 1
            return ()
        wanted = min(most, self._length)
        known = self._tokens[: self._count]
        for size in range(self.longest, min(SHORTEST, self.longest) - 1, -1):
            after = following(known, size)
            if wanted > 0 and len(after):
                whole = after[after + wanted <= len(known)]
                start = whole[-1] if len(whole) else after[0]
                return tuple(known[start : start + wanted].tolist())
        return ()

    def judge(self, drafted: int, right: int) -> None:
        """How many of the drafted tokens the sampler chose, too."""
        if right == drafted:
            self._length, self._misses = min(self.most, 2 * self._length), 0
        elif right:
            self._length, self._misses = right, 0
        else:
            self._misses += 1
            self._length = max(1, self._length // 2)
            self._pause = min(2**self._misses, LONGEST_PAUSE)


def feeds_agree(engine: Engine, width: int) -> bool:
    """Whether `width` tokens fed at once (or as many as it takes) give the logits that each gives alone, to the last bit,
    on this machine. Needs slot 0 free, and a context of twice `width` tokens."""
    tokens = [7 * place % engine.vocab_size for place in range(2 * width)]
    engine.insert(engine.prefill(tokens[:width]), 0)
    fed = tokens[width:][: engine.max_feed(0)]
    alone = [engine.step({0: [token]})[0][-1].copy() for token in fed]
    engine.rewind(0, width)
    together = engine.step({0: fed})[0]
    same = bool(np.array_equal(np.stack(alone), together))
    engine.release(0)
    return same


def following(known: NDArray[np.int64], size: int) -> NDArray[np.int64]:
    """Places, in order, that follow an earlier occurrence of the last `size` tokens."""
    if len(known) <= size:
        return np.empty(0, np.int64)
    ends = np.flatnonzero(known[size - 1 : -1] == known[-1]) + size - 1
    for back in range(1, size):
        ends = ends[known[ends - back] == known[-1 - back]]
    return ends + 1
