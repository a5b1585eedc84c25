"""Faults of a cluster that runs below this process: which of its processes is what, and how they are ended.

Only descendants of this process are seen, so that no other cluster of the machine is hurt. Ray names its processes.
"""

import re
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from enum import StrEnum

import psutil


class Part(StrEnum):
    """A part's process title, as Ray sets it."""

    REPLICA = r"ray::ServeReplica:\S+:Engine\b"
    INGRESS = r"ray::ServeReplica:\S+:Api\b"
    PROXY = r"ray::ProxyActor\b"


def processes(part: Part) -> list[psutil.Process]:
    """Those alive, oldest first."""
    found = []
    for one in psutil.Process().children(recursive=True):
        try:
            if re.match(part.value, " ".join(one.cmdline())) and one.status() != psutil.STATUS_ZOMBIE:
                found.append((one.create_time(), one.pid, one))
        except psutil.NoSuchProcess:
            continue
    return [one for _, _, one in sorted(found)]


def kill(part: Part, count: int = 1) -> list[int]:
    """With SIGKILL, the oldest `count`; the ids of those that were there."""
    victims = processes(part)[:count]
    for one in victims:
        with suppress(psutil.NoSuchProcess):  # it went by itself
            one.kill()
    return [one.pid for one in victims]


@contextmanager
def killing(part: Part, moments: Sequence[float]) -> Iterator[list[int]]:
    """Kill one of a part at each of these seconds of the block, as far as it gets. The list of their ids grows."""
    victims: list[int] = []
    ended, begun = threading.Event(), time.monotonic()

    def work() -> None:
        for moment in moments:
            if ended.wait(max(0.0, begun + moment - time.monotonic())):
                return
            victims.extend(kill(part))

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    try:
        yield victims
    finally:
        ended.set()
        thread.join()
