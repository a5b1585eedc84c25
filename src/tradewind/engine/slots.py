"""The engine's slots: which are free, whose answer is in each, and which the engine would not give back.

The life of a slot: free -> `take` puts a prompt there, and its answer gets a row -> `end` frees it. Where the engine
raises, the slot is stuck: its state is unknown, so it is asked and tried again by `retry` before anybody gets it. It
knows no queue. Changed by the engine's thread only; other threads may read counts.
"""

import logging

from tradewind.engine.contract import Engine, Prefix
from tradewind.engine.row import Row

log = logging.getLogger(__name__)


class Slots:
    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.rows: dict[int, Row] = {}
        self.free = list(range(engine.slots))
        self.stuck: list[int] = []

    def take(self, prefix: Prefix) -> int:
        """Put a prompt into a free slot. Raises what the engine raises; the slot is stuck then."""
        slot = self.free.pop()
        try:
            self.engine.insert(prefix, slot)
        except Exception:
            self.stuck.append(slot)
            raise
        return slot

    def end(self, slot: int) -> Row:
        """Free the slot of an answer. Never raises what the engine raises."""
        row = self.rows.pop(slot)
        try:
            self.engine.release(slot)
        except Exception:
            log.exception("slot %d could not be released and is tried again", slot)
            self.stuck.append(slot)
        else:
            self.free.append(slot)
        return row

    def retry(self) -> None:
        """Take back what is stuck, as far as the engine lets go of it."""
        stuck, self.stuck = self.stuck, []
        for slot in stuck:
            try:
                if self.engine.length(slot):
                    self.engine.release(slot)
            except Exception:
                self.stuck.append(slot)  # its first failure is in the log
            else:
                self.free.append(slot)

    @property
    def lost(self) -> bool:
        """Whether no slot is left."""
        return len(self.stuck) == self.engine.slots
