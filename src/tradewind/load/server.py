"""A server of our own for one run: started on a free port, awaited, always stopped, by its own process id.

A server that ends is noticed at once; START_SECONDS bounds one that hangs, on however slow a machine.
"""

import json
import os
import queue
import signal
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import IO
from urllib.parse import urlsplit

from tradewind.errors import UserError

START_SECONDS = 600.0
STOP_SECONDS = 60.0


@contextmanager
def started(options: Sequence[str], module: str = "tradewind.serving") -> Iterator[str]:
    """The URL (without /v1) of `python -m MODULE OPTIONS` on a free port, once it is ready. Raises UserError."""
    command = [sys.executable, "-m", module, *options, "--port", "0"]
    with terminated_as_exit(), tempfile.TemporaryFile("w+") as said:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=said, text=True)
        try:
            url = _url(process, said)
            await_ready(url, check=lambda: _refuse_ended(process, said))
            yield url
        finally:
            stop(process)


@contextmanager
def terminated_as_exit() -> Iterator[None]:
    """SIGTERM unwinds the program, so that what was started is stopped; only a main thread can ask for it."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def stop(process: subprocess.Popen[str]) -> None:
    """Ask it to end, and end it where it does not."""
    process.terminate()
    try:
        process.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    if process.stdout is not None:
        process.stdout.close()


def _url(process: subprocess.Popen[str], said: IO[str]) -> str:
    lines: queue.Queue[str | None] = queue.Queue()
    threading.Thread(target=_pump, args=(process, lines), daemon=True).start()
    deadline = time.monotonic() + START_SECONDS
    while (left := deadline - time.monotonic()) > 0:
        try:
            line = lines.get(timeout=left)
        except queue.Empty:
            break
        if line is None:
            raise UserError(f"the server ended before it served: {_last_words(said)}")
        if line.startswith("serving "):
            return line.split()[-1].removesuffix("/v1")
    raise UserError(f"the server did not start within {START_SECONDS:.0f} s; its last words: {_last_words(said)}")


def _last_words(said: IO[str]) -> str:
    """The last line on standard error, which the server may still write to: read without moving its place."""
    size = os.fstat(said.fileno()).st_size
    tail = os.pread(said.fileno(), 4096, max(0, size - 4096)).decode("utf-8", "replace")
    return (tail.strip().splitlines() or ["none"])[-1]


def _refuse_ended(process: subprocess.Popen[str], said: IO[str]) -> None:
    if process.poll() is not None:
        raise UserError(f"the server ended before it was ready: {_last_words(said)}")


def _pump(process: subprocess.Popen[str], lines: "queue.Queue[str | None]") -> None:
    assert process.stdout is not None
    for line in process.stdout:
        lines.put(line.strip())
    lines.put(None)


def await_ready(url: str, seconds: float = START_SECONDS, check: Callable[[], None] = lambda: None) -> None:
    """Until /ready says so. Raises UserError after `seconds`, or at once where `url` is none; or what `check`, called
    before each try, raises."""
    try:
        parts = urlsplit(url)
        usable = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        usable = False
    if not usable:
        raise UserError(f"{url!r} is no address of a server: http://HOST:PORT is")
    deadline = time.monotonic() + seconds
    why = "no answer"
    while time.monotonic() < deadline:
        check()
        try:
            with urllib.request.urlopen(f"{url}/ready", timeout=10):
                return
        except urllib.error.HTTPError as error:
            why = f"status {error.code}"
        except (OSError, ValueError) as error:
            why = str(error)
        time.sleep(0.1)
    raise UserError(f"{url} is not ready after {seconds:.0f} s ({why})")


def served(url: str) -> str:
    """The model that a load test asks: the first that a server lists. Raises UserError."""
    key = os.environ.get("TRADEWIND_API_KEY")
    call = urllib.request.Request(f"{url}/v1/models", headers={"Authorization": f"Bearer {key}"} if key else {})
    try:
        with urllib.request.urlopen(call, timeout=10) as reply:
            return str(json.load(reply)["data"][0]["id"])
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise UserError(f"{url}/v1/models names no model ({error})") from None
