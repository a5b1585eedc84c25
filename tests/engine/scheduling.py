"""What the scheduler's tests share: an inbox for events, requests in text, and engines with a flaw or a habit."""

import threading
import time
from collections.abc import Mapping, Sequence

import numpy as np

from tradewind.engine.contract import Logits, Prefix
from tradewind.engine.mock import IM_END, MockEngine, MockPrefix, best_next
from tradewind.engine.requests import TERMINAL, Delta, Event, PromptLogprobs, Request
from tradewind.engine.sampling import SamplingParams
from tradewind.engine.scheduler import Scheduler, Ticket

GREEDY = SamplingParams(temperature=0)
WAIT = 20.0
"""Seconds after which a test gives up on an event; never slept through."""


class Inbox:
    """A request's events as they came."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.started, self.ended = threading.Event(), threading.Event()

    def __call__(self, event: Event) -> None:
        self.events.append(event)
        self.started.set()
        if isinstance(event, TERMINAL):
            self.ended.set()

    def end(self) -> Event:
        assert self.ended.wait(WAIT)
        return self.events[-1]

    def text(self, index: int = 0) -> str:
        self.end()
        return "".join(event.text for event in self.events if isinstance(event, Delta) and event.index == index)

    def finish(self, index: int = 0) -> str | None:
        return next(
            e.finish_reason for e in self.events if isinstance(e, Delta) and e.index == index and e.finish_reason
        )

    def scores(self) -> PromptLogprobs:
        self.end()
        return next(event for event in self.events if isinstance(event, PromptLogprobs))


def ask(prompt: str, max_tokens: int = 20, **more: object) -> Request:
    return Request(tuple(prompt.encode()), max_tokens, **{"sampling": GREEDY, "ignore_eos": True, **more})  # type: ignore[arg-type]


def send(scheduler: Scheduler, request: Request) -> tuple[Ticket, Inbox]:
    inbox = Inbox()
    return scheduler.submit(request, inbox), inbox


def settled(scheduler: Scheduler) -> bool:
    """Whether all slots come back, within WAIT."""
    deadline = time.monotonic() + WAIT
    while time.monotonic() < deadline:
        state = scheduler.snapshot()
        if (state.free_slots, state.running, state.waiting) == (scheduler.engine.slots, 0, 0):
            return True
        threading.Event().wait(0.002)
    return False


def by_hand(prompt: str, max_tokens: int = 20) -> str:
    tokens, made = list(prompt.encode()), b""
    while len(made) < max_tokens:
        best = best_next(tokens)
        # A banned end leaves the runner-up: one id on, around the vocabulary of 258, is 0.
        token = best if best != IM_END else 0
        tokens.append(token)
        made += bytes([token])
    return made.decode()


class Faulty(MockEngine):
    """Raises at the calls it is told to, once each, or always where `lasting`."""

    def __init__(self, **sizes: int) -> None:
        super().__init__(**{"slots": 2, "max_len": 256, **sizes})
        self.broken: set[str] = set()
        self.lasting = False

    def _maybe(self, call: str) -> None:
        if call in self.broken:
            if not self.lasting:
                self.broken.discard(call)
            raise RuntimeError(f"{call} broke")

    def prefill(self, *args: object, **named: object) -> MockPrefix:  # type: ignore[override]
        self._maybe("prefill")
        return super().prefill(*args, **named)  # type: ignore[arg-type]

    def insert(self, prefix: Prefix, slot: int) -> None:
        self._maybe("insert")
        super().insert(prefix, slot)
        self._maybe("insert, late")

    def step(self, feed: Mapping[int, Sequence[int]]) -> dict[int, Logits]:
        self._maybe("step")
        lines = super().step(feed)
        if "nan" in self.broken:
            self.broken.discard("nan")
            next(iter(lines.values()))[:] = float("nan")
        return lines

    def fork(self, slot: int) -> MockPrefix:
        self._maybe("fork")
        return super().fork(slot)

    def rewind(self, slot: int, length: int) -> None:
        self._maybe("rewind")
        super().rewind(slot, length)

    def release(self, slot: int) -> None:
        self._maybe("release")
        super().release(slot)

    def max_feed(self, slot: int) -> int:
        self._maybe("max_feed")
        return super().max_feed(slot)


class Copying(MockEngine):
    """Mostly repeats what stood `PERIOD` tokens before, as answers that quote their prompt do."""

    PERIOD, ODD = 12, 9

    def _logits(self, kv: np.ndarray, adapter: str | None) -> Logits:
        if len(kv) < self.PERIOD or len(kv) % self.ODD == 0:
            return super()._logits(kv, adapter)
        best = int(kv[-self.PERIOD])
        return (-0.5 * ((np.arange(self.vocab_size) - best) % self.vocab_size)).astype(np.float32)


class Recorded(MockEngine):
    """Writes down its calls, and waits before each while `gate` is closed. `hold` closes it at the next step that feeds
    so many rows.

    calls: ("prefill", tokens run, kept logits) and ("step", rows, widest feed).
    """

    def __init__(self, **sizes: int) -> None:
        super().__init__(**{"slots": 4, "max_len": 512, **sizes})
        self.calls: list[tuple[str, int, int]] = []
        self.hold = 0
        self.gate = threading.Event()
        self.gate.set()

    def prefill(self, *args: object, **named: object) -> MockPrefix:  # type: ignore[override]
        assert self.gate.wait(WAIT)
        prefix = super().prefill(*args, **named)  # type: ignore[arg-type]
        past = args[1] if len(args) > 1 else None
        ran = prefix.length - (past.length if isinstance(past, Prefix) else 0)
        self.calls.append(("prefill", ran, 0 if prefix.all_logits is None else len(prefix.all_logits)))
        return prefix

    def step(self, feed: Mapping[int, Sequence[int]]) -> dict[int, Logits]:
        if len(feed) == self.hold:
            self.hold = 0
            self.gate.clear()
        assert self.gate.wait(WAIT)
        self.calls.append(("step", len(feed), max(map(len, feed.values()))))
        return super().step(feed)

    def turns(self) -> list[list[int]]:
        """Prompt tokens of each prefill call, by turn: what ran between two steps."""
        out: list[list[int]] = [[]]
        for kind, count, _ in self.calls:
            if kind == "step":
                out.append([])
            else:
                out[-1].append(count)
        return out
