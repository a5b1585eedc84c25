"""Replicas of a running cluster in a scheduler's place: the API's own way to them, without HTTP, from this process.

A cluster of the benchmark's own is started from a `serve.yaml` with other arguments; this process attaches to it, as
the API's does, and kills replicas of it, of that cluster alone.
"""

import tradewind.cluster  # noqa: F401 # what it sets for Ray must be there when that is imported

# isort: split

import asyncio
import threading
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import aclosing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import yaml

from tradewind.cluster.app import Reached
from tradewind.cluster.deploy import attached
from tradewind.cluster.placement import Placement, slots_of
from tradewind.cluster.plan import ENGINE
from tradewind.cluster.remote import Batch, Remote, RemoteTicket, Replicas
from tradewind.cluster.replica import EngineFacts
from tradewind.cluster.replicas import ServeReplicas
from tradewind.cluster.routing import strategy
from tradewind.engine.requests import Request, Sink
from tradewind.engine.settings import Snapshot
from tradewind.load.server import started

CALL_S = 600.0


@contextmanager
def cluster(args: Mapping[str, Any], *options: str, file: Path = Path("serve.yaml")) -> Iterator[str]:
    """The URL of one that runs as long as the block. args: of every engine's application, over those of the file."""
    with TemporaryDirectory() as folder:
        path = Path(folder) / "serve.yaml"
        path.write_text(yaml.safe_dump(changed(yaml.safe_load(file.read_text(encoding="utf-8")), args)))
        with started(["up", str(path), *options], module="tradewind.cluster") as url:
            yield url


def changed(config: dict[str, Any], args: Mapping[str, Any]) -> dict[str, Any]:
    for app in config["applications"]:
        if app["import_path"] == ENGINE:
            app["args"] = {**app.get("args", {}), **args}
    return config


@dataclass
class Counted:
    """Replicas, how many requests each was given, and how many of all came with tokens of their answer from a lost one."""

    replicas: Replicas
    placed: Counter[str] = field(default_factory=Counter)
    resumed: int = 0

    async def stream(self, request: Request, avoid: frozenset[str]) -> AsyncIterator[Batch]:
        placed = False
        async with aclosing(self.replicas.stream(request, avoid)) as batches:  # type: ignore[type-var]
            async for batch in batches:
                if not placed:
                    self.resumed += bool(request.resumed)
                    self.placed[batch.replica] += 1
                placed = True
                yield batch

    def states(self) -> Sequence[Snapshot]:
        return self.replicas.states()


class Attached:
    """`submit` as a scheduler has it, from any thread; sinks are called in the event loop's."""

    def __init__(self, app: str, replicas: ServeReplicas, facts: EngineFacts, call: Callable[[Any], Any]) -> None:
        self.app, self.call, self._replicas = app, call, replicas
        self.counted = Counted(replicas)
        self.remote = Remote(self.counted, facts)

    @property
    def replicas(self) -> frozenset[str]:
        """Names of those that requests go to."""
        return frozenset(Placement.of(self.app).replicas)

    def slots(self) -> dict[str, int]:
        return {name: slots_of(one) for name, one in Placement.of(self.app).replicas.items()}

    def route(self, name: str) -> None:
        """From now on by that strategy, in this process, after a first request. Ray has no public way to its router."""
        router: Any = self._replicas._handle._router
        router._asyncio_router.request_router.choose = strategy(name)

    def losses(self) -> dict[str, int]:
        """Until now: replicas lost under a request, and requests that went on in mid-answer on another."""
        return {"failovers": self.remote.failovers, "resumed": self.counted.resumed}

    def submit(self, request: Request, sink: Sink) -> RemoteTicket:
        async def submitted() -> RemoteTicket:
            (ticket,) = self.remote.submit_all([(request, sink)])
            return ticket

        ticket: RemoteTicket = self.call(submitted())
        return ticket


@contextmanager
def reached() -> Iterator[Attached]:
    """The main engine's replicas of the cluster that runs here. Raises UserError where there is none."""
    with attached() as found, looping() as call:
        app = found.plan.engines[0]["name"]
        one = call(Reached.at(app))
        there = Attached(app, ServeReplicas(one.handle, app, one.facts), one.facts, call)
        try:
            yield there
        finally:
            call(_closed(there.remote))


async def _closed(remote: Remote) -> None:
    remote.close()


@contextmanager
def looping() -> Iterator[Callable[[Any], Any]]:
    """An event loop in a thread of its own; gives what runs a coroutine in it and waits for its result."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    try:
        yield lambda coroutine: asyncio.run_coroutine_threadsafe(coroutine, loop).result(CALL_S)
    finally:
        asyncio.run_coroutine_threadsafe(_left_over(), loop).result(CALL_S)
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


async def _left_over() -> None:
    """What Ray still asks of replicas, cancelled."""
    tasks = asyncio.all_tasks() - {asyncio.current_task()}
    for one in tasks:
        one.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
