"""Replicas of a Ray Serve application, reached through its handle."""

import asyncio
import logging
from collections.abc import AsyncIterator, Sequence
from contextlib import suppress
from contextvars import Context

from ray.serve.exceptions import BackPressureError
from ray.serve.handle import DeploymentHandle, DeploymentResponseGenerator

from tradewind.cluster.parcel import Parcel
from tradewind.cluster.placement import Placement
from tradewind.cluster.remote import Batch, ReplicaLost
from tradewind.cluster.replica import EngineFacts
from tradewind.engine.requests import QueueFull, Request, Unavailable
from tradewind.engine.settings import Snapshot

log = logging.getLogger(__name__)


class ServeReplicas:
    """A `cluster.remote.Replicas`: of one application, those with the weights of `facts`."""

    def __init__(self, handle: DeploymentHandle, app: str, facts: EngineFacts) -> None:
        self._handle, self._digest = handle.options(stream=True), facts.weights_digest
        self._placement = Placement.of(app)

    def states(self) -> Sequence[Snapshot]:
        return self._placement.states()

    async def stream(self, request: Request, avoid: frozenset[str]) -> AsyncIterator[Batch]:
        if not self._placement.able(self._digest, avoid):
            raise Unavailable
        parcel = Parcel.of(request, self._digest, avoid)
        chosen = asyncio.wrap_future(self._placement.expect(parcel))
        name: str | None = None
        response: DeploymentResponseGenerator[Batch] | None = None
        try:
            # Serve gives all that is asked for one HTTP call the same id, and routes one request by an id at a time.
            response = Context().run(self._handle.stream.remote, parcel)
            first = asyncio.ensure_future(anext(response))
            await asyncio.wait({chosen, first}, return_when=asyncio.FIRST_COMPLETED)
            if chosen.done():
                name = chosen.result()
                yield Batch(name, [])
            yield await first
            async for batch in response:
                yield batch
            response = None
        except (GeneratorExit, asyncio.CancelledError):
            raise
        except BackPressureError as error:
            raise QueueFull(str(error)) from None
        except Exception as error:  # whatever went wrong there, another may do better
            raise ReplicaLost(name, str(error).partition("\n")[0]) from error
        finally:
            self._placement.forget(parcel)
            if response is not None:
                first.cancel()
                with suppress(Exception):
                    response.cancel()
