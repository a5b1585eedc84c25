"""Poisson arrivals at `--rate` a second, which wait for no answer.

locust -f loadtests/poisson.py --host http://127.0.0.1:8000 --rate 2
"""

from collections.abc import Iterator

from loadtests.arrivals import Crowd
from loadtests.sse import Phase


class PoissonCrowd(Crowd):
    def phases(self) -> Iterator[Phase]:
        yield self.open("poisson", self.options.rate or 1.0, self.seconds)
