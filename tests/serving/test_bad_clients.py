"""Clients that leave, stall, drip and flood, over real sockets: afterwards everything is back where it was.

`test_soak` does all of it for SOAK_SECONDS (60 by default, an hour at most).
"""

import asyncio
import gc
import json
import os
import random
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from operator import le

import psutil
import pytest

from tests.serving.conftest import WAIT, Served, serving, until
from tests.serving.test_robustness import CHAT, GOOD
from tradewind.engine.mock import MockEngine
from tradewind.serving.settings import ServeSettings

LONG = json.dumps(GOOD | {"max_tokens": 8000, "ignore_eos": True, "stream": True}).encode()
MANY = {"model": "mock", "prompt": ["hi"] * 4, "n": 2, "ignore_eos": True, "logprobs": 5}
STALL = json.dumps(MANY | {"max_tokens": 8000, "stream": True}).encode()
"""Several megabytes of events."""
WHOLE = json.dumps(MANY | {"max_tokens": 200}).encode()
"""Half a megabyte in one piece."""
SETTINGS = ServeSettings(receive_timeout_s=0.3, send_timeout_s=0.3, max_waiting=8)


@pytest.fixture(scope="module")
def served() -> Iterator[Served]:
    """Two slots, 1 ms a step, short timeouts."""
    with serving(MockEngine(slots=2, max_len=8192, step_delay=0.001), SETTINGS) as made:
        yield made


def connect(served: Served, receive_buffer: int | None = None) -> socket.socket:
    client = socket.socket()
    if receive_buffer is not None:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
    client.settimeout(WAIT)
    host, port = served.url.removeprefix("http://").split(":")
    client.connect((host, int(port)))
    return client


def head(size: int, path: str = CHAT) -> bytes:
    return f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {size}\r\n\r\n".encode()


def state(served: Served) -> tuple[int, int, int, int]:
    """Open files, tasks of the event loop, connections, tasks of calls."""
    server = served.server
    tasks = len(asyncio.all_tasks(server.servers[0].get_loop()))
    held = server.server_state
    return len(os.listdir("/proc/self/fd")), tasks, len(held.connections), len(held.tasks)


def at_rest(served: Served) -> tuple[int, int, int, int]:
    """The state with all slots free and no connection. The call before it comes after all that came earlier."""
    with served.http() as http:
        assert http.post(CHAT, json=GOOD).status_code in (200, 429)
    until(served.all_free)
    until(lambda: state(served)[2:] == (0, 0))
    gc.collect()
    return state(served)


def comes_to_rest(served: Served, before: tuple[int, int, int, int]) -> None:
    """Fails where there is more of anything than before."""
    at_rest(served)
    until(lambda: served.all_free() and all(map(le, state(served), before)))


def leave_in_the_head(served: Served) -> None:
    with connect(served) as client:
        client.sendall(b"POST /v1/chat/comp")


def leave_in_the_body(served: Served) -> None:
    with connect(served) as client:
        client.sendall(head(len(LONG)) + LONG[:20])


def leave_at_once(served: Served) -> None:
    with connect(served) as client:
        client.sendall(head(len(LONG)) + LONG)


def leave_in_mid_stream(served: Served) -> None:
    with connect(served) as client:
        client.sendall(head(len(LONG)) + LONG)
        assert client.recv(1000)


def reset_in_mid_stream(served: Served) -> None:
    """As when the machine at the other end dies: no farewell."""
    with connect(served) as client:
        client.sendall(head(len(LONG)) + LONG)
        assert client.recv(1000)
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")


def leave_while_waiting(served: Served) -> None:
    clients = [connect(served) for _ in range(4)]
    for client in clients:
        client.sendall(head(len(LONG)) + LONG)
    until(lambda: served.scheduler.snapshot().waiting > 0)
    for client in reversed(clients):  # those that wait first
        client.close()


def half_closed(served: Served) -> None:
    """It says that it sends no more, and reads on for a moment."""
    with connect(served) as client:
        client.sendall(head(len(LONG)) + LONG)
        client.shutdown(socket.SHUT_WR)
        client.recv(1000)


def ten_megabytes(served: Served) -> None:
    with connect(served) as client:
        try:
            client.sendall(head(10_000_000) + b" " * 10_000_000)
            assert client.recv(1000).startswith((b"HTTP/1.1 413", b"HTTP/1.1 408"))  # or it took too long to come
        except ConnectionError:
            pass  # cut while it still sent


def drip(served: Served) -> None:
    """A body that comes byte by byte, until it is told to stop."""
    with connect(served) as client:
        client.sendall(head(len(LONG)))
        client.settimeout(0.02)
        for _ in range(1000):
            try:
                client.sendall(b" ")
                if client.recv(1000):
                    return
            except TimeoutError:
                continue
            except ConnectionError:
                return
        raise AssertionError("nobody ended it")


def never_read(served: Served) -> None:
    """Ask for megabytes and take none, until the connection is cut."""
    with connect(served, receive_buffer=4096) as client:
        client.sendall(head(len(STALL), "/v1/completions") + STALL)
        until(lambda: served.scheduler.snapshot().running > 0)
        until(served.all_free)


def never_read_an_answer_at_once(served: Served) -> None:
    """The slots are free as soon as it is made; the connection is cut, though nothing more is to be sent."""
    with connect(served, receive_buffer=4096) as client:
        client.sendall(head(len(WHOLE), "/v1/completions") + WHOLE)
        until(lambda: served.scheduler.snapshot().running > 0)
        until(lambda: not served.server.server_state.connections)


def two_at_once_on_one_connection(served: Served) -> None:
    body = json.dumps(GOOD).encode()
    with connect(served) as client:
        client.sendall(2 * (head(len(body)) + body))
        got = b""
        while got.count(b"HTTP/1.1 200") < 2:
            piece = client.recv(65536)
            assert piece
            got += piece


BAD: list[Callable[[Served], None]] = [
    leave_in_the_head,
    leave_in_the_body,
    leave_at_once,
    leave_in_mid_stream,
    reset_in_mid_stream,
    leave_while_waiting,
    half_closed,
    ten_megabytes,
    drip,
    never_read,
    never_read_an_answer_at_once,
    two_at_once_on_one_connection,
]


@pytest.mark.parametrize("behave", BAD)
def test_everything_is_back_where_it_was(served: Served, behave: Callable[[Served], None]) -> None:
    before = at_rest(served)
    for _ in range(2):
        behave(served)
    comes_to_rest(served, before)
    with served.http() as http:
        assert http.post(CHAT, json=GOOD).status_code == 200


def test_a_client_that_leaves_in_the_body_is_no_fault_of_the_server(
    served: Served, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    before = at_rest(served)
    leave_in_the_body(served)
    comes_to_rest(served, before)
    until(lambda: any("POST /v1/chat/completions 499" in record.getMessage() for record in caplog.records))
    assert [record for record in caplog.records if record.levelname == "ERROR"] == []


def test_a_client_that_does_not_read_is_cut_and_others_are_served(served: Served) -> None:
    """It is cut by the send timeout, not by the end of its answer, which would take much longer."""
    with connect(served, receive_buffer=4096) as client:
        client.sendall(head(len(STALL), "/v1/completions") + STALL)
        until(lambda: served.scheduler.snapshot().running > 0)
        with served.http() as http:
            assert http.get("/v1/models").status_code == 200
        until(served.all_free)
        with suppress(ConnectionError):
            rest = b"".join(iter(lambda: client.recv(65536), b""))
            assert b"[DONE]" not in rest
            assert len(rest) < 2_000_000


def test_a_client_that_reads_slowly_but_reads_is_served(served: Served) -> None:
    body = json.dumps(GOOD | {"max_tokens": 200, "ignore_eos": True, "stream": True}).encode()
    with connect(served, receive_buffer=4096) as client:
        client.sendall(head(len(body)) + body)
        got = b""
        while not got.endswith(b"0\r\n\r\n"):
            piece = client.recv(512)
            assert piece
            got += piece
    assert b"data: [DONE]" in got


@pytest.mark.slow
@pytest.mark.timeout(3600 + 300)
def test_soak(served: Served) -> None:
    """Memory is compared with the second tenth of the time, when caches and pools are full."""
    seconds = min(float(os.environ.get("SOAK_SECONDS", "60")), 3600.0)
    chance, start = random.Random(0), time.monotonic()
    before = at_rest(served)
    memory: list[int] = []
    done = 0
    while time.monotonic() - start < seconds:
        chance.choice(BAD)(served)
        with served.http() as http:
            assert http.post(CHAT, json=GOOD).status_code in (200, 429)
        done += 1
        if len(memory) < 10 * (time.monotonic() - start) / seconds:
            comes_to_rest(served, before)
            memory.append(psutil.Process().memory_info().rss)
            print(f"{time.monotonic() - start:.0f} s, {done} bad clients: {at_rest_in_words(served)}", flush=True)
    comes_to_rest(served, before)
    growth = (memory[-1] - memory[1]) / 2**20
    print(f"{done} bad clients in {seconds:.0f} s; RSS grew by {growth:.1f} MiB")
    assert growth < 16


def at_rest_in_words(served: Served) -> str:
    files, tasks, connections, calls = state(served)
    free = served.scheduler.snapshot().free_slots
    return (
        f"RSS {psutil.Process().memory_info().rss / 2**20:.1f} MiB, {files} open files, {threading.active_count()} "
        f"threads, {tasks} tasks, {connections} connections, {calls} calls, {free} free slots"
    )
