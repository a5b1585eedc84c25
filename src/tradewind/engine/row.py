"""An answer in a slot of the engine: what was sampled of it, and how the logits of a step become tokens.

It knows its ticket and no engine. Between steps the engine's row holds the prompt and all sampled tokens but the last,
which the next step feeds.
"""

import time
from collections.abc import Sequence

from tradewind.engine.answer import Answer
from tradewind.engine.contract import Logits
from tradewind.engine.lookup import Lookup
from tradewind.engine.requests import Delta
from tradewind.engine.ticket import Ticket


class Row:
    def __init__(self, ticket: Ticket, answer: Answer, lookup: Lookup | None = None) -> None:
        self.ticket, self.answer, self.lookup = ticket, answer, lookup
        self.tokens = list(ticket.request.resumed)
        self.since = time.monotonic()

    @property
    def length(self) -> int:
        """Tokens that the engine's row is to hold."""
        return len(self.ticket.request.prompt) + len(self.tokens) - 1

    @property
    def left(self) -> int:
        """Tokens that it may still get."""
        return self.ticket.request.max_tokens - len(self.tokens)

    @property
    def finished(self) -> bool:
        return self.answer.finish_reason is not None

    def draft(self, max_feed: int) -> tuple[int, ...]:
        """Tokens to feed after the last one, where it may take `max_feed` in all: none beyond the end of the answer."""
        if self.lookup is None:
            return ()
        return self.lookup.draft(min(max_feed, self.left) - 1)

    def accept(self, lines: Logits, draft: Sequence[int] = ()) -> int:
        """lines [1 + len(draft), vocab]: after the last token and each drafted one. Gives how many drafts were right.

        A line counts as long as the tokens fed before it are those that were chosen; so the tokens are those of
        feeding one at a time.
        """
        right = 0
        for place, line in enumerate(lines):
            self._add(self.answer.accept(line))
            right += place < len(draft) and self.answer.last == draft[place]
            if self.finished or right <= place:
                break
        self.ticket.clock.tokens(self.answer.index)
        self.ticket.accepted += right
        self.ticket.rejected += len(draft) - right
        if self.lookup is not None and draft:
            self.lookup.judge(len(draft), right)
        return right

    def take(self, tokens: Sequence[int]) -> None:
        """Tokens that an engine chose for an answer that is `predictable`: those after its end do not count."""
        for token in tokens:
            self._add(self.answer.take(token))
            if self.finished:
                break
        self.ticket.clock.tokens(self.answer.index)

    def _add(self, delta: Delta | None) -> None:
        self.tokens.append(self.answer.last)
        if self.lookup is not None:
            self.lookup.add(self.answer.last)
        if delta is not None:
            self.ticket.emit(delta)
