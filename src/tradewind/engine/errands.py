"""What other threads want done in the engine's thread, between two turns of its loop: loading an adapter, for example.

Whoever adds one waits for its `Future`. The scheduler's lock guards `add` and `close`; nothing here knows what is done.
"""

from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, TypeVar

from tradewind.engine.requests import Closed

T = TypeVar("T")


class Errands:
    def __init__(self) -> None:
        self._waiting: deque[tuple[Callable[[], Any], Future[Any]]] = deque()

    def __bool__(self) -> bool:
        return bool(self._waiting)

    def add(self, work: Callable[[], T]) -> "Future[T]":
        future: Future[T] = Future()
        self._waiting.append((work, future))
        return future

    def run(self) -> None:
        """All that wait, in order; what one raises is its own affair."""
        while self._waiting:
            work, future = self._waiting.popleft()
            if not future.set_running_or_notify_cancel():
                continue
            try:
                future.set_result(work())
            except Exception as error:
                future.set_exception(error)

    def close(self) -> None:
        """Nothing is done any more."""
        while self._waiting:
            self._waiting.popleft()[1].set_exception(Closed("the server is shutting down"))
