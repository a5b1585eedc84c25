"""Everything at once, from a seed: faults, cancellations, deadlines, tenants, priorities, n, stops, scores, speculation.

Whatever happens, each accepted request ends in exactly one terminal event, its observer is told once, and all slots
come back.
"""

import random
import time
from collections.abc import Sequence

import pytest

from tests.engine.scheduling import Faulty, Inbox, by_hand, settled
from tradewind.engine.requests import TERMINAL, Delta, Done, QueueFull, Request
from tradewind.engine.sampling import SamplingParams
from tradewind.engine.scheduler import Scheduler, SchedulerSettings, Ticket
from tradewind.engine.text import ByteTokenizer
from tradewind.engine.timings import RequestTimings

FAULTS: Sequence[str] = ("prefill", "insert", "insert, late", "step", "nan", "fork", "rewind", "release", "max_feed")
SETTINGS = SchedulerSettings(
    prefill_chunk=16, max_waiting=30, prefix_cache_bytes=4000, lookup_tokens=3, lookup_ngram=2, lookup_max_rows=4
)


def drawn(draw: random.Random) -> Request:
    scored = draw.random() < 0.1
    return Request(
        tuple(draw.choices(b"abc ", k=draw.randrange(1, 80))),
        draw.choice((0, 3) if scored else (1, 5, 60)),
        SamplingParams(temperature=draw.choice((0, 1.0)), seed=draw.randrange(9)),
        n=draw.choice((1, 1, 1, 2, 5)),
        stop=draw.choice(((), ("a", "bc"))),
        adapter=draw.choice((None, None, None, "unknown")),
        tenant=draw.choice("xyz"),
        priority=draw.choice((-1, 0, 5)),
        deadline=time.monotonic() + draw.random() if draw.random() < 0.2 else None,
        prompt_logprobs=draw.randrange(3) if scored else None,
    )


@pytest.mark.parametrize("seed", range(4))
def test_every_request_ends_once_and_every_slot_comes_back(seed: int) -> None:
    draw = random.Random(seed)
    engine, seen = Faulty(slots=4), list[RequestTimings]()
    scheduler = Scheduler(engine, ByteTokenizer(), SETTINGS, seen.append)
    accepted: list[tuple[Ticket, Inbox]] = []
    for _ in range(300):
        if draw.random() < 0.1:
            engine.broken.add(draw.choice(FAULTS))
        inbox = Inbox()
        try:
            accepted.append((scheduler.submit(drawn(draw), inbox), inbox))
        except QueueFull:
            draw.choice(accepted)[1].end()
        if draw.random() < 0.2:
            draw.choice(accepted)[0].cancel()
    ends = [inbox.end() for _, inbox in accepted]
    engine.broken.clear()
    assert settled(scheduler)
    last = Inbox()
    scheduler.submit(Request(tuple(b"after all"), 20, SamplingParams(temperature=0), ignore_eos=True), last)
    assert last.text() == by_hand("after all")
    scheduler.close()
    assert len(seen) == len(accepted) + 1
    assert sum(isinstance(end, Done) for end in ends) > 50
    for ticket, inbox in accepted:
        assert sum(isinstance(event, TERMINAL) for event in inbox.events) == 1
        end = inbox.end()
        if isinstance(end, Done):
            told = sum(event.tokens for event in inbox.events if isinstance(event, Delta))
            assert end.completion_tokens == told <= ticket.request.n * ticket.request.max_tokens
