"""A server over the mock engine, in a thread, on a port that the system chose."""

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

import httpx
import openai
import pytest

from tradewind.engine.contract import Engine
from tradewind.engine.mock import MockEngine
from tradewind.engine.scheduler import Scheduler
from tradewind.engine.text import ByteTokenizer, Tokenizer
from tradewind.serving.app import create_app
from tradewind.serving.catalog import Served as Variant
from tradewind.serving.embeddings import Embeddings
from tradewind.serving.keys import Keyring
from tradewind.serving.metrics import Metrics
from tradewind.serving.middleware import Observer
from tradewind.serving.server import Server, bind, config_of
from tradewind.serving.settings import ServeSettings

WAIT = 20.0
"""Seconds after which a test gives up; never slept through."""


def until(condition: Callable[[], bool], seconds: float = WAIT) -> float:
    """Seconds until the condition held; fails where it does not in time."""
    start = time.monotonic()
    while not condition():
        assert time.monotonic() - start < seconds, "waited too long"
        threading.Event().wait(0.001)
    return time.monotonic() - start


@dataclass
class Served:
    url: str
    scheduler: Scheduler
    server: Server
    beside: dict[str, Scheduler] = field(default_factory=dict)

    @property
    def engine(self) -> MockEngine:
        assert isinstance(self.scheduler.engine, MockEngine)
        return self.scheduler.engine

    def client(self, **options: object) -> openai.OpenAI:
        return openai.OpenAI(
            base_url=f"{self.url}/v1", **{"api_key": "none", "max_retries": 0, "timeout": WAIT, **options}
        )  # type: ignore[arg-type]

    def http(self) -> httpx.Client:
        return httpx.Client(base_url=self.url, timeout=WAIT, verify=False)  # no TLS here to set up

    def all_free(self) -> bool:
        loops = [(one.engine.slots, one.snapshot()) for one in (self.scheduler, *self.beside.values())]
        return all((state.free_slots, state.running, state.waiting) == (slots, 0, 0) for slots, state in loops)


@contextmanager
def serving(
    engine: Engine,
    settings: ServeSettings,
    keys: Keyring | None = None,
    tokenizer: Tokenizer | None = None,
    model: str = "mock",
    traces: Observer | None = None,
    beside: Mapping[str, Engine] | None = None,
    embeddings: Embeddings | None = None,
) -> Iterator[Served]:
    """beside: more engines by model name, over the same tokenizer."""
    tokenizer = tokenizer or ByteTokenizer()
    metrics = Metrics(model, engine.max_len)
    scheduler = Scheduler(engine, tokenizer, settings.scheduler, observer=metrics.finished_by(model))
    others = [
        Variant(name, Scheduler(one, tokenizer, settings.scheduler, metrics.finished_by(name)), tokenizer)
        for name, one in (beside or {}).items()
    ]
    listener = bind("127.0.0.1", 0)
    app = create_app(scheduler, tokenizer, model, settings, keys, metrics, traces, others, embeddings=embeddings)
    server = Server(config_of(app, settings))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    until(lambda: server.started)
    loops = {one.name: one.scheduler for one in others}
    yield Served(f"http://127.0.0.1:{listener.getsockname()[1]}", scheduler, server, loops)
    server.should_exit = True
    thread.join(WAIT)
    assert not thread.is_alive()


@pytest.fixture(scope="session")
def fast() -> Iterator[Served]:
    """Shared by tests that leave nothing running."""
    with serving(MockEngine(slots=4, max_len=512), ServeSettings(max_body_bytes=100_000)) as served:
        yield served


@pytest.fixture
def quick(fast: Served) -> Iterator[Served]:
    yield fast
    until(fast.all_free)


@pytest.fixture
def slow() -> Iterator[Served]:
    """Two slots, 5 ms a step, one request may wait."""
    engine = MockEngine(slots=2, max_len=4096, step_delay=0.005)
    with serving(engine, ServeSettings(max_waiting=1)) as served:
        yield served
