"""Far more than the server can do: its capacity is measured first, then come 2, 5 and 10 times as many requests.

    locust -f loadtests/overload.py --host http://127.0.0.1:8000 --run-time 80s

Capacity: requests/s that `WORKERS` closed-loop workers have answered, the first third of their time left out.
"""

from collections.abc import Iterator

from loadtests.arrivals import Crowd
from loadtests.sse import Phase

WORKERS = 8
FACTORS = (2, 5, 10)
BUSY = 0.8
"""Share of the run in which requests come; in the rest, answers end."""


class OverloadCrowd(Crowd):
    def phases(self) -> Iterator[Phase]:
        seconds = BUSY * self.seconds / (1 + len(FACTORS))
        yield self.closed("capacity", WORKERS, seconds)
        rate = self._rate(seconds)
        for factor in FACTORS:
            yield self.open(f"{factor}x", factor * rate, seconds)

    def _rate(self, seconds: float) -> float:
        begin = self.recording.phases[0].start + seconds / 3
        ended = [one.end for one in self.recording.requests if one.end is not None and one.rejected is None]
        return max(1, sum(begin <= end < begin + 2 * seconds / 3 for end in ended)) / (2 * seconds / 3)
