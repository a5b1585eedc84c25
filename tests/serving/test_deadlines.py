"""Deadlines: a body that does not come is a 408, an answer that does not end is a 504 or an error event."""

import json
import socket
import time
from collections.abc import Iterator
from contextlib import suppress

import pytest

from tests.serving.conftest import WAIT, Served, serving, until
from tests.serving.test_robustness import CHAT, GOOD, error_of
from tradewind.engine.mock import MockEngine
from tradewind.serving.settings import ServeSettings

HEAD = f"POST {CHAT} HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n".encode()


@pytest.fixture
def served() -> Iterator[Served]:
    """Bodies have 0.2 s, calls 0.6 s, an endless answer takes 20 s."""
    settings = ServeSettings(receive_timeout_s=0.2, request_timeout_s=0.6)
    with serving(MockEngine(slots=1, max_len=4096, step_delay=0.005), settings) as made:
        yield made
        until(made.all_free)


def connect(served: Served) -> socket.socket:
    host, port = served.url.removeprefix("http://").split(":")
    return socket.create_connection((host, int(port)), WAIT)


def read_all(client: socket.socket) -> bytes:
    """Until the server closes."""
    pieces = []
    while piece := client.recv(65536):
        pieces.append(piece)
    return b"".join(pieces)


@pytest.mark.parametrize("dripping", [False, True])
def test_a_slow_body_is_a_408(served: Served, dripping: bool) -> None:
    """Bytes that come one by one do not move the deadline; the connection is closed, for its rest is no request."""
    with connect(served) as client:
        client.sendall(HEAD + b'{"model"')
        client.settimeout(0.02)
        reply = b""
        while dripping and not reply:
            client.sendall(b" ")
            try:
                reply = client.recv(1)
            except TimeoutError:
                continue
        client.settimeout(WAIT)
        head, _, body = (reply + read_all(client)).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 408 ")
    assert b"connection: close" in head.lower()
    error = json.loads(body)["error"]
    assert (error["type"], error["code"], error["param"]) == ("invalid_request_error", "body_timeout", None)


@pytest.mark.parametrize("sent", [b"", b"POST /v1/cha", HEAD[:-2]])
def test_a_head_that_does_not_come_is_cut(served: Served, sent: bytes) -> None:
    with connect(served) as client:
        client.sendall(sent)
        assert read_all(client) == b""
    until(lambda: not served.server.server_state.connections)


def test_a_second_head_that_does_not_come_is_cut(served: Served) -> None:
    with connect(served) as client:
        client.sendall(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
        assert client.recv(65536).startswith(b"HTTP/1.1 200")
        client.sendall(b"GET /heal")
        assert read_all(client) == b""


NO_HTTP = {
    "tls": b"\x16\x03\x01 not HTTP\r\n\r\n",
    "method": b"INVENTED /health HTTP/1.1\r\nHost: x\r\n\r\n",
    "two lengths": b"POST /health HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\nContent-Length: 5\r\n\r\nbody",
    "length and chunks": b"POST /health HTTP/1.1\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "chunk": b"POST /health HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nnone\r\n",
}
"""What a proxy before this server might read otherwise than the server does is refused, too (request smuggling)."""


@pytest.mark.parametrize("sent", NO_HTTP.values(), ids=NO_HTTP)
def test_what_is_no_http_is_told_so_in_the_shape_of_errors(served: Served, sent: bytes) -> None:
    with connect(served) as client:
        client.sendall(sent)
        head, _, body = read_all(client).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 400 ")
    assert json.loads(body)["error"]["type"] == "invalid_request_error"


@pytest.mark.parametrize("piece", [b"a" * 1000, b"X-More: and more\r\n" * 60], ids=["one header", "many headers"])
def test_a_head_without_end_is_refused(piece: bytes) -> None:
    """By its size, long before its time is over."""
    with serving(MockEngine(), ServeSettings(receive_timeout_s=60)) as served, connect(served) as client:
        client.sendall(b"GET /health HTTP/1.1\r\nX-First: ")
        with suppress(ConnectionError):
            for _ in range(40):
                client.sendall(piece)
                time.sleep(0.001)
            assert b"larger than 16384 bytes" in read_all(client)
        until(lambda: not served.server.server_state.connections)


def test_a_head_that_is_long_but_whole_is_read(served: Served) -> None:
    with served.http() as http:
        for _ in range(3):  # each counts for itself
            assert http.get("/health", headers={"X-Long": "a" * 9000}).status_code == 200


def test_an_answer_that_takes_too_long_is_a_504(served: Served) -> None:
    with served.http() as http:
        reply = http.post(CHAT, json=GOOD | {"max_tokens": 4000, "ignore_eos": True})
        assert error_of(reply) == (504, "request_timeout", None)
        assert int(reply.headers["retry-after"]) > 0
        until(served.all_free)
        assert http.post(CHAT, json=GOOD).status_code == 200


def test_a_stream_that_takes_too_long_ends_with_an_error_event(served: Served) -> None:
    body = GOOD | {"max_tokens": 4000, "ignore_eos": True, "stream": True}
    with served.http() as http, http.stream("POST", CHAT, json=body) as reply:
        assert reply.status_code == 200
        events = [line.removeprefix("data: ") for line in reply.iter_lines() if line]
    assert "[DONE]" not in events
    assert len(events) > 2
    assert json.loads(events[-1])["error"]["code"] == "request_timeout"
