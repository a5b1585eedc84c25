"""The variants that one server answers with: what is said of each, and who answers for it.

The first is the main one. Each has who runs it and a tokenizer of its own. It knows no routes.
"""

import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass

from fastapi import Request
from starlette.responses import Response

from tradewind.engine.text import Tokenizer
from tradewind.serving.backend import Backend
from tradewind.serving.completions import Completions, Wire
from tradewind.serving.errors import ApiError
from tradewind.serving.fanout import Fanout
from tradewind.serving.meter import Meter
from tradewind.serving.replies import Call
from tradewind.serving.settings import ServeSettings
from tradewind.serving.shapes import Model


@dataclass(frozen=True)
class Served:
    """A variant under the name that clients ask for it by."""

    name: str
    scheduler: Backend
    tokenizer: Tokenizer

    @property
    def fingerprint(self) -> str:
        """Of engine and weights: answers of two fingerprints need not be the same."""
        return f"{self.scheduler.engine.name}-{self.scheduler.engine.weights_digest[:12]}"


class Catalog:
    """Names must differ."""

    def __init__(self, served: Sequence[Served], settings: ServeSettings) -> None:
        self.served = {one.name: one for one in served}
        self._created = int(time.time())
        self._completions = {one.name: Completions(one.scheduler, one.tokenizer, settings) for one in served}
        self._fanout = Fanout(self._completions)

    def model(self, name: str) -> Model:
        """Raises ApiError for one that is not served."""
        if name not in self.served:
            names = ", ".join(map(repr, self.served))
            raise ApiError("model_not_found", f"The model {name!r} does not exist; served: {names}.", "model")
        longest = self.served[name].scheduler.engine.max_len
        return Model(id=name, object="model", created=self._created, owned_by="tradewind", max_model_len=longest)

    async def answer(self, wire: Wire, prefix: str, request: Request) -> Response:
        """Raises ApiError. prefix: of the reply's id."""
        self.model(wire.model)
        Meter.of(request.scope).model = wire.model
        identity, now = f"{prefix}-{uuid.uuid4().hex}", int(time.time())

        def call(name: str) -> Call:
            return Call(identity, now, name, self.served[name].fingerprint)

        if wire.aggregate is not None:
            return await self._fanout.answer(wire, wire.aggregate, call, request)
        return await self._completions[wire.model].answer(wire, call(wire.model), request)
