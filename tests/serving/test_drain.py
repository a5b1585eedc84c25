"""SIGTERM in a real process: not ready at once, nothing that was accepted is lost, the rest is refused, exit code 0."""

import json
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import httpx

from tests.serving.conftest import WAIT, until
from tests.serving.test_main import environment
from tests.support import ROOT

STREAMS, SLOTS, TOKENS, STEP = 8, 4, 100, 0.01


@contextmanager
def process(step: float = STEP, **settings: object) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A server of its own and where it is."""
    given = json.dumps({"slots": SLOTS, "max_len": 2048, **settings})
    paths = environment(PYTHONPATH=f"{ROOT / 'src'}:{ROOT}")
    command = [sys.executable, "-m", "tests.serving.slow_server", given, str(step)]
    server = subprocess.Popen(command, env=paths, text=True, stdout=subprocess.PIPE)
    try:
        assert server.stdout is not None
        yield server, server.stdout.readline().split()[-1]
    finally:
        if server.poll() is None:
            server.kill()
        server.wait(WAIT)
        assert server.stdout is not None
        server.stdout.close()


def ready(url: str) -> int:
    return httpx.get(url.removesuffix("/v1") + "/ready", timeout=WAIT).status_code


BODY = {"model": "mock", "prompt": "hi", "max_tokens": TOKENS, "ignore_eos": True, "temperature": 0}


def stream(url: str, begun: threading.Semaphore, tokens: int = TOKENS) -> list[str]:
    """The events of one answer; `begun` is released at the first."""
    body = BODY | {"max_tokens": tokens, "stream": True}
    with httpx.stream("POST", f"{url}/completions", json=body, timeout=WAIT) as reply:
        assert reply.status_code == 200
        events = []
        for line in reply.iter_lines():
            if line:
                events.append(line.removeprefix("data: "))
            if len(events) == 1:
                begun.release()
    return events


def metric(url: str, name: str) -> float:
    text = httpx.get(url.removesuffix("/v1") + "/metrics", timeout=WAIT).text
    return float(next(line for line in text.splitlines() if line.startswith(f"vllm:{name}{{")).split()[-1])


def test_eight_streams_and_those_that_wait_are_answered_whole() -> None:
    """Four run, four wait when the signal comes: all eight end as they would have."""
    with process(drain_grace_s=1.5) as (server, url), ThreadPoolExecutor(STREAMS) as pool:
        whole = httpx.post(f"{url}/completions", json=BODY, timeout=WAIT).json()["choices"][0]
        begun = threading.Semaphore(0)
        answers = [pool.submit(stream, url, begun) for _ in range(STREAMS)]
        for _ in range(SLOTS):
            assert begun.acquire(timeout=WAIT)
        until(lambda: metric(url, "num_requests_waiting") == STREAMS - SLOTS)
        server.send_signal(signal.SIGTERM)
        until(lambda: ready(url) == 503, 5)  # asked during the grace: still served, no longer ready
        for answer in answers:
            *events, last = answer.result(WAIT)
            assert last == "[DONE]"
            chunks = [json.loads(event)["choices"][0] for event in events]
            assert "".join(chunk["text"] for chunk in chunks) == whole["text"]
            assert chunks[-1]["finish_reason"] == whole["finish_reason"] == "length"
        assert server.wait(WAIT) == 0


def test_after_the_grace_nobody_new_gets_in() -> None:
    with process() as (server, url), ThreadPoolExecutor(1) as pool:
        begun = threading.Semaphore(0)
        answer = pool.submit(stream, url, begun)
        assert begun.acquire(timeout=WAIT)
        server.send_signal(signal.SIGTERM)

        def refused() -> bool:
            try:
                return ready(url) != 503
            except httpx.TransportError:
                return True

        until(refused)
        assert not answer.done()
        assert answer.result(WAIT)[-1] == "[DONE]"
        assert server.wait(WAIT) == 0


def test_the_drain_time_bounds_the_end() -> None:
    """What outlives it is told so."""
    with process(step=0.05, drain_seconds=1) as (server, url), ThreadPoolExecutor(1) as pool:
        begun = threading.Semaphore(0)
        answer = pool.submit(stream, url, begun, 2000)
        assert begun.acquire(timeout=WAIT)
        server.send_signal(signal.SIGTERM)
        assert server.wait(WAIT) == 0
        *_, last = answer.result(WAIT)
        assert json.loads(last)["error"]["code"] == "server_is_overloaded"


def test_an_idle_server_ends_at_once() -> None:
    with process() as (server, url):
        assert ready(url) == 200
        server.send_signal(signal.SIGTERM)
        assert server.wait(WAIT) == 0
