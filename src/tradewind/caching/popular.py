"""What is asked often, so that a server can have it answered before it is asked again.

The log: a line of JSON for each call whose answer may be kept, with its time, tenant and body (so it holds prompts: it is
off unless a file is named, and readable by its owner only). At LARGEST bytes it becomes FILE.1, in place of an older one.
`popular` reads both, or a file of the same shape made by hand, in which time and tenant may be left out; the
tenant then is that of calls without a key. A stream and a whole answer are the same call.
"""

import json
import logging
import os
import time
from collections import Counter
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from threading import BoundedSemaphore
from typing import Any

from tradewind.errors import UserError

log = logging.getLogger(__name__)
LARGEST = 16 << 20
BACKLOG = 1000
"""Calls that wait to be written."""
DAY_S = 24 * 3600.0
ALIKE = ("stream", "stream_options", "priority", "user", "metadata", "safety_identifier", "prompt_cache_key")
"""Fields that change no answer."""


@dataclass(frozen=True)
class Popular:
    """A call, and how often it was made."""

    path: str
    tenant: str
    body: Mapping[str, Any]
    count: int


class CallLog:
    """Appends, in a thread of its own: what it cannot keep up with is left out. A file that cannot be written is told once,
    and the calls go on."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._failed = False
        self._writer, self._room = ThreadPoolExecutor(1, "call-log"), BoundedSemaphore(BACKLOG)

    def add(self, path: str, tenant: str, body: bytes) -> None:
        """body: JSON, as it came."""
        if self._room.acquire(blocking=False):
            self._writer.submit(self._add, path, tenant, body, time.time())

    def close(self) -> None:
        """When all is written."""
        self._writer.shutdown()

    def _add(self, path: str, tenant: str, body: bytes, now: float) -> None:
        self._room.release()
        line = json.dumps({"time": now, "path": path, "tenant": tenant, "body": json.loads(body)}) + "\n"
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            if self.path.is_file() and self.path.stat().st_size + len(line) > LARGEST:
                self.path.replace(f"{self.path}.1")
            descriptor = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
            with os.fdopen(descriptor, "a", encoding="ascii") as file:
                file.write(line)
        except OSError as error:
            if not self._failed:
                log.warning("%s: calls are not logged: %s", self.path, error)
            self._failed = True


def popular(path: Path, most: int, since_s: float = DAY_S, now: float | None = None) -> list[Popular]:
    """The `most` frequent calls of the last `since_s` seconds, most frequent first, ties in the order they came. Raises
    UserError for a file that is missing or has none of this shape; single lines that cannot be read are left out, as the
    last one of a server that died."""
    files = [one for one in (Path(f"{path}.1"), path) if one.is_file()]
    if not files:
        raise UserError(f"{path}: there is no such file to warm up from")
    earliest = (time.time() if now is None else now) - since_s
    counts, bodies, wrong = Counter[str](), dict[str, tuple[str, str, Mapping[str, Any]]](), 0
    for line in (line for one in files for line in one.read_text("utf-8", "replace").splitlines() if line.strip()):
        call = _call(line)
        if call is None:
            wrong += 1
        elif call[0] >= earliest:
            path_, tenant, body = call[1:]
            body = {name: value for name, value in body.items() if name not in ALIKE}
            key = json.dumps([path_, tenant, body], sort_keys=True)
            counts[key] += 1
            bodies[key] = path_, tenant, body
    if wrong and not counts:
        raise UserError(f'{path}: no line of it is a call: {{"path": ..., "body": {{...}}}}')
    if wrong:
        log.warning("%s: %d lines are no calls, and left out", path, wrong)
    return [Popular(*bodies[key], count) for key, count in counts.most_common(most)]


def _call(line: str) -> tuple[float, str, str, Mapping[str, Any]] | None:
    try:
        held = json.loads(line)
        moment, path, tenant, body = held.get("time", float("inf")), held["path"], held.get("tenant", ""), held["body"]
    except (ValueError, KeyError, AttributeError, TypeError):
        return None
    if not (isinstance(moment, int | float) and isinstance(path, str) and isinstance(tenant, str)):
        return None
    return (float(moment), path, tenant, body) if isinstance(body, dict) else None
