"""Who runs requests, as those who ask see it: a `Scheduler` in this process, or a `Remote` over replicas elsewhere."""

from collections.abc import Sequence
from typing import Protocol

from tradewind.engine.requests import Request, Sink
from tradewind.engine.settings import Snapshot


class Facts(Protocol):
    """Of an engine: see `tradewind.engine.contract.Engine`."""

    @property
    def name(self) -> str: ...
    @property
    def weights_digest(self) -> str: ...
    @property
    def max_len(self) -> int: ...
    @property
    def vocab_size(self) -> int: ...


class Cancellable(Protocol):
    def cancel(self) -> None: ...


class Backend(Protocol):
    """`submit_all` raises Refused, or tells it as a request's terminal event, `Failed` with the `Refused` in it."""

    @property
    def engine(self) -> Facts: ...
    @property
    def idle(self) -> bool: ...
    def submit_all(self, calls: Sequence[tuple[Request, Sink]]) -> Sequence[Cancellable]: ...
    def snapshot(self) -> Snapshot: ...
    def close(self) -> None: ...


class Layer:
    """A `Backend` over another, for one call: what it leaves out is the other's, and closing is not its to do."""

    def __init__(self, backend: Backend) -> None:
        self.backend = backend

    @property
    def engine(self) -> Facts:
        return self.backend.engine

    @property
    def idle(self) -> bool:
        return self.backend.idle

    def submit_all(self, calls: Sequence[tuple[Request, Sink]]) -> Sequence[Cancellable]:
        return self.backend.submit_all(calls)

    def snapshot(self) -> Snapshot:
        return self.backend.snapshot()

    def close(self) -> None:
        """Nothing."""
