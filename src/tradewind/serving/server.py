"""The process's side of HTTP: the listener, connections that cannot be held open for nothing, and a graceful end.

The life of a connection: 1. accepted; its request's head must arrive in time, or it is cut; 2. the app runs; what it
sends waits in a bounded buffer while the client does not read, and if that stays full for too long the connection is
cut, which cancels what the app runs for it; 3. answered, it is kept for a next request for 5 seconds.
The end of the server: 1. SIGTERM or SIGINT: not ready from that moment on; 2. after the grace no new connections;
3. what was accepted, streams and waiting requests too, has the drain time to end; 4. the app shuts down.
Not covered: TLS, HTTP/2, a cap on the number of connections (the system's file limit is one).
"""

import asyncio
import gc
import json
import signal
import socket
from collections.abc import Callable
from types import FrameType
from typing import Any

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from tradewind.errors import UserError
from tradewind.serving.errors import ApiError
from tradewind.serving.settings import ServeSettings

SEND_BUFFER = 64 << 10
"""Bytes that the system holds for a client that does not read (Linux doubles it); the transport holds as many."""
HEAD_LIMIT = 16 << 10
"""Bytes of a request's head that may have come while it is not whole; the parser itself has no bound."""


def bind(host: str, port: int) -> socket.socket:
    """Port 0 takes a free one. Bound before weights are loaded, so that a taken port is known at once."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER)  # accepted sockets inherit it
    try:
        listener.bind((host, port))
    except (OSError, OverflowError) as error:
        listener.close()
        raise UserError(f"cannot serve {host} port {port}: {error}") from None
    return listener


class Connection(HttpToolsProtocol):
    """uvicorn's, with two timers: for a head that does not arrive, and for a client that does not read; and a bound on
    what may come of a head."""

    receive_timeout_s = send_timeout_s = 30.0
    _reading: asyncio.TimerHandle | None = None
    _writing: asyncio.TimerHandle | None = None
    _in_head = False
    _head_bytes = 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._expect_head()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self._in_head:
            self._head_bytes += len(data)
            if self._head_bytes > HEAD_LIMIT and not self.transport.is_closing():
                self.send_400_response(f"The request's head is larger than {HEAD_LIMIT} bytes.")
        self._expect_head()

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._in_head, self._head_bytes = True, 0

    def on_headers_complete(self) -> None:
        super().on_headers_complete()
        self._in_head = False

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self.transport.is_closing():  # it closes once the client has read the rest
            self._expect_reader()

    def timeout_keep_alive_handler(self) -> None:
        super().timeout_keep_alive_handler()
        self._expect_reader()

    def shutdown(self) -> None:
        super().shutdown()
        if self.transport.is_closing():
            self._expect_reader()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._expect_reader()

    def resume_writing(self) -> None:
        super().resume_writing()
        if not self.transport.is_closing():
            self._stop(self._writing)
            self._writing = None

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._stop(self._reading)
        self._stop(self._writing)

    def send_400_response(self, msg: str) -> None:
        """What is no HTTP is told so in the shape of every other error."""
        body = json.dumps(ApiError("invalid_value", msg).body).encode()
        head = f"HTTP/1.1 400 Bad Request\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n"
        self.transport.write(head.encode() + b"connection: close\r\n\r\n" + body)
        self.transport.close()
        self._expect_reader()

    def _expect_head(self) -> None:
        """Between two requests; the body's deadline is the app's."""
        busy = self.cycle is not None and not self.cycle.response_complete
        if busy:
            self._stop(self._reading)
            self._reading = None
        elif self._reading is None:
            self._reading = self.loop.call_later(self.receive_timeout_s, self.transport.abort)

    def _expect_reader(self) -> None:
        if self._writing is None:
            self._writing = self.loop.call_later(self.send_timeout_s, self.transport.abort)

    @staticmethod
    def _stop(timer: asyncio.TimerHandle | None) -> None:
        if timer is not None:
            timer.cancel()


def connection_of(settings: ServeSettings) -> type[Connection]:
    """The protocol class with its timeouts, in seconds."""

    class Timed(Connection):
        receive_timeout_s = settings.receive_timeout_s
        send_timeout_s = settings.send_timeout_s

    return Timed


def config_of(app: Any, settings: ServeSettings) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        http=connection_of(settings),
        ws="none",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_graceful_shutdown=settings.drain_seconds,
    )


class Server(uvicorn.Server):
    """Says where it serves once it does; tells `on_exit` as soon as it is to end, and waits out the grace."""

    def __init__(
        self, config: uvicorn.Config, line: str = "", on_exit: Callable[[], None] | None = None, grace_s: float = 0.0
    ) -> None:
        super().__init__(config)
        self.line, self.on_exit, self.grace_s = line, on_exit, grace_s

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if not self.should_exit and self.line:
            print(self.line, flush=True)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if self.on_exit is not None:
            self.on_exit()
        super().handle_exit(sig, frame)

    async def main_loop(self) -> None:
        await super().main_loop()
        end = asyncio.get_running_loop().time() + self.grace_s
        while asyncio.get_running_loop().time() < end and not self.force_exit:
            await asyncio.sleep(0.05)


def serve(app: Any, listener: socket.socket, model: str, settings: ServeSettings, on_exit: Callable[[], None]) -> None:
    """Until SIGINT or SIGTERM and the drain that follows."""
    # A full collection looks at every object, with the lock that all threads need: 79,000 of them, 50 to 70 ms.
    gc.collect()
    gc.freeze()
    host, port = listener.getsockname()[:2]
    shown = f"[{host}]" if ":" in host else host
    # The server passes the signal on when it is done; having done what it asks for, the process ends with 0.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    line = f"serving {model} at http://{shown}:{port}/v1"
    Server(config_of(app, settings), line, on_exit, settings.drain_grace_s).run(sockets=[listener])
