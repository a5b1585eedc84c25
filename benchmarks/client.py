"""A streaming client that costs next to nothing, so that on a small machine the server is measured and not the client.

One connection a request, closed by the server; no event is parsed but the last ones. Times are seconds from before the
connection is opened. Not covered: keep-alive, TLS, redirects.
"""

import asyncio
import json
import time
from dataclasses import dataclass, field
from typing import Any

HOST = "127.0.0.1"


@dataclass(frozen=True)
class Reply:
    """first, last: when the first and the last event with a choice came, where there was one. seconds: until the end.
    error: the code of an error, `connection` where it broke; completion_tokens as the server counts them.
    """

    status: int
    seconds: float
    first: float | None = None
    last: float | None = None
    completion_tokens: int = 0
    error: str | None = None
    headers: dict[str, str] = field(default_factory=dict)


async def post(port: int, path: str, body: dict[str, Any], timeout_s: float = 300) -> Reply:
    """POST a body and read its stream, or its error, to the end."""
    return await _exchange(port, "POST", path, json.dumps(body).encode(), timeout_s)


async def get(port: int, path: str, timeout_s: float = 30) -> Reply:
    return await _exchange(port, "GET", path, b"", timeout_s)


async def _exchange(port: int, method: str, path: str, body: bytes, timeout_s: float) -> Reply:
    begun = time.perf_counter()
    try:
        async with asyncio.timeout(timeout_s):
            reader, writer = await asyncio.open_connection(HOST, port, limit=1 << 20)
            try:
                head = (
                    f"{method} {path} HTTP/1.1\r\nHost: {HOST}\r\nConnection: close\r\nContent-Length: {len(body)}\r\n"
                )
                writer.write(f"{head}Content-Type: application/json\r\nCache-Control: no-store\r\n\r\n".encode() + body)
                return await _read(reader, begun)
            finally:
                writer.close()
    except (OSError, asyncio.IncompleteReadError, LookupError, ValueError, TimeoutError):
        return Reply(0, time.perf_counter() - begun, error="connection")


async def _read(reader: asyncio.StreamReader, begun: float) -> Reply:
    status = int((await reader.readline()).split()[1])
    headers = {}
    while (line := await reader.readline()).strip():
        name, _, value = line.decode("latin-1").partition(":")
        headers[name.lower()] = value.strip()
    if not headers.get("content-type", "").startswith("text/event-stream"):
        text = await reader.read()
        error = json.loads(text)["error"]["code"] if status >= 400 and b'"error"' in text else None
        return Reply(status, time.perf_counter() - begun, error=error, headers=headers)
    first = last = None
    tail = b""
    async for line in reader:
        if line.startswith(b'data: {"id"'):
            now = time.perf_counter() - begun
            if b'"choices":[{' in line:
                first, last = first or now, now
            tail = line
        elif line.startswith(b'data: {"error"'):
            code = json.loads(line.removeprefix(b"data: "))["error"]["code"]
            return Reply(status, time.perf_counter() - begun, first, last, 0, code, headers)
    usage = json.loads(tail.removeprefix(b"data: ")).get("usage") if tail else None
    tokens = usage["completion_tokens"] if usage else 0
    return Reply(status, time.perf_counter() - begun, first, last, tokens, headers=headers)
