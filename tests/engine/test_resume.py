"""An answer that one scheduler began and another goes on with is the answer of one that did both."""

from collections.abc import Iterator

import pytest

from tests.engine.scheduling import Copying, Inbox, ask, send
from tradewind.engine.grammar import Grammars, Structure
from tradewind.engine.mock import MockEngine
from tradewind.engine.requests import BadRequest, Delta, Done, QueueFull, Request
from tradewind.engine.sampling import SamplingParams
from tradewind.engine.scheduler import Scheduler, SchedulerSettings
from tradewind.engine.text import ByteTokenizer

SETTINGS = SchedulerSettings(prefill_chunk=8, prefix_cache_bytes=1 << 20, lookup_tokens=4, lookup_ngram=2)
DRAWN = SamplingParams(temperature=1.5, seed=7)
PUNISHED = SamplingParams(
    temperature=1.5, seed=3, presence_penalty=1.0, frequency_penalty=0.5, repetition_penalty=1.2, logprobs=2
)
SCHEMA = '{"type": "object", "properties": {"size": {"enum": ["small", "large"]}}, "required": ["size"]}'
FORM = Grammars(ByteTokenizer()).compile(Structure("json_schema", SCHEMA))
REQUESTS = {
    "greedy": ask("count on"),
    "one that copies": ask("abcabcabcabcabc", 24),
    "drawn": ask("draw", 24, sampling=DRAWN),
    "second answer": ask("draw", 24, sampling=DRAWN, first_index=1),
    "punished, with log-probabilities": ask("draw", 24, sampling=PUNISHED),
    "held back for a stop string": ask("count on", 24, stop=("zzzzzz", "\x7f\x80"), sampling=DRAWN),
    "under a grammar": ask("fill in", 60, sampling=DRAWN, grammar=FORM),
}  # fmt: skip


@pytest.fixture(params=[MockEngine, Copying])
def scheduler(request: pytest.FixtureRequest) -> Iterator[Scheduler]:
    made = Scheduler(request.param(slots=2, max_len=256, feed=8), ByteTokenizer(), SETTINGS)
    yield made
    made.close()


def answered(scheduler: Scheduler, request: Request) -> tuple[list[Delta], Done]:
    _, inbox = send(scheduler, request)
    done = inbox.end()
    assert isinstance(done, Done)
    return [event for event in inbox.events if isinstance(event, Delta)], done


def changed(request: Request, **fields: object) -> Request:
    return Request(**{**request.__dict__, **fields})  # type: ignore[arg-type]


@pytest.mark.parametrize("name", REQUESTS)
def test_an_answer_cut_after_any_delta_goes_on_as_it_would_have(scheduler: Scheduler, name: str) -> None:
    request = REQUESTS[name]
    whole, done = answered(scheduler, request)
    assert len(whole) > 3
    for cut in range(1, len(whole)):
        before = whole[:cut]
        resumed = tuple(token for delta in before for token in delta.ids)
        after, end = answered(scheduler, changed(request, resumed=resumed))
        made = [*before, *after]
        for part in ("text", "ids", "logprobs"):
            empty = "" if part == "text" else ()
            assert sum_of(made, part, empty) == sum_of(whole, part, empty), f"{part}, cut after {cut} deltas"
        assert after[-1].finish_reason == whole[-1].finish_reason
        assert (end.prompt_tokens, end.completion_tokens) == (done.prompt_tokens, done.completion_tokens)
        assert end.cached_tokens <= end.prompt_tokens


def sum_of(deltas: list[Delta], part: str, start: object) -> object:
    for delta in deltas:
        start = start + getattr(delta, part)  # type: ignore[operator]
    return start


def test_what_is_resumed_is_one_answer_that_has_tokens_left(scheduler: Scheduler) -> None:
    for wrong in ({"resumed": (97,) * 20}, {"resumed": (97,), "n": 2}, {"resumed": (9999,)}):
        with pytest.raises(BadRequest):
            scheduler.submit(changed(ask("count on"), **wrong), Inbox())


def test_what_was_admitted_before_is_not_refused_for_its_wait() -> None:
    engine = MockEngine(slots=1, max_len=256, step_delay=0.01)
    scheduler = Scheduler(engine, ByteTokenizer(), SchedulerSettings(max_waiting=1))
    try:
        _, running = send(scheduler, ask("a", 50))
        two = [(ask("b", 2), Inbox()), (ask("c", 2), Inbox())]
        with pytest.raises(QueueFull):
            scheduler.submit_all(two)
        scheduler.submit_all([(changed(request, admitted=True), inbox) for request, inbox in two])
        assert all(isinstance(inbox.end(), Done) for inbox in (running, *(inbox for _, inbox in two)))
    finally:
        scheduler.close()
