"""The same answers alone, in a crowd, from the prefix cache, with speculation, and with all of it at once.

Over the mock, over a mock that quotes its prompt (so that drafts are often right), over tiny models in the `ort` engine, and
over engines that take bursts of steps. With a float32 cache a call of one token and one of several differ by 5e-6, which
these prompts survive; with the int8 cache of quantized variants they do not differ.
"""

import random
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.compression.tiny import tiny_tokenizer, tiny_variant
from tests.engine.scheduling import Copying, Inbox, send, settled
from tradewind.engine.contract import Engine
from tradewind.engine.jax import JaxEngine
from tradewind.engine.mock import MockEngine
from tradewind.engine.ort import OrtEngine
from tradewind.engine.requests import TERMINAL, Cancelled, Delta, Done, Request
from tradewind.engine.sampling import SamplingParams
from tradewind.engine.scheduler import Scheduler, SchedulerSettings
from tradewind.engine.text import ByteTokenizer, Tokenizer

SLOTS, MAX_LEN = 3, 128
PLAIN = SchedulerSettings(prefill_chunk=16)
CACHED = SchedulerSettings(prefill_chunk=16, prefix_cache_bytes=1 << 22)
SPECULATIVE = SchedulerSettings(prefill_chunk=16, lookup_tokens=5, lookup_ngram=2, lookup_max_rows=SLOTS)
ALL = SchedulerSettings(
    prefill_chunk=16, prefix_cache_bytes=1 << 22, lookup_tokens=5, lookup_ngram=2, lookup_max_rows=SLOTS
)
VARIED = pytest.mark.parametrize("settings", [CACHED, SPECULATIVE, ALL], ids=["cached", "speculative", "all"])


class Bursting(MockEngine):
    """No drafts are made where an engine says that feeds are not exact, and what is left is bursts."""

    exact_feeds = False
    burst = 4
    bursts = 0

    def greedy(self, *given: Any) -> dict[int, list[int]]:
        self.bursts += 1
        return super().greedy(*given)


@pytest.fixture(scope="module", params=["mock", "burst", "copying", "ort-fp32", "ort-int8", "ort-int4", "jax-burst"])
def runner(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Engine, Tokenizer]:
    kind = str(request.param)
    folder: Path = tmp_path_factory.mktemp("equivalence") / kind
    if kind == "jax-burst":
        tiny_variant(folder, "int4")
        jax = JaxEngine.load(folder, slots=SLOTS, max_len=MAX_LEN, integers=True)
        jax.burst = 4
        return jax, tiny_tokenizer()
    if not kind.startswith("ort"):
        made: Callable[..., Engine] = {"mock": MockEngine, "burst": Bursting, "copying": Copying}[kind]
        return made(slots=SLOTS, max_len=MAX_LEN, feed=8), ByteTokenizer()
    tiny_variant(folder, kind.removeprefix("ort-"))
    return OrtEngine.load(folder, slots=SLOTS, max_len=MAX_LEN, threads=1), tiny_tokenizer()


@pytest.fixture
def start(
    runner: tuple[Engine, Tokenizer], monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[[SchedulerSettings], Scheduler]]:
    """Schedulers over the one engine, each closed before the next one begins."""
    engine, tokenizer = runner
    monkeypatch.setattr(engine, "close", lambda: None)
    made: list[Scheduler] = []

    def begin(settings: SchedulerSettings) -> Scheduler:
        for scheduler in made:
            scheduler.close()
        made.append(Scheduler(engine, tokenizer, settings))
        return made[-1]

    yield begin
    for scheduler in made:
        assert settled(scheduler)
        scheduler.close()


def requests(count: int = 18) -> list[Request]:
    """Prompts with shared beginnings and repetitions; every third sampled, some with n, stops, an end token."""
    draw = random.Random(3)
    shared = draw.choices(range(97, 110), k=30)
    out = []
    for place in range(count):
        words = [draw.choices(range(97, 110), k=5) for _ in range(3)]
        tail = [token for word in draw.choices(words, k=6) for token in word]
        prompt = (*shared[: draw.choice((0, 12, 20, 30))], *tail)
        sampled = SamplingParams(temperature=0.7, top_p=0.95, seed=place, logprobs=1 if place % 2 else None)
        greedy = SamplingParams(temperature=0)
        out.append(
            Request(
                prompt,
                draw.choice((1, 7, 40)),
                sampled if place % 3 == 0 else greedy,
                n=2 if place % 6 == 0 else 1,
                stop=("ab", "e") if place % 4 == 1 else (),
                ignore_eos=place % 2 == 0,
            )
        )
    return out


def told(inbox: Inbox) -> list[tuple[object, ...]]:
    """An inbox's answers, whatever deltas they came in."""
    end = inbox.end()
    assert isinstance(end, Done), end
    assert sum(isinstance(event, TERMINAL) for event in inbox.events) == 1
    deltas = [event for event in inbox.events if isinstance(event, Delta)]
    answers: list[tuple[object, ...]] = []
    for index in sorted({delta.index for delta in deltas}):
        own = [delta for delta in deltas if delta.index == index]
        scores = [(entry.token, round(entry.logprob, 3)) for delta in own for entry in delta.logprobs]
        text = "".join(delta.text for delta in own)
        answers.append((text, own[-1].finish_reason, sum(delta.tokens for delta in own), scores))
    return [*answers, (end.prompt_tokens, end.completion_tokens)]


def alone(scheduler: Scheduler, asked: list[Request]) -> list[list[tuple[object, ...]]]:
    return [told(send(scheduler, request)[1]) for request in asked]


def crowd(scheduler: Scheduler, asked: list[Request]) -> list[list[tuple[object, ...]]]:
    inboxes = [send(scheduler, request)[1] for request in asked]
    return [told(inbox) for inbox in inboxes]


@VARIED
def test_answers_are_the_same(start: Callable[[SchedulerSettings], Scheduler], settings: SchedulerSettings) -> None:
    asked = requests()
    want = alone(start(PLAIN), asked)
    scheduler = start(settings)
    assert crowd(scheduler, asked) == want
    assert alone(scheduler, asked) == want
    state = scheduler.snapshot()
    assert (state.prefix_hits > 0) == bool(settings.prefix_cache_bytes)
    assert (state.drafted > 0) == bool(settings.lookup_tokens and scheduler.engine.exact_feeds)


def test_some_drafts_are_right_and_all_are_told(start: Callable[[SchedulerSettings], Scheduler]) -> None:
    """Else the tests here would say nothing of accepted drafts."""
    scheduler = start(SPECULATIVE)
    dones = [inbox.end() for inbox in [send(scheduler, request)[1] for request in requests()]]
    state = scheduler.snapshot()
    accepted = sum(done.accepted_prediction_tokens for done in dones if isinstance(done, Done))
    rejected = sum(done.rejected_prediction_tokens for done in dones if isinstance(done, Done))
    assert (accepted, accepted + rejected) == (state.accepted, state.drafted)
    assert (accepted > 0 and rejected > 0) == scheduler.engine.exact_feeds


@VARIED
def test_cancelling_in_the_middle_leaves_the_others_alone(
    start: Callable[[SchedulerSettings], Scheduler], settings: SchedulerSettings
) -> None:
    asked = requests()
    want = alone(start(PLAIN), asked)
    scheduler = start(settings)
    victim = Request(tuple(b"abcde" * 6), 90, SamplingParams(temperature=0), n=2, ignore_eos=True)
    kept = []
    for request in asked:
        ticket, inbox = send(scheduler, victim)
        kept.append(send(scheduler, request)[1])
        if len(kept) % 2:
            inbox.started.wait(10)
        ticket.cancel()
        assert isinstance(inbox.end(), Cancelled | Done)
    assert [told(inbox) for inbox in kept] == want
    assert settled(scheduler)


def test_bursts_are_taken_for_greedy_answers_alone() -> None:
    engine = Bursting(slots=SLOTS, max_len=MAX_LEN)
    scheduler = Scheduler(engine, ByteTokenizer(), PLAIN)
    sampled, greedy = SamplingParams(temperature=0.7, seed=1), SamplingParams(temperature=0)
    for sampling, most, bursts in (
        (sampled, 13, 0),
        (replace(greedy, logprobs=0), 13, 0),
        (greedy, 4, 0),
        (greedy, 13, 3),
    ):
        engine.bursts = 0
        told(send(scheduler, Request(tuple(b"abc"), most, sampling, ignore_eos=True))[1])
        assert engine.bursts == bursts  # the first token is of the prompt
    assert settled(scheduler)
    scheduler.close()


def test_few_rows_only_are_drafted_for(start: Callable[[SchedulerSettings], Scheduler]) -> None:
    settings = SchedulerSettings(lookup_tokens=5, lookup_ngram=1, lookup_max_rows=0)
    scheduler = start(settings)
    crowd(scheduler, requests(6))
    assert scheduler.snapshot().drafted == 0
