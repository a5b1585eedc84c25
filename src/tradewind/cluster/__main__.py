"""Serve a variant by several replicas on Ray Serve: `python -m tradewind.cluster up [serve.yaml]` stays in the foreground.

`update --model NAME` replaces the model of a running cluster, and no call by an alias fails; `check serve.yaml` says what is
wrong with a file and deploys nothing; `status` says what runs. SIGTERM lets accepted requests end.
"""

import argparse
import logging
from pathlib import Path

from tradewind.cluster import room
from tradewind.cluster.deploy import attached, started
from tradewind.cluster.plan import Plan
from tradewind.cluster.routing import STRATEGIES
from tradewind.config import PROFILES, run
from tradewind.engine import ENGINES
from tradewind.errors import UserError
from tradewind.serving.planned import read_planned

SERVE_YAML = Path("serve.yaml")


def main() -> None:
    given = arguments()
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s")
    given.do(given)


def up(given: argparse.Namespace) -> None:
    plan = plan_of(given)
    with started(plan) as cluster:
        cluster.deploy(cluster.plan)
        print(f"serving {plan.model} by {plan.replicas} replicas at {cluster.url}/v1", flush=True)
        cluster.watch()
        print("ending: accepted calls are answered first", flush=True)
    print("ended", flush=True)


def update(given: argparse.Namespace) -> None:
    with attached() as cluster:
        changes = {name: getattr(given, name) for name in ("model", "engine", "variants")}
        cluster.update(cluster.plan.changed(**changes))
        print(f"serving {cluster.plan.model} at {cluster.url}/v1")


def check(given: argparse.Namespace) -> None:
    plan = plan_of(given)
    print(f"{given.file}: {plan.model} by {plan.replicas} replicas at {plan.host}:{plan.port}")


def status(given: argparse.Namespace) -> None:
    with attached() as cluster:
        print("\n".join(cluster.status()))


def arguments(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tradewind.cluster", description=(__doc__ or "").split("\n")[0])
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for do, text in ((up, "deploy and stay in the foreground"), (check, "say what is wrong with a file")):
        command = commands.add_parser(do.__name__, help=text)
        command.set_defaults(do=do)
        command.add_argument("file", nargs="?", type=Path, default=SERVE_YAML)
        command.add_argument("--profile", choices=PROFILES, help="whose variants and champion: that of params.yaml")
        command.add_argument(
            "--plan", type=Path, help="of `python -m tradewind.hardware plan`: its model, its replicas, ..."
        )
        command.add_argument("--model", help="champion, or a variant")
        command.add_argument("--engine", choices=ENGINES)
        command.add_argument("--routing", choices=STRATEGIES)
        command.add_argument("--replicas", help="a number, or 1-4: as many as keep waits short (what the file says)")
        for name in ("port", "slots", "threads"):
            command.add_argument(f"--{name}", type=int, help="what the file says")
    command = commands.add_parser("update", help="replace the model of the cluster that runs here")
    command.add_argument("--model", required=True)
    command.add_argument("--engine", choices=ENGINES)
    command.add_argument("--variants", help="the folder that the model is in")
    command.set_defaults(do=update)
    commands.add_parser("status", help="what runs here").set_defaults(do=status)
    return parser.parse_args(argv)


def plan_of(given: argparse.Namespace) -> Plan:
    names = ("replicas", "port", "model", "engine", "routing", "slots", "threads")
    planned, replicas = read_planned(given.plan) if given.plan else ({}, None)
    before = {**planned, "replicas": replicas and str(replicas)}
    changes = {name: before.get(name) if getattr(given, name) is None else getattr(given, name) for name in names}
    plan = Plan.read(given.file, given.profile, planned, **changes)
    try:
        room.check(plan)
    except UserError as error:
        raise UserError(f"{given.file}: {error}") from None
    return plan


if __name__ == "__main__":
    run(main)
