"""What is known of a request that runs elsewhere: enough to go on with it on another replica, as if nothing had happened.

The tokens that a replica told of are kept, answer by answer. What is left to do of the request is then a request again:
the whole of it where nothing had come, else each unfinished answer by itself, resumed. It is the same answer to the byte
where logits do not depend on how tokens are fed (`Engine.exact_feeds`) and replicas hold the same weights; draws are
fixed by a seed, which is chosen here where the caller gave none.
"""

import secrets
from dataclasses import dataclass, replace

from tradewind.engine.requests import Delta, Done, FinishReason, PromptLogprobs, Request


@dataclass(frozen=True)
class Piece:
    """A request whose answer 0 is answer `first` of the whole."""

    first: int
    request: Request


class Journal:
    """Of one request. `note` takes what a piece of it gave and gives it back as an event of the whole."""

    def __init__(self, request: Request) -> None:
        sampling = request.sampling
        if sampling.seed is None:
            sampling = replace(sampling, seed=secrets.randbits(63))
        self.request = replace(request, sampling=sampling)
        self.tokens: list[list[int]] = [[] for _ in range(request.n)]
        self.counts = [0] * request.n
        self.finished: list[FinishReason | None] = [None] * request.n
        self.scored = request.prompt_logprobs is None
        self._ends: list[Done] = []

    @property
    def whole(self) -> Piece:
        return Piece(0, self.request)

    def note(self, piece: Piece, event: Delta | PromptLogprobs) -> Delta | PromptLogprobs | None:
        """None for what was told before."""
        if isinstance(event, PromptLogprobs):
            told, self.scored = self.scored, True
            return None if told else event
        index = piece.first + event.index
        self.tokens[index] += event.ids
        self.counts[index] += event.tokens
        self.finished[index] = event.finish_reason
        return replace(event, index=index)

    def ended(self, done: Done) -> None:
        self._ends.append(done)

    def left(self, piece: Piece) -> list[Piece]:
        """What another replica is to do of a piece whose replica is gone; nothing where all its answers are finished."""
        request = replace(piece.request, admitted=True)
        places = range(piece.first, piece.first + request.n)
        if self.scored:
            request = replace(request, prompt_logprobs=None)
        if not any(self.counts[place] or self.finished[place] for place in places):
            return [Piece(piece.first, request)]
        return [
            self._resumed(place, request if place == piece.first else replace(request, prompt_logprobs=None))
            for place in places
            if not self.finished[place]
        ]

    def _resumed(self, place: int, request: Request) -> Piece:
        index = self.request.first_index + place
        return Piece(place, replace(request, n=1, resumed=tuple(self.tokens[place]), first_index=index))

    @property
    def finish_reason(self) -> FinishReason:
        """`length` where one of the answers ended so, or none was asked for."""
        return "length" if "length" in self.finished or not self.request.max_tokens else "stop"

    def done(self) -> Done:
        """The usage of the whole. cached_tokens: of the last replica that ran the prompt; a prompt that was run twice is
        counted once."""
        return Done(
            len(self.request.prompt),
            sum(self.counts),
            max((one.cached_tokens for one in self._ends), default=0),
            sum(one.accepted_prediction_tokens for one in self._ends),
            sum(one.rejected_prediction_tokens for one in self._ends),
        )
