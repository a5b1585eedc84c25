"""A small server with a response cache, as the load test `caching` sees one: X-Cache, Age, one answer for all that wait."""

import asyncio
import json
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import uvicorn

from tradewind.caching.memory import LocalStore

MAKING_S = 0.05
NAME = "tradewind_response_cache"


class CachedServer:
    """An ASGI application. budget: bytes of the store."""

    def __init__(self, budget: int) -> None:
        self.store = LocalStore(budget)
        self.making: dict[bytes, asyncio.Future[None]] = {}
        self.generations = 0

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            return
        if scope["path"] == "/v1/chat/completions":
            await self.chat(scope, receive, send)
        elif scope["path"] == "/metrics":
            text = f"{NAME}_bytes {self.store.nbytes}\n{NAME}_entries {len(self.store)}\n"
            await reply(send, text.encode(), [])
        else:
            await reply(send, b'{"data": [{"id": "cached"}]}', [])

    async def chat(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        body, more = b"", True
        while more:
            message = await receive()
            body, more = body + message["body"], message.get("more_body", False)
        asked = json.loads(body)
        fresh = dict(scope["headers"]).get(b"cache-control") == b"no-cache"
        key = json.dumps([asked["cache_salt"], asked["messages"]]).encode()
        outcome, age = await self.answered(key, fresh)
        headers = [(b"x-cache", outcome)] + ([(b"age", b"%d" % age)] if outcome == b"hit" else [])
        await reply(send, answer(asked["max_tokens"], asked["stream"]), headers)

    async def answered(self, key: bytes, fresh: bool) -> tuple[bytes, float]:
        entry = None if fresh else self.store.get(key)
        if entry is not None:
            return b"hit", self.store.now() - entry.stored
        if not fresh and key in self.making:
            await asyncio.shield(self.making[key])
            return b"coalesced", 0.0
        self.generations += 1
        done = self.making[key] = asyncio.get_running_loop().create_future()
        await asyncio.sleep(MAKING_S)
        self.store.put(key, bytes(1000), 3600.0)
        done.set_result(None)
        if self.making.get(key) is done:
            del self.making[key]
        return b"miss", 0.0


def answer(tokens: int, stream: bool) -> bytes:
    usage = {"prompt_tokens": 3, "completion_tokens": tokens}
    if not stream:
        choice = {"message": {"content": "word " * tokens}, "finish_reason": "length"}
        return json.dumps({"choices": [choice], "usage": usage}).encode()
    texts = [{"choices": [{"delta": {"content": "word "}, "finish_reason": None}]} for _ in range(tokens)]
    texts.append({"choices": [{"delta": {}, "finish_reason": "length"}]})
    texts.append({"choices": [], "usage": usage})
    return "".join(f"data: {json.dumps(one)}\n\n" for one in texts).encode() + b"data: [DONE]\n\n"


async def reply(send: Any, body: bytes, headers: list[tuple[bytes, bytes]]) -> None:
    headers = [*headers, (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


@contextmanager
def serving(app: CachedServer) -> Iterator[str]:
    """Its URL."""
    with socket.create_server(("127.0.0.1", 0), backlog=256) as listener:
        server = uvicorn.Server(uvicorn.Config(app, log_level="error", lifespan="off"))
        thread = threading.Thread(target=server.run, args=([listener],), daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join()
