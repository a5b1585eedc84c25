"""Waiting for a store, fairly: the time that the event loop was busy with other things is not the store's.

What had arrived when time was up is handled before it counts as late. Not covered: a machine so busy that the store itself
does not run; that looks like a slow store, and is one.
"""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

HOPS = 6
"""Rounds of the loop from bytes that are there to the one who waits for what they say: measured 3 to 4."""
TICKS = 5


async def in_time(told: asyncio.Future[Any], seconds: float) -> bool:
    """Whether it is done then; it goes on if not."""
    await asyncio.wait([told], timeout=seconds)
    for _ in range(HOPS):
        if told.done():
            break
        await asyncio.sleep(0)
    return told.done()


@contextmanager
def watched(seconds: float, overdue: Callable[[], None]) -> Iterator[None]:
    """Calls `overdue` once, where the block has not been left after `seconds` in which the loop ran: they are counted in
    TICKS parts, of which one that comes late, because the loop was held up, counts no more than another."""
    loop = asyncio.get_running_loop()
    timers: list[asyncio.Handle] = []

    def tick(ticks: int, hops: int) -> None:
        if ticks:
            timers[:] = [loop.call_later(seconds / TICKS, tick, ticks - 1, HOPS)]
        elif hops:
            timers[:] = [loop.call_soon(tick, 0, hops - 1)]
        else:
            overdue()

    tick(TICKS, HOPS)
    try:
        yield
    finally:
        timers[0].cancel()
