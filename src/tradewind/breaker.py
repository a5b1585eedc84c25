"""A circuit breaker in front of a store that may fail: while it is open nobody asks, and nobody waits.

Its life: closed -> `failures` in a row -> open, for `pause_s` that doubles with each failed try up to `longest_s` -> one
caller may try (half open) -> closed, or open again. One line is logged when it opens for the first time and one when it
closes. Used from one thread.
"""

import logging
import time
from collections.abc import Callable

log = logging.getLogger(__name__)


class Breaker:
    """what: it stands in front of, as a log line begins; otherwise: what is done without it, as the line goes on."""

    def __init__(
        self,
        what: str,
        otherwise: str,
        failures: int = 3,
        pause_s: float = 1.0,
        longest_s: float = 30.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.what, self.otherwise = what, otherwise
        self._failures, self._pause_s, self._longest_s, self._clock = failures, pause_s, longest_s, clock
        self._failed = 0
        self._open_until: float | None = None

    @property
    def open(self) -> bool:
        return self._open_until is not None

    @property
    def resting(self) -> bool:
        """Open, and nobody may try yet."""
        return self._open_until is not None and self._clock() < self._open_until

    def allows(self) -> bool:
        """Whether to ask now. While it is open that is one caller a pause, who then says how it went."""
        if self._open_until is None:
            return True
        if self.resting:
            return False
        self._open_until = self._clock() + self._pause()
        return True

    def succeeded(self) -> None:
        if self._open_until is not None:
            log.warning("%s answers again", self.what)
        self._failed, self._open_until = 0, None

    def failed(self, error: BaseException) -> None:
        self._failed += 1
        if self._open_until is not None:
            self._open_until = self._clock() + self._pause()
        elif self._failed >= self._failures:
            self._open_until = self._clock() + self._pause()
            said = " ".join(f"{type(error).__name__}: {error}".split())
            log.warning("%s failed, %s: %s", self.what, self.otherwise, said)

    def _pause(self) -> float:
        return float(min(self._longest_s, self._pause_s * 2 ** max(0, self._failed - self._failures)))
