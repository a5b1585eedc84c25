"""The two applications of Ray Serve: `engine`, replicas of one variant, and `api`, the API over one or more of those.

Their `args` in a `serve.yaml` are `ServeSettings`' own names, over the `serve` section of params.yaml; of `engine`, `slots`
may be a list, which replicas take in turn; of `api`, `engines` names the applications that it answers with, the first
being the main one, and `aliases` gives more names to some of them.
"""

from collections.abc import AsyncIterator, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from fastapi import FastAPI
from ray import serve
from ray.serve.handle import DeploymentHandle

from tradewind.cluster.parcel import Parcel
from tradewind.cluster.remote import Batch, Remote
from tradewind.cluster.replica import EngineFacts, Replica
from tradewind.cluster.replicas import ServeReplicas
from tradewind.cluster.settings import AliasArgs, ApiArgs, EngineArgs
from tradewind.serving.app import create_app
from tradewind.serving.catalog import Alias, Served
from tradewind.serving.keys import keyring
from tradewind.serving.metrics import Metrics
from tradewind.serving.readiness import Loop
from tradewind.serving.telemetry import telemetry
from tradewind.serving.variants import identity, load, load_embeddings, load_tokenizer, start, warm_up

MANY = 10_000
"""Requests that Serve lets through to a replica: how many wait and run is for its scheduler to say."""


@serve.deployment(name="Engine", max_ongoing_requests=MANY, max_constructor_retry_count=2)
class EngineReplica:
    """One engine behind a scheduler."""

    def __init__(self, args: EngineArgs) -> None:
        context = serve.get_replica_context()
        slots = args.slots[context.rank.rank % len(args.slots)]
        settings = replace(args.settings, slots=slots)
        model, engine, tokenizer = load(settings)
        warm_up(engine, tokenizer, settings)
        self.replica = Replica(context.replica_id.unique_id, model, start(model, engine, tokenizer, settings.scheduler))
        self._loop = Loop(self.replica.scheduler)

    async def stream(self, parcel: Parcel) -> AsyncIterator[Batch]:
        async for batch in self.replica.stream(parcel):
            yield batch

    async def facts(self) -> EngineFacts:
        return self.replica.facts

    async def check_health(self) -> None:
        """By a token. Raises RuntimeError where none comes."""
        if not await self._loop():
            raise RuntimeError("the engine makes no token")

    def record_replica_metadata(self) -> dict[str, Any]:
        return {
            "slots": self.replica.scheduler.engine.slots,
            "weights_digest": self.replica.facts.weights_digest,
        }

    def record_routing_stats(self) -> dict[str, Any]:
        return {"state": asdict(self.replica.scheduler.snapshot())}

    def record_autoscaling_stats(self) -> dict[str, float]:
        """For `cluster.scaling.by_wait`. busy: share of the slots that hold an answer."""
        state = self.replica.scheduler.snapshot()
        return {"wait_s": state.wait_s, "busy": state.running / self.replica.scheduler.engine.slots}

    def __del__(self) -> None:
        if hasattr(self, "replica"):
            self.replica.scheduler.close()


@dataclass(frozen=True)
class Reached:
    """An application's engines, and what they are. The handle's router ends with it."""

    app: str
    handle: DeploymentHandle
    facts: EngineFacts

    @classmethod
    async def at(cls, app: str) -> "Reached":
        """Once there is one."""
        handle = serve.get_app_handle(app)
        return cls(app, handle, await handle.facts.remote())


@serve.deployment(name="Api", max_ongoing_requests=MANY)
@serve.ingress()
class ApiReplica:
    """The API. What it knows of a request under way is lost with it."""

    async def __init__(self, args: ApiArgs) -> None:  # type: ignore[misc] # Serve awaits it
        self.args = args
        self.reached = [await Reached.at(app) for app in args.engines]

    def __serve_build_asgi_app__(self) -> FastAPI:
        settings = self.args.settings
        main = self.reached[0].facts
        metrics = Metrics(main.model, main.max_len)
        served = [self._served(one, metrics) for one in self.reached]
        first, *others = served
        return create_app(
            first.scheduler,
            first.tokenizer,
            first.name,
            settings,
            keyring(settings.keys_file),
            metrics,
            telemetry(main.model),
            others,
            aliases={name: self._alias(alias) for name, alias in self.args.aliases.items()},
            identity=first.identity,
            embeddings=load_embeddings(settings),
        )

    def _alias(self, alias: AliasArgs) -> Alias:
        models = {one.app: one.facts.model for one in self.reached}
        return Alias(tuple(models[app] for app in alias.engines), alias.exact)

    def _served(self, one: Reached, metrics: Metrics) -> Served:
        facts = one.facts
        replicas = ServeReplicas(one.handle, one.app, facts)
        observers = metrics.finished_by(facts.model), metrics.failed_over_by(facts.model)
        remote = Remote(replicas, facts, self.args.patience, *observers)
        settings = replace(self.args.settings, model=facts.model, engine=facts.name)
        return Served(facts.model, remote, load_tokenizer(settings), identity(settings, facts.model))


def engine(args: Mapping[str, Any]) -> serve.Application:
    """The builder named by `import_path`. Raises UserError."""
    return EngineReplica.bind(  # type: ignore[attr-defined] # Serve makes it a Deployment
        EngineArgs.of(args)
    )


def api(args: Mapping[str, Any]) -> serve.Application:
    """The builder named by `import_path`. Raises UserError."""
    return ApiReplica.bind(  # type: ignore[attr-defined]
        ApiArgs.of(args)
    )
