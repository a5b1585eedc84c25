"""Which replica each parcel under way was given to, and what replicas there are: the one thing that a router, in an event
loop of its own, and the caller of its handle share.
"""

import threading
from collections import Counter
from concurrent.futures import Future
from typing import ClassVar

from ray.serve.request_router import RunningReplica

from tradewind.cluster.parcel import Parcel
from tradewind.engine.settings import Snapshot


class Placement:
    """Of one application, in one process. Callable from any thread."""

    _known: ClassVar[dict[str, "Placement"]] = {}

    def __init__(self) -> None:
        self.replicas: dict[str, RunningReplica] = {}
        self._chosen: dict[str, Future[str]] = {}
        self._under_way: dict[str, str] = {}
        self._lock = threading.Lock()

    @classmethod
    def of(cls, app: str) -> "Placement":
        return cls._known.setdefault(app, cls())

    def expect(self, parcel: Parcel) -> Future[str]:
        """Gets the name of the replica that is chosen first. To be forgotten."""
        return self._chosen.setdefault(parcel.id, Future())

    def put(self, parcel: Parcel, name: str) -> None:
        with self._lock:
            chosen = self._chosen.get(parcel.id)
            if chosen is not None:  # it may have been given up
                self._under_way[parcel.id] = name
        if chosen is not None and not chosen.done():
            chosen.set_result(name)

    def forget(self, parcel: Parcel) -> None:
        with self._lock:
            self._chosen.pop(parcel.id, None)
            self._under_way.pop(parcel.id, None)

    def counts(self) -> Counter[str]:
        """Parcels under way by replica."""
        with self._lock:
            return Counter(self._under_way.values())

    def able(self, digest: str, avoid: frozenset[str]) -> bool:
        """Whether there is a replica for such a parcel."""
        return any(fits(one, digest, avoid) for one in list(self.replicas.values()))

    def states(self) -> list[Snapshot]:
        stats = [one.routing_stats for one in list(self.replicas.values())]
        return [Snapshot(**one["state"]) for one in stats if "state" in one]


def fits(one: RunningReplica, digest: str, avoid: frozenset[str]) -> bool:
    return name_of(one) not in avoid and one.replica_metadata.get("weights_digest", digest) == digest


def name_of(one: RunningReplica) -> str:
    return str(one.replica_id.unique_id)


def slots_of(one: RunningReplica) -> int:
    return int(one.replica_metadata.get("slots", 1))
