"""Requests as caches see them: who asked what when, drawn from a popularity or read from the log of a real run.

Popularity is Zipf's: of N questions, rank r is asked with a weight of r ** -exponent (Breslau et al., INFOCOM 1999, found
exponents of 0.6 to 0.8 for web pages). Every tenant asks by the same popularity. Arrivals are Poisson. Sizes are
log-normal, and a question's answer always has the same. Churn: after a request two ranks, drawn evenly, change places
with a probability of `churn`. Everything follows from the seed.

Not covered: questions that depend on the one before, tenants with tastes of their own, hours of the day.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tradewind.caching.popular import ALIKE
from tradewind.errors import UserError

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]


@dataclass(frozen=True)
class Popularity:
    """Raises UserError where no request could be drawn."""

    questions: int = 1000
    exponent: float = 1.0
    tenants: int = 1
    churn: float = 0.0

    def __post_init__(self) -> None:
        if self.questions < 1 or self.tenants < 1:
            raise UserError("a trace needs at least one question and one tenant")
        if not (self.exponent >= 0 and 0 <= self.churn <= 1):
            raise UserError(f"exponent {self.exponent} must be from 0, churn {self.churn} from 0 to 1")

    @property
    def weights(self) -> Floats:
        """[questions], by rank; their sum is 1."""
        ranks = np.arange(1, self.questions + 1, dtype=np.float64) ** -self.exponent
        return ranks / ranks.sum()


@dataclass(frozen=True)
class Answers:
    """What answers are like. bytes: their median; spread: standard deviation of the logarithm. seconds: to make one."""

    bytes: int = 4096
    spread: float = 0.5
    seconds: float = 1.0


@dataclass(frozen=True)
class Trace:
    """Row by row a request, all [requests]. times: seconds, ascending. questions, tenants: numbers. nbytes: of the answer.
    seconds: how long it takes to make it."""

    times: Floats
    questions: Integers
    tenants: Integers
    nbytes: Integers
    seconds: Floats

    def __len__(self) -> int:
        return len(self.times)

    def then(self, other: "Trace") -> "Trace":
        """This one and `other` after it, when the last answer of this one has been made."""
        begin = float((self.times + self.seconds).max()) if len(self) else 0.0
        return Trace(
            np.concatenate([self.times, other.times + begin]),
            np.concatenate([self.questions, other.questions]),
            np.concatenate([self.tenants, other.tenants]),
            np.concatenate([self.nbytes, other.nbytes]),
            np.concatenate([self.seconds, other.seconds]),
        )


def asked(popularity: Popularity, requests: int, seed: int) -> tuple[Integers, Integers]:
    """Questions and tenants, both [requests]. Question 0 is the most popular one at first, for every seed."""
    chance = np.random.default_rng(seed)
    ranks = np.searchsorted(np.cumsum(popularity.weights), chance.random(requests), side="right")
    ranks = np.minimum(ranks, popularity.questions - 1)  # the sum of weights may end below 1
    tenants = chance.integers(0, popularity.tenants, requests)
    order = np.arange(popularity.questions)
    questions, begin = np.empty(requests, np.int64), 0
    for end in [*(np.flatnonzero(chance.random(requests) < popularity.churn) + 1), requests]:
        questions[begin:end] = order[ranks[begin:end]]
        one, other = chance.integers(0, popularity.questions, 2)
        order[[one, other]] = order[[other, one]]
        begin = end
    return questions, tenants


def sizes(questions: int, answers: Answers, seed: int) -> Integers:
    """[questions] bytes of each answer, at least 1."""
    drawn = np.random.default_rng([seed, 1]).standard_normal(questions)
    return np.maximum(1, np.rint(answers.bytes * np.exp(answers.spread * drawn))).astype(np.int64)


def drawn(
    popularity: Popularity, requests: int, rate: float, answers: Answers, seed: int, sizes_seed: int = 0
) -> Trace:
    """rate: requests a second. sizes_seed: traces of one are about the same answers."""
    questions, tenants = asked(popularity, requests, seed)
    times = np.cumsum(np.random.default_rng([seed, 2]).exponential(1 / rate, requests))
    nbytes = sizes(popularity.questions, answers, sizes_seed)[questions]
    return Trace(times, questions, tenants, nbytes, np.full(requests, answers.seconds))


def from_rows(rows: Sequence[Mapping[str, Any]], answers: Answers) -> Trace:
    """Of `time` (seconds), `key` and, where they are known, `tenant`, `bytes` and `seconds`; in any order of time. A row
    without `key` has the `body` of a call, as the server's own log (tradewind.caching.popular) has.

    Questions and tenants are numbered as they come. Raises KeyError, TypeError or ValueError for other rows.
    """
    ordered = sorted(rows, key=lambda row: float(row["time"]))
    times = np.array([float(row["time"]) for row in ordered], np.float64)
    return Trace(
        times - (times[0] if len(times) else 0.0),
        _numbered([_key(row) for row in ordered]),
        _numbered([str(row.get("tenant", "")) for row in ordered]),
        np.array([int(row.get("bytes", answers.bytes)) for row in ordered], np.int64),
        np.array([float(row.get("seconds", answers.seconds)) for row in ordered], np.float64),
    )


def read(path: Path, answers: Answers) -> Trace:
    """A log in JSON lines, each a row of `from_rows`. Raises UserError naming the file where it is none."""
    try:
        with path.open(encoding="utf-8") as lines:
            return from_rows([json.loads(line) for line in lines if line.strip()], answers)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path}: no trace ({type(error).__name__}: {error})") from None


def _key(row: Mapping[str, Any]) -> str:
    if "key" in row:
        return str(row["key"])
    return json.dumps({name: value for name, value in row["body"].items() if name not in ALIKE}, sort_keys=True)


def _numbered(names: Sequence[str]) -> Integers:
    numbers: dict[str, int] = {}
    return np.array([numbers.setdefault(name, len(numbers)) for name in names], np.int64)
