"""From token bytes to text that may be shown: whole characters only, and nothing that may turn out to be a stop string.

Text is a function of the bytes alone, however they are split over tokens and chunks. It knows no vocabulary: a token is
bytes.
"""

import codecs
from collections.abc import Sequence


class TextStream:
    """Text of one answer as it grows.

    Bytes that are not UTF-8 become U+FFFD; a character that is still incomplete at the end is left out.
    Stops: of the stop strings found, the one that ends first counts (the longest of those), and the text ends where it
    starts.
    """

    def __init__(self, stops: Sequence[str] = ()) -> None:
        self.stops = tuple(stops)
        self.stopped = False
        self.decoded = 0
        """Characters decoded so far, shown or held back."""
        self.shown = 0
        """Characters given out so far."""
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._held = ""

    def add(self, piece: bytes) -> str:
        """The text that these bytes make certain; sets `stopped` where a stop string is complete."""
        text = self._decoder.decode(piece)
        self.decoded += len(text)
        self._held += text
        found = self._first_stop()
        if found is not None:
            self.stopped = True
            return self._show(found)
        return self._show(len(self._held) - self._open_length())

    def finish(self) -> str:
        """What was held back for a stop string that never came."""
        return "" if self.stopped else self._show(len(self._held))

    def _show(self, count: int) -> str:
        text, self._held = self._held[:count], self._held[count:]
        self.shown += count
        return text

    def _first_stop(self) -> int | None:
        """Where the stop string that ends first starts."""
        starts = [(place + len(stop), place) for stop in self.stops if (place := self._held.find(stop)) >= 0]
        return min(starts)[1] if starts else None

    def _open_length(self) -> int:
        """Length of the longest end of the held text that begins a stop string."""
        longest = max(map(len, self.stops), default=1) - 1
        for length in range(min(longest, len(self._held)), 0, -1):
            if any(stop.startswith(self._held[-length:]) for stop in self.stops):
                return length
        return 0
