"""What a user wants of a deployment: how fast, how good, how much of it, and for how much; read from short words.

    ttft_p95_ms=300,itl_ms=60,f1=0.7      rate=2,prompt=180,answer=60,spread=0.4      usd_hour=1

A crowd may stand for a rate: `users=50,think_s=20`. `repeats=0.8` is the exponent of Zipf's law by which questions come
again (0: they never do). Not covered: goals by tenant, by time of day, or for a share of answers other than SHARE.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeVar

from tradewind.config import build
from tradewind.errors import UserError
from tradewind.load.results import Slo
from tradewind.planning.plan import CLIPPED, Crowd, Lengths

SHARE = 0.95
"""Of answers that keep the goals: a p95."""
T = TypeVar("T")


@dataclass(frozen=True)
class Wanted:
    """ttft_p95_ms: to the first text. itl_ms: mean gap between the texts of an answer. f1: least answer F1."""

    ttft_p95_ms: float = 5000.0
    itl_ms: float = 250.0
    f1: float = 0.0

    def __post_init__(self) -> None:
        if min(self.ttft_p95_ms, self.itl_ms) <= 0 or not 0 <= self.f1 <= 1:
            raise UserError("the goal's times must be above 0, and f1 from 0 to 1")

    @property
    def slo(self) -> Slo:
        return Slo(self.ttft_p95_ms, self.itl_ms)


@dataclass(frozen=True)
class Demand:
    """Requests. rate: a second; or users who ask again think_s seconds after an answer. prompt, answer: tokens (medians,
    with the spread of their logarithms). shared: of the prompt, what all prompts begin with, which the prefix cache keeps.
    repeats: Zipf's exponent over `questions`; 0: no question comes again."""

    rate: float = 0.0
    users: int = 0
    think_s: float = 30.0
    prompt: int = 180
    answer: int = 60
    spread: float = 0.0
    shared: int = 0
    repeats: float = 0.0
    questions: int = 1000

    def __post_init__(self) -> None:
        if bool(self.rate) == bool(self.users):
            raise UserError("the load needs either rate (requests a second) or users")
        if min(self.rate, self.users, self.spread, self.repeats) < 0 or self.think_s <= 0:
            raise UserError("the load's numbers must not be negative, and think_s above 0")
        if min(self.prompt, self.answer, self.questions) < 1:
            raise UserError("the load's prompt and answer are at least 1 token each, and questions at least 1")
        if not 0 <= self.shared < self.prompt:
            raise UserError("the load's shared tokens are a part of its prompt, of which some are left")

    @property
    def per_s(self) -> float:
        return self.rate or Crowd(self.users, self.think_s).most_per_s

    @property
    def lengths(self) -> Lengths:
        """Of what the engine runs: the shared part of prompts is there already."""
        return Lengths(self.prompt - self.shared, self.answer, self.spread)

    @property
    def mean_answer(self) -> float:
        """Tokens: of the log-normal lengths, whose median is `answer`."""
        return self.answer * math.exp(self.spread**2 / 2)

    @property
    def longest(self) -> int:
        """Tokens of a prompt and its answer, at most."""
        return (CLIPPED if self.spread else 1) * (self.prompt + self.answer)


@dataclass(frozen=True)
class Budget:
    """usd_hour: of all replicas together. watts: of one device. gb: memory that weights and the caches of the load's own
    tokens may take; a server reserves more (serve.max_len, serve.prefix_cache_mib, its libraries)."""

    usd_hour: float = math.inf
    watts: float = math.inf
    gb: float = math.inf

    def __post_init__(self) -> None:
        if min(self.usd_hour, self.watts, self.gb) <= 0:
            raise UserError("the budget's numbers must be above 0")


def read_words(kind: type[T], text: str, what: str) -> T:
    """`a=1,b=2` as a `kind`. Raises UserError naming the word that is wrong, and the choices."""
    pairs: dict[str, str] = {}
    for word in filter(None, (part.strip() for part in text.split(","))):
        name, equals, value = word.partition("=")
        if not equals:
            raise UserError(f"{what}: {word!r} is not NAME=NUMBER")
        if name.strip() in pairs:
            raise UserError(f"{what}: {name.strip()} is given twice")
        pairs[name.strip()] = value.strip()
    return build(kind, _numbers(pairs, what), what)


def _numbers(pairs: Mapping[str, str], what: str) -> dict[str, float | int]:
    numbers: dict[str, float | int] = {}
    for name, value in pairs.items():
        try:
            number = float(value)
        except ValueError:
            raise UserError(f"{what}: {name}={value} is not a number") from None
        if not math.isfinite(number):
            raise UserError(f"{what}: {name}={value} is not a finite number")
        numbers[name] = int(number) if number.is_integer() else number
    return numbers
