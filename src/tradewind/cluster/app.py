"""The two applications of Ray Serve: `engine`, replicas of one variant, and `api`, the API over one or more of those.

Their `args` in a `serve.yaml` are `ServeSettings`' own names, over the `serve` section of params.yaml; of `engine`, `slots`
may be a list, which replicas take in turn; of `api`, `engines` names the applications that it answers with, the first
being the main one, and `aliases` gives more names to some of them.
"""

from collections.abc import AsyncIterator, Mapping
from dataclasses import asdict, replace
from typing import Any

from fastapi import FastAPI
from ray import serve

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
from tradewind.serving.variants import load, load_tokenizer, start, warm_up

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
        return {"wait_s": self.replica.scheduler.snapshot().wait_s}

    def __del__(self) -> None:
        if hasattr(self, "replica"):
            self.replica.scheduler.close()


@serve.deployment(name="Api", max_ongoing_requests=MANY)
@serve.ingress()
class ApiReplica:
    """The API. What it knows of a request under way is lost with it."""

    async def __init__(self, args: ApiArgs) -> None:  # type: ignore[misc] # Serve awaits it
        self.args = args
        self.reached = [(app, await reach(app)) for app in args.engines]

    def __serve_build_asgi_app__(self) -> FastAPI:
        settings = self.args.settings
        _, main = self.reached[0]
        metrics = Metrics(main.model, main.max_len)
        served = [self._served(app, facts, metrics) for app, facts in self.reached]
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
        )

    def _alias(self, alias: AliasArgs) -> Alias:
        models = {app: facts.model for app, facts in self.reached}
        return Alias(tuple(models[app] for app in alias.engines), alias.exact)

    def _served(self, app: str, facts: EngineFacts, metrics: Metrics) -> Served:
        replicas = ServeReplicas(serve.get_app_handle(app), app, facts)
        observers = metrics.finished_by(facts.model), metrics.failed_over_by(facts.model)
        remote = Remote(replicas, facts, self.args.patience, *observers)
        return Served(
            facts.model, remote, load_tokenizer(replace(self.args.settings, model=facts.model, engine=facts.name))
        )


async def reach(app: str) -> EngineFacts:
    """What an application's replicas are, once there is one."""
    return await serve.get_app_handle(app).facts.remote()


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
