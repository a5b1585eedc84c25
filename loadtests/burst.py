"""Bursts: `--rate` arrivals a second, and again and again for some seconds five times as many.

locust -f loadtests/burst.py --host http://127.0.0.1:8000 --rate 1
"""

from collections.abc import Iterator

from loadtests.arrivals import Crowd
from loadtests.sse import Phase

BURSTS, FACTOR, SHARE = 3, 5.0, 0.2
"""In a run; times the usual rate; of the time."""


class BurstCrowd(Crowd):
    def phases(self) -> Iterator[Phase]:
        rate, seconds = self.options.rate or 1.0, self.seconds / BURSTS
        for _ in range(BURSTS):
            yield self.open("calm", rate, (1 - SHARE) * seconds, drain=False)
            yield self.open("burst", FACTOR * rate, SHARE * seconds, drain=False)
