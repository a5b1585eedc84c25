"""Replicas that die under steady load: the same few questions over and over, whose greedy answers must stay the same.

    locust -f loadtests/failover.py --host http://127.0.0.1:8000 --run-time 60s

Three phases of one load: before, during, after. The first answer to a question is what later ones are compared with. It
kills nothing: `python -m tradewind.load failover` does, around the middle of the run, in a cluster that it starts.
"""

import argparse
import random
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

from geventhttpclient import HTTPClient
from locust.env import Environment

from loadtests.arrivals import Crowd
from loadtests.sse import Phase, Questions, Timing

WORKERS, FEW = 4, 8
PHASES = ("before", "during", "after")


class Again(Questions):
    """A few, the same for every seed of its own."""

    def __init__(self, options: argparse.Namespace, seed: str) -> None:
        super().__init__(options, f"{options.seed} again")
        self.few = [super(Again, self).draw() for _ in range(FEW)]
        self.random = random.Random(seed)

    def draw(self) -> tuple[list[dict[str, str]], int, int]:
        return self.random.choice(self.few)


class FailoverCrowd(Crowd):
    extra: ClassVar[dict[str, Any]] = {"temperature": 0}

    def __init__(self, environment: Environment) -> None:
        super().__init__(environment)
        self.first: dict[str, str] = {}

    def phases(self) -> Iterator[Phase]:
        for name in PHASES:
            yield self.closed(name, WORKERS, self.seconds / len(PHASES))

    def _questions(self, name: str) -> Questions:
        return Again(self.options, f"{self.options.seed} {name}")

    def ask(
        self,
        messages: list[dict[str, str]],
        answer_tokens: int,
        seed: int,
        due: float | None = None,
        http: HTTPClient | None = None,
        fields: Mapping[str, Any] | None = None,
    ) -> Timing:
        timing = super().ask(messages, answer_tokens, seed, due, http, fields)
        if timing.end is not None and timing.rejected is None:
            timing.altered = self.first.setdefault(messages[0]["content"], timing.answer) != timing.answer
        return timing
