"""A Redis further away: a TCP proxy on a free port that holds each reply back for a while."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field

from tradewind.caching.node import RedisNode


@dataclass
class Delaying:
    """delay_s: of each reply from now on."""

    node: RedisNode
    delay_s: float
    port: int = 0
    tasks: set[asyncio.Task[None]] = field(default_factory=set)

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_connection("127.0.0.1", self.node.port)
        for task in (self._carry(reader, back, False), self._carry(there, writer, True)):
            held = asyncio.create_task(task)
            self.tasks.add(held)
            held.add_done_callback(self.tasks.discard)

    async def _carry(self, source: asyncio.StreamReader, to: asyncio.StreamWriter, held_back: bool) -> None:
        with suppress(ConnectionError):
            while piece := await source.read(1 << 16):
                if held_back:
                    await asyncio.sleep(self.delay_s)
                to.write(piece)
        to.close()


@asynccontextmanager
async def delaying(node: RedisNode, delay_s: float) -> AsyncIterator[Delaying]:
    proxy = Delaying(node, delay_s)
    server = await asyncio.start_server(proxy.serve, "127.0.0.1", 0)
    proxy.port = server.sockets[0].getsockname()[1]
    try:
        yield proxy
    finally:
        server.close()
        for task in proxy.tasks:
            task.cancel()
