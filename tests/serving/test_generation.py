"""The way from an engine's thread to the event loop: nothing lost, in order, one wake-up for what comes together."""

import asyncio
import threading

import pytest

from tradewind.engine.requests import Delta, Event
from tradewind.serving.generation import Mailbox


class Counting(asyncio.SelectorEventLoop):
    woken = 0

    def call_soon_threadsafe(self, *given, **named):  # type: ignore[no-untyped-def, override]
        self.woken += 1
        return super().call_soon_threadsafe(*given, **named)


def test_events_that_come_together_wake_once() -> None:
    seen: list[int] = []
    loop = Counting()

    async def check() -> None:
        mailbox = Mailbox.of(loop)
        assert Mailbox.of(loop) is mailbox
        for place in range(8):
            mailbox.put(loop, lambda place, event: seen.append(place), place, Delta(0, "", 1))
        assert not seen
        await asyncio.sleep(0)
        await asyncio.sleep(0)

    loop.run_until_complete(check())
    assert (seen, loop.woken) == (list(range(8)), 1)
    loop.close()
    with pytest.raises(RuntimeError):
        Mailbox.of(loop).put(loop, lambda place, event: None, 0, Delta(0, "", 1))


def test_none_is_lost_from_other_threads() -> None:
    count, threads = 2000, 4
    seen: list[tuple[int, int]] = []

    async def check() -> None:
        loop, done = asyncio.get_running_loop(), asyncio.Event()
        mailbox = Mailbox.of(loop)

        def take(place: int, event: Event) -> None:
            assert isinstance(event, Delta)
            seen.append((place, event.tokens))
            if len(seen) == count * threads:
                done.set()

        def send(place: int) -> None:
            for number in range(count):
                mailbox.put(loop, take, place, Delta(0, "", number))

        senders = [threading.Thread(target=send, args=(place,)) for place in range(threads)]
        for one in senders:
            one.start()
        await asyncio.wait_for(done.wait(), 20)
        for one in senders:
            one.join()

    asyncio.run(check())
    for place in range(threads):
        assert [number for its, number in seen if its == place] == list(range(count))
