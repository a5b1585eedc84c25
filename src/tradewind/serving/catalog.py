"""The variants that one server answers with: what is said of each, and who answers for it.

The first is the main one. Each has who runs it and a tokenizer of its own. It knows no routes.
"""

import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from fastapi import Request
from starlette.responses import Response

from tradewind.caching.response import ResponseCache
from tradewind.caching.semantic import SemanticCache
from tradewind.engine.backend import Backend
from tradewind.engine.text import Tokenizer
from tradewind.errors import UserError
from tradewind.serving.caches import CallCaches
from tradewind.serving.completions import Completions, Wire
from tradewind.serving.errors import ApiError
from tradewind.serving.fanout import Fanout
from tradewind.serving.meter import Meter
from tradewind.serving.replies import Call
from tradewind.serving.settings import ServeSettings
from tradewind.serving.shapes import AdapterModel, AliasModel, Model


@dataclass(frozen=True)
class Served:
    """A variant under the name that clients ask for it by. identity: of all that its answers depend on, where answers are
    kept; engine and weights where it is left out. adapter: by which the engine knows it, of the model `parent`, from the
    folder `root`.
    """

    name: str
    scheduler: Backend
    tokenizer: Tokenizer
    identity: str = ""
    adapter: str | None = None
    root: str = ""
    parent: str = ""

    @property
    def fingerprint(self) -> str:
        """Of engine, weights and adapter: answers of two fingerprints need not be the same."""
        base = f"{self.scheduler.engine.name}-{self.scheduler.engine.weights_digest[:12]}"
        return base if self.adapter is None else f"{base}-{self.adapter[:12]}"


@dataclass(frozen=True)
class Alias:
    """A name for one variant, or for several: the one with the fewest requests then answers, and says which it is."""

    models: tuple[str, ...]
    exact: bool = True


class Catalog:
    """Adapters come and go, the others stay. Raises UserError for two of one name, and for an alias that promises more than
    its variants can keep."""

    def __init__(
        self,
        served: Sequence[Served],
        settings: ServeSettings,
        aliases: Mapping[str, Alias] | None = None,
        cache: ResponseCache | None = None,
        semantic: SemanticCache | None = None,
    ) -> None:
        self.served = {one.name: one for one in served}
        self.aliases = dict(aliases or {})
        for name, alias in self.aliases.items():
            self._check(name, alias)
        self._created = int(time.time())
        self._settings = settings
        self._completions: dict[str, Completions] = {}
        for one in served:
            if one.name in self._completions:
                raise UserError(f"two models are to be served as {one.name!r}")
            self.add(one)
        self._cache, self._semantic = cache, semantic
        self._fanout = Fanout(self._completions)

    def add(self, one: Served) -> None:
        """Serve one more, whose name is not taken."""
        identity = one.identity or one.fingerprint
        self.served[one.name] = one
        self._completions[one.name] = Completions(one.scheduler, one.tokenizer, self._settings, identity, one.adapter)

    def remove(self, name: str) -> None:
        """For calls to come; those that are being answered go on."""
        del self.served[name], self._completions[name]

    def _check(self, name: str, alias: Alias) -> None:
        if name in self.served or not alias.models:
            raise UserError(f"alias {name!r}: it is a variant's name, or names none")
        if unknown := [model for model in alias.models if model not in self.served]:
            raise UserError(f"alias {name!r}: {unknown[0]!r} is not served (choices: {', '.join(self.served)})")
        if alias.exact and len({self.served[model].fingerprint for model in alias.models}) > 1:
            raise UserError(f"alias {name!r} joins variants that give other answers: it must say exact: false")

    def variant(self, name: str) -> str:
        """Who answers to a name now. Raises ApiError for one that is not served."""
        self.model(name)
        if name not in self.aliases:
            return name

        def load(model: str) -> int:
            state = self.served[model].scheduler.snapshot()
            return state.running + state.waiting

        return min(self.aliases[name].models, key=load)

    @property
    def names(self) -> list[str]:
        return [*self.served, *self.aliases]

    def model(self, name: str) -> Model | AliasModel | AdapterModel:
        """Raises ApiError for one that is not served."""
        if name in self.aliases:
            alias = self.aliases[name]
            least = min((self.model(model) for model in alias.models), key=lambda one: one["max_model_len"])
            return AliasModel(
                id=name,
                object="model",
                created=self._created,
                owned_by="tradewind",
                max_model_len=least["max_model_len"],
                models=list(alias.models),
                exact=alias.exact,
            )
        if name not in self.served:
            names = ", ".join(map(repr, self.names))
            raise ApiError("model_not_found", f"The model {name!r} does not exist; served: {names}.", "model")
        one = self.served[name]
        longest = one.scheduler.engine.max_len
        plain = Model(id=name, object="model", created=self._created, owned_by="tradewind", max_model_len=longest)
        return plain if one.adapter is None else AdapterModel(**plain, root=one.root, parent=one.parent)

    async def answer(self, wire: Wire, prefix: str, request: Request) -> Response:
        """Raises ApiError. prefix: of the reply's id."""
        model = self.variant(wire.model)
        Meter.of(request.scope).model = model
        identity, now = f"{prefix}-{uuid.uuid4().hex}", int(time.time())

        names = {model} if wire.aggregate is None else {*wire.aggregate.models} & self.served.keys()
        fingerprints = {name: self.served[name].fingerprint for name in names}  # an adapter may go meanwhile

        def call(name: str) -> Call:
            return Call(identity, now, name, fingerprints[name])

        caches = CallCaches(self._cache, request, self._semantic)
        if wire.aggregate is not None:
            response = await self._fanout.answer(wire, wire.aggregate, call, request, caches)
        else:
            response = await self._completions[model].answer(wire, call(model), request, caches)
        Meter.of(request.scope).cached = caches.outcome
        response.headers.update(caches.headers)
        return response
