"""Servers of a benchmark: their command, started in a process of its own, ready, and ended again."""

import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import httpx

from tradewind.errors import UserError

READY_S = 300


@dataclass(frozen=True)
class Server:
    """How to start one; it is ready when `ready` answers 200. `extra` are fields that only this one takes."""

    name: str
    model: str
    command: tuple[str, ...]
    port: int
    ready: str
    extra: tuple[tuple[str, Any], ...] = ()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextmanager
def started(server: Server) -> Iterator[Path]:
    """The server's process for the length of the block, ready when it says so; gives its log, which is a file because a
    pipe that nobody reads would fill up and stop it. Its last words explain a failed start."""
    with TemporaryDirectory() as folder, open(Path(folder) / "log", "w") as log:
        process = subprocess.Popen(server.command, stdout=subprocess.DEVNULL, stderr=log)
        try:
            _await_ready(server, process, Path(log.name))
            yield Path(log.name)
        finally:
            process.terminate()
            try:
                process.wait(timeout=45)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _await_ready(server: Server, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + READY_S
    while time.monotonic() < deadline:
        if process.poll() is not None:
            said = log.read_text().strip().splitlines()
            raise UserError(f"{server.name} did not start: {said[-1] if said else f'exit {process.returncode}'}")
        try:
            if httpx.get(server.url + server.ready, timeout=5).status_code == httpx.codes.OK:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.2)
    raise UserError(f"{server.name} was not ready within {READY_S} s")
