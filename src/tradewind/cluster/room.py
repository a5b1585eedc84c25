"""Whether this machine can run a plan: said before anything is deployed, where Ray would wait for what never comes.

Not covered: what other programs of the machine use, weights, accelerators.
"""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil

from tradewind.cluster.plan import Json, Plan
from tradewind.cluster.settings import EngineArgs
from tradewind.errors import UserError
from tradewind.files import read_json
from tradewind.serving.__main__ import refuse_open_bind
from tradewind.serving.keys import keyring
from tradewind.serving.server import bind
from tradewind.serving.settings import ServeSettings
from tradewind.serving.variants import MOCK

THREADS = 16
"""Of an engine at most, for each core of the machine."""
FLOAT = 4
"""Bytes of a key's or a value's number."""


def check(plan: Plan) -> None:
    """Raises UserError with the first thing that cannot be."""
    refuse_open_bind(plan.host, keyring(plan.keys_file))
    bind(plan.host, 0).close()
    asked, given = sum(cpus(app) for app in plan.config["applications"]), ray_cpus(plan)
    if asked > given:
        raise UserError(
            f"ray_actor_options: the replicas ask for {asked:g} CPUs together, where Ray counts {given} (of "
            f"{os.cpu_count()} cores): they would never start"
        )
    for app in plan.engines:
        settings = EngineArgs.of(app["args"])
        where = f"application {app['name']}: args"
        if settings.settings.threads > THREADS * (os.cpu_count() or 1):
            raise UserError(f"{where}.threads: {settings.settings.threads} are too many for {os.cpu_count()} cores")
        if settings.settings.engine != MOCK:
            _check_lengths(settings, where)


def ray_cpus(plan: Plan) -> int:
    """That Ray counts on this machine: replicas share the cores, with room for an update beside what runs."""
    return max(os.cpu_count() or 1, 2 * plan.most_replicas)


def cpus(app: Json) -> float:
    """That Ray sets aside for an application's replicas at their most."""
    return sum(most * float((one.get("ray_actor_options") or {}).get("num_cpus", 1)) for one, most in _deployments(app))


def _deployments(app: Json) -> Iterator[tuple[Json, int]]:
    for one in app.get("deployments", ()):
        scaling = one.get("autoscaling_config") or {}
        yield one, int(scaling.get("max_replicas") or one.get("num_replicas") or 1)


def _check_lengths(args: EngineArgs, where: str) -> None:
    settings, model = args.settings, manifest(args.settings)
    longest = model["max_position"]
    if settings.max_len > longest:
        raise UserError(f"{where}.max_len: {settings.max_len} is beyond the {longest} positions of {settings.model}")
    config, slots = model["config"], max(args.slots)
    token = 2 * config["num_layers"] * config["num_kv_heads"] * config["head_dim"] * FLOAT
    needed, there = slots * settings.max_len * token, psutil.virtual_memory().total
    if needed > there:
        raise UserError(
            f"{where}.slots: {slots} of {settings.max_len} tokens take {needed / 2**30:,.0f} GiB of keys and values, "
            f"where this machine has {there / 2**30:,.0f} GiB"
        )


def manifest(settings: ServeSettings) -> dict[str, Any]:
    return dict(read_json(Path(settings.variants) / settings.model / "manifest.json"))
