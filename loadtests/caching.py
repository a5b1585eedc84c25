"""A response cache under questions of unlike popularity (Zipf), asked by several tenants, some of them as streams.

    locust -f loadtests/caching.py --host http://127.0.0.1:8000 --rate 5 [--uncached http://127.0.0.1:8001]

1. `empty`: a route that does nothing (/health), at the rate: what a hit cannot be faster than.
2. `cold`: Poisson arrivals at the rate. `warm-up`: so many requests of another seed. `warm`: arrivals again, another seed.
   `known`: what was a hit by then is asked again, each once and one by one, until every one left is a hit again. `kept`:
   arrivals of those, so that no engine works beside them. With `--elsewhere`, another server of the same store, the same
   there, each once: what a shared store is worth to who never saw the question.
3. Twice in turn: so many users (`--users` of the load test) at the server without a cache, where one is given, and 1, 2, 3,
   4, 8 and 16 times as many at the one with it: requests/s at the same p95.
4. `no-cache`: users that want fresh answers. `burst`: one new question by many at once, which is to be answered once.
5. With `--store-pid`, the shared store's process: users with questions that nobody asked before while it is well (`fresh`),
   while it is stopped (`paused`), and after it was killed (`lost`).

Arrivals share connections that are kept open, as a client library's pool does: `empty` has such a one, too. `--until` ends
the run after a phase, and leaves `empty` out where only outcomes are counted (BY_COUNT). A question is the same words for
every seed, has temperature 0, and is always asked as a stream or never. Every phase begins with the same order of
popularity, which then drifts with `--churn`. Timings note what the server says in X-Cache.
"""

import argparse
import os
import random
import signal
from collections.abc import Iterator, Mapping
from itertools import count, cycle
from typing import Any

import gevent
from geventhttpclient import HTTPClient
from locust import events
from locust.argument_parser import LocustArgumentParser
from locust.env import Environment

from loadtests.arrivals import Crowd
from loadtests.sse import Phase, Questions, Timing
from tradewind.caching.traces import Popularity, asked

FACTORS, ROUNDS = (1, 2, 3, 4, 8, 16), 2
BY_COUNT = ("cold", "warm-up", "warm")
PASSES = 5
"""Of `known`, at most: each shortens what is asked, as a miss may put another answer out."""
DRAWN = 20_000
"""Requests drawn at once."""
STRIDE = 1 << 20
"""Numbers of one tenant's questions."""
IDLE_S = 2.0
"""After which a connection is not used again: a server may close it at that moment."""


class Popular(Questions):
    """All workers of a phase draw from one row. The third value of a draw is not a seed but tenant * STRIDE + question."""

    def __init__(self, options: argparse.Namespace, seed: int) -> None:
        super().__init__(options, "")
        self.rows = self._rows(seed)

    def _rows(self, seed: int) -> Iterator[tuple[int, int]]:
        given = self.options
        popularity = Popularity(given.questions, given.exponent, given.tenants, given.churn)
        for part in count():
            questions, tenants = asked(popularity, DRAWN, 1000 * seed + part)
            yield from zip(questions.tolist(), tenants.tolist(), strict=True)

    def draw(self) -> tuple[list[dict[str, str]], int, int]:
        question, tenant = next(self.rows)
        return self.one(question, tenant)

    def one(self, question: int, tenant: int) -> tuple[list[dict[str, str]], int, int]:
        messages, tokens, _ = Questions(self.options, f"question {question}").draw()
        messages[0]["content"] = f"{question}. {messages[0]['content']}"
        return messages, tokens, tenant * STRIDE + question


class Known(Popular):
    """One after the other, again and again."""

    def __init__(self, options: argparse.Namespace, known: list[tuple[int, int]]) -> None:
        super().__init__(options, 0)
        self.rows = cycle(known)


class CachingCrowd(Crowd):
    def __init__(self, environment: Environment) -> None:
        self.target = ""
        super().__init__(environment)
        del self.headers["Cache-Control"]
        self.popular = Popular(self.options, 0)
        self.left = 0
        self.pool: list[tuple[str, float, HTTPClient]] = []

    def connect(self) -> HTTPClient:
        return HTTPClient.from_url(self.target, network_timeout=120) if self.target else super().connect()

    def phases(self) -> Iterator[Phase]:
        for phase in self.all_phases():
            yield phase
            if phase.name == self.options.until:
                return

    def all_phases(self) -> Iterator[Phase]:
        rate, users, seconds = self.options.rate, self.options.closed_users, self.options.phase_seconds
        if self.options.until not in BY_COUNT:
            yield self.empty(rate, seconds)
        yield self.about(1).open("cold", rate, seconds)
        yield self.about(2).warmed(users)
        yield self.about(3).open("warm", rate, seconds)
        known = self.hits()
        if known:
            yield self.recheck(known)
        if known:
            self.popular = Known(self.options, known)
            yield self.open("kept", rate, seconds)
            if self.options.elsewhere:
                self.popular, self.target = Known(self.options, known), self.options.elsewhere
                yield self.open("elsewhere", rate, min(seconds, len(known) / rate))
                self.target = ""
        for turn in range(ROUNDS):
            if self.options.uncached:
                self.target = self.options.uncached
                yield self.about(4 + turn).closed("uncached", users, seconds / ROUNDS)
                self.target = ""
            for factor in FACTORS:
                name = f"cached {factor * users} users"
                yield self.about(10 * factor + turn).closed(name, factor * users, seconds / ROUNDS)
        self.headers["Cache-Control"] = "no-cache"
        yield self.about(4).closed("no-cache", users, seconds)
        del self.headers["Cache-Control"]
        yield self.burst(self.options.burst)
        if self.options.store_pid:
            yield self.unseen(1).closed("fresh", users, seconds)
            os.kill(self.options.store_pid, signal.SIGSTOP)
            yield self.unseen(2).closed("paused", users, seconds)
            os.kill(self.options.store_pid, signal.SIGKILL)
            yield self.unseen(3).closed("lost", users, seconds)

    def unseen(self, part: int) -> "CachingCrowd":
        """The next phase's questions are such that nobody asked."""
        first = 1 + (1 + part) * DRAWN
        self.popular = Known(self.options, [(question, 0) for question in range(first, first + DRAWN)])
        return self

    def hits(self) -> list[tuple[int, int]]:
        """Question and tenant of what the server has had a hit for, in the order they were first asked."""
        hits = (one for one in self.recording.requests if one.cache == "hit")
        return list(dict.fromkeys((one.question or 0, one.tenant or 0) for one in hits))

    def recheck(self, known: list[tuple[int, int]]) -> Phase:
        """Leaves in `known` what is kept still."""
        phase, http = self.recording.phase("known", 1, 0.0), self.connect()
        for _ in range(PASSES):
            asked = list(known)
            known[:] = [one for one in asked if self.ask(*self.popular.one(*one), http=http).cache == "hit"]
            if len(known) == len(asked):
                break
        http.close()
        phase.end = self.recording.now()
        return phase

    def about(self, number: int) -> "CachingCrowd":
        """The next phase's row of requests."""
        self.popular = Popular(self.options, 100 * self.options.seed + number)
        return self

    def empty(self, rate: float, seconds: float) -> Phase:
        phase, http = self.recording.phase("empty", rate, seconds), self.connect()
        while (begun := self.recording.now()) < phase.end:
            http.get("/health", headers=self.headers).read()
            now = self.recording.now()
            told = Timing(begun, None, [now], now, 0, 0, cache="empty", streamed=False)
            self.recording.requests.append(told)
            gevent.sleep(max(0.0, 1 / rate - (now - begun)))
        http.close()
        return phase

    def warmed(self, workers: int) -> Phase:
        """By requests, not by seconds."""
        phase, self.left = self.recording.phase("warm-up", workers, 0.0), self.options.warm_requests
        for _ in range(workers):
            self.crowd.spawn(self._warm)
        self.crowd.join()
        phase.end = self.recording.now()
        return phase

    def burst(self, size: int) -> Phase:
        phase, question = self.recording.phase("burst", size, 0.0), self.popular.one(self.options.questions, 0)
        for _ in range(size):
            self.crowd.spawn(self._once, question, phase.start)
        self.crowd.join()
        phase.end = self.recording.now()
        return phase

    def _once(self, question: tuple[list[dict[str, str]], int, int], due: float) -> None:
        """On a connection of the pool, the last used first."""
        target, now = self.target, self.recording.now()
        usable = [one for one in self.pool if one[0] == target and now - one[1] < IDLE_S]
        if usable:
            self.pool.remove(usable[-1])
        http = usable[-1][2] if usable else self.connect()
        if self.ask(*question, due, http).error is None:
            self.pool.append((target, self.recording.now(), http))

    def _warm(self) -> None:
        http = self.connect()
        while self.left > 0:
            self.left -= 1
            if wait := self.ask(*self.popular.draw(), http=http).rejected:
                self.left += 1
                gevent.sleep(wait)
        http.close()

    def _questions(self, name: str) -> Questions:
        return self.popular

    def ask(
        self,
        messages: list[dict[str, str]],
        answer_tokens: int,
        seed: int,
        due: float | None = None,
        http: HTTPClient | None = None,
        fields: Mapping[str, Any] | None = None,
    ) -> Timing:
        tenant, question = divmod(seed, STRIDE)
        streamed = random.Random(question).random() < self.options.streams
        told = {"temperature": 0, "cache_salt": f"tenant-{tenant}", "stream": streamed}
        timing = super().ask(messages, answer_tokens, 0, due, http, told | dict(fields or {}))
        timing.question, timing.tenant = question, tenant
        return timing


@events.init_command_line_parser.add_listener
def add_options(parser: LocustArgumentParser) -> None:
    group = parser.add_argument_group("Caching")
    group.add_argument("--questions", type=int, default=1000, help="distinct ones")
    group.add_argument("--exponent", type=float, default=1.0, help="of their popularity by Zipf; 0: all alike")
    group.add_argument("--tenants", type=int, default=1, help="each with a cache_salt of its own")
    group.add_argument("--churn", type=float, default=0.0, help="chance that two ranks change places, at each request")
    group.add_argument("--streams", type=float, default=0.5, help="share of the questions asked as streams")
    group.add_argument("--warm-requests", type=int, default=500, help="of another seed, between cold and warm")
    group.add_argument("--burst", type=int, default=100, help="the same question at once")
    group.add_argument("--closed-users", type=int, default=4, help="at once, in closed-loop phases")
    group.add_argument("--phase-seconds", type=float, default=10.0, help="of each phase that lasts a time")
    group.add_argument("--until", default="", help="the last phase; all of them, if left out")
    group.add_argument("--elsewhere", default="", help="URL of another server over the same store")
    group.add_argument(
        "--store-pid", type=int, default=0, help="of the shared store: it is stopped and killed at the end"
    )
    group.add_argument("--uncached", default="", help="URL of the same server without a cache")
