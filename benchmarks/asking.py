"""Workers that ask the same questions over and over, and what came of that: failed, changed, cut, and for how long silent.

Closed loop: each asks again when it has its answer. It knows no faults but their moments.
"""

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from statistics import median
from typing import Any

import httpx

from benchmarks.answers import Answer, Question, ask, differences

AROUND_S = 10.0
"""After a fault: a stream's gap that began in that time, or holds the fault, is put down to it."""
Row = dict[str, Any]


@dataclass(frozen=True)
class Work:
    """seconds: of the killing; every: between two kills; other: of each other part under load; hang: of the stop."""

    seconds: float = 180.0
    every: float = 20.0
    other: float = 30.0
    hang: float = 40.0
    workers: int = 6
    texts: int = 3
    tokens: int = 64
    characters: int = 300
    seed: int = 0


@dataclass
class Place:
    """A cluster that runs. undisturbed: an answer to each question, in their order."""

    http: httpx.AsyncClient
    work: Work
    questions: list[Question]
    undisturbed: list[Answer] = field(default_factory=list)


@dataclass(frozen=True)
class Sent:
    question: int
    answer: Answer


@asynccontextmanager
async def load(place: Place) -> AsyncIterator[list[Sent]]:
    """Workers that ask until the block ends, and get their last answers then. The list grows."""
    sent: list[Sent] = []
    stop = asyncio.Event()
    tasks = [asyncio.create_task(_worker(place, number, stop, sent)) for number in range(place.work.workers)]
    try:
        yield sent
    finally:
        stop.set()
        await asyncio.gather(*tasks)


async def _worker(place: Place, number: int, stop: asyncio.Event, sent: list[Sent]) -> None:
    chance = random.Random(f"{place.work.seed} {number}")
    while not stop.is_set():
        which = chance.randrange(len(place.questions))
        answer = await ask(place.http, place.questions[which])
        sent.append(Sent(which, answer))
        if answer.error is not None:
            with suppress(TimeoutError):
                await asyncio.wait_for(stop.wait(), min(1.0, float(answer.retry_after or 1)))


def counted(place: Place, sent: Sequence[Sent]) -> Row:
    """failed: neither answered nor refused with a status that says when to come again."""
    answered = [one for one in sent if one.answer.error is None]
    refused = [one for one in sent if one.answer.refused and one.answer.retry_after]
    errors = Counter(one.answer.error for one in sent if one.answer.error)
    changed = [(one, set(differences(place.undisturbed[one.question], one.answer))) for one in answered]
    kinds = Counter(f"{place.questions[one.question].kind}: {', '.join(sorted(what))}" for one, what in changed if what)
    return {
        "requests": len(sent),
        "answered": len(answered),
        "refused": len(refused),
        "failed": len(sent) - len(answered) - len(refused),
        "cut": sum(one.answer.cut for one in sent),
        "altered": sum(bool(what - {"logprobs"}) for _, what in changed),
        "altered_logprobs": sum(what == {"logprobs"} for _, what in changed),
        "altered_kinds": dict(kinds),
        "errors": dict(errors),
        "gap_s": spread([gap for one in answered if (gap := one.answer.longest_gap(0, float("inf"))) is not None]),
    }


def around(sent: Sequence[Sent], moments: Sequence[float]) -> list[float]:
    """Of every fault and every stream under way: its longest gap in or into the next AROUND_S."""
    found = []
    for moment in moments:
        under_way = (one.answer for one in sent if one.answer.events and one.answer.events[0] < moment)
        gaps = (one.longest_gap(moment, moment + AROUND_S) for one in under_way)
        found += [gap for gap in gaps if gap is not None]
    return found


def spread(values: Sequence[float]) -> dict[str, float] | None:
    return {"p50": median(values), "max": max(values), "n": len(values)} if values else None
