"""Ray Serve's request router, which asks a strategy of `cluster.routing`.

Ray sends this module's classes to the processes that route by value: what they share with others there lies in
`cluster.placement`.
"""

from dataclasses import dataclass
from typing import Any

from ray.serve.request_router import PendingRequest, RequestRouter, RunningReplica

from tradewind.cluster.parcel import Parcel
from tradewind.cluster.placement import Placement, fits, name_of, slots_of
from tradewind.cluster.routing import strategy


@dataclass(frozen=True)
class Place:
    """A `routing.Candidate`."""

    name: str
    ongoing: int
    slots: int


class Router(RequestRouter):
    """routing: a name of `routing.STRATEGIES`."""

    def initialize_state(self, routing: str = "power_of_two", seed: int = 0, **unknown: Any) -> None:
        self.choose = strategy(routing, seed)
        self.placement = Placement.of(self.app_name)

    def update_replicas(self, replicas: list[RunningReplica]) -> None:
        super().update_replicas(replicas)
        self._know()

    def on_replica_actor_died(self, replica_id: Any) -> None:
        super().on_replica_actor_died(replica_id)
        self._know()

    def _know(self) -> None:
        self.placement.replicas = {name_of(one): one for one in self.curr_replicas.values()}

    async def choose_replicas(
        self, candidate_replicas: list[RunningReplica], pending_request: PendingRequest | None = None
    ) -> list[list[RunningReplica]]:
        """One, or none where those there are are to be avoided: it is asked again then."""
        assert pending_request is not None
        pending_request.routing_context.should_backoff = True
        parcel = next((one for one in pending_request.args if isinstance(one, Parcel)), None)
        if parcel is None:  # a question that any may answer
            return [candidate_replicas]
        fitting = {name_of(one): one for one in candidate_replicas if fits(one, parcel.digest, parcel.avoid)}
        if not fitting:
            return []
        counts = self.placement.counts()
        places = [Place(name, counts[name], slots_of(one)) for name, one in fitting.items()]
        name = self.choose(places, parcel.request.known).name
        self.placement.put(parcel, name)
        # What is known here is newer than what a replica would be asked for.
        self.replica_queue_len_cache.update(fitting[name].replica_id, counts[name])
        return [[fitting[name]]]
