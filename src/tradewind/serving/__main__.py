"""Serve a variant in the foreground: `python -m tradewind.serving --model NAME --engine ort --port 8000`.

Values come from the `serve` section of params.yaml, where there is one, and the command line. API keys come from a file
of hashes (TRADEWIND_KEYS_FILE; see `serving.keys`) and from TRADEWIND_API_KEYS (separated by commas); without keys only
a loopback address is served. SIGTERM lets accepted requests end.
"""

import signal

if (
    __name__ == "__main__"
):  # until it serves, the libraries that it loads would swallow an interrupt or make a mess of it
    signal.signal(signal.SIGINT, signal.SIG_DFL)

import argparse
import ipaddress
import logging
from contextlib import nullcontext
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from tradewind.caching.node import redis_node
from tradewind.config import PROFILES, build, read_params, run
from tradewind.engine import ENGINES, Engine
from tradewind.errors import UserError
from tradewind.serving.adapters import load_adapters
from tradewind.serving.app import create_app
from tradewind.serving.catalog import Served
from tradewind.serving.keys import KEYS_VARIABLE, Keyring, keyring
from tradewind.serving.limits import open_storage
from tradewind.serving.metrics import Metrics
from tradewind.serving.planned import read_planned
from tradewind.serving.server import bind, serve
from tradewind.serving.settings import ServeSettings
from tradewind.serving.telemetry import telemetry
from tradewind.serving.variants import identity, load, load_beside, load_embeddings, start, warm_up
from tradewind.tracking import home

log = logging.getLogger(__name__)


def main() -> None:
    settings, profile = settings_from(arguments())
    with redis_node(settings.cache_redis_mib << 20) if settings.cache == "redis" else nullcontext() as node:
        run_server(settings if node is None else replace(settings, cache=node.url), profile)


def run_server(settings: ServeSettings, profile: str) -> None:
    """Until it is told to end."""
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s")
    keys = keyring(settings.keys_file)
    refuse_open_bind(settings.host, keys)
    if settings.adapters_dir and not Path(settings.adapters_dir).is_dir():  # before anything is loaded
        raise UserError(f"--adapters-dir {settings.adapters_dir}: no such folder")
    listener = bind(settings.host, settings.port)
    storage = open_storage(settings.limits_storage) if keys else None
    if settings.engine == "jax":
        from tradewind.engine.jax import keep_compiled

        keep_compiled(home() / "jax")
    loaded = load(settings, profile)
    beside = list(load_beside(loaded[0], settings, profile))
    model, engine, _ = loaded
    adapters = load_adapters(engine, settings.adapter)
    embeddings = load_embeddings(settings)
    metrics, traces = Metrics(model, engine.max_len), telemetry(model)
    for _, one, tokenizer in (loaded, *beside):  # all before the first loop measures its speed
        warm_up(one, tokenizer, settings)
        print(memory_bill(one), flush=True)
    first, *others = [
        Served(
            name,
            start(name, one, tokenizer, settings.scheduler, metrics.finished_by(name)),
            tokenizer,
            identity(settings, name),
        )
        for name, one, tokenizer in (loaded, *beside)
    ]
    app = create_app(
        first.scheduler,
        first.tokenizer,
        model,
        settings,
        keys,
        metrics,
        traces,
        others,
        storage,
        identity=first.identity,
        embeddings=embeddings,
        adapters=adapters,
    )
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        serve(app, listener, model, settings, on_exit=app.state.readiness.drain)
    finally:
        if traces is not None:
            traces.close()


def arguments(argv: list[str] | None = None) -> argparse.Namespace:
    """Options left out are None. Unknown ones end with exit code 2, as argparse does it."""
    parser = argparse.ArgumentParser(
        prog="python -m tradewind.serving",
        description=(__doc__ or "").split("\n")[0],
        epilog="The `serve` section of params.yaml, where there is one, comes before these defaults.",
    )
    for field in fields(ServeSettings):
        several: dict[str, Any] = (
            {"nargs": "+", "type": str, "action": "extend"} if isinstance(field.default, tuple) else {}
        )
        kind = {"type": type(field.default), **several}
        default = " ".join(field.default) if isinstance(field.default, tuple) else str(field.default)
        text = f"{field.metadata['help']} (default: {default or 'none'})"
        parser.add_argument(f"--{field.name.replace('_', '-')}", help=text, **kind)
    parser.add_argument("--plan", type=Path, metavar="FILE", help="of `python -m tradewind.hardware plan`: its values come "
                        "before these defaults, too")  # fmt: skip
    parser.add_argument("--profile", help="whose variants and champion (default: that of params.yaml)")
    return parser.parse_args(argv)


def settings_from(given: argparse.Namespace) -> tuple[ServeSettings, str]:
    """The settings and the profile that the champion belongs to. Raises UserError."""
    folder = run_folder(given.profile)
    params = read_params(folder / "params.yaml") if (folder / "params.yaml").is_file() else {}
    planned, replicas = read_planned(given.plan) if given.plan else ({}, 1)
    if replicas > 1:
        raise UserError(f"{given.plan} is for {replicas} replicas: `make cluster PLAN={given.plan}` starts them")
    settings = build(ServeSettings, {**params.get("serve", {}), **planned}, "serve")
    settings = replace(settings, variants=str(folder / settings.variants), encoder=str(folder / settings.encoder))
    options = {
        name: value for name, value in vars(given).items() if value is not None and name not in ("profile", "plan")
    }
    options = {name: tuple(value) if isinstance(value, list) else value for name, value in options.items()}
    settings = replace(settings, **options)
    if settings.engine not in ENGINES:
        raise UserError(f"unknown engine {settings.engine!r} (choices: {', '.join(ENGINES)})")
    return settings, given.profile or str(params.get("profile", "cpu"))


def run_folder(profile: str | None) -> Path:
    """Where a profile's run lies, seen from the repository: `cpu` in its root, the others in a working copy."""
    if profile not in (None, *PROFILES):
        raise UserError(f"unknown profile {profile!r} (choices: {', '.join(PROFILES)})")
    here = Path("params.yaml")
    if profile in (None, "cpu") or (here.is_file() and read_params(here).get("profile") == profile):
        return Path()
    copy = Path(".tradewind") / "runs" / str(profile)
    if not copy.is_dir():
        raise UserError(f"profile {profile} has no run here: `make repro PROFILE={profile}` makes one")
    return copy


def refuse_open_bind(host: str, keys: Keyring) -> None:
    """Raises UserError where others than this machine could call without a key."""
    try:
        loopback = host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        loopback = False
    if not loopback and not keys:
        raise UserError(
            f"host {host} is open to others: make a key (python -m tradewind.serving.keys new --file FILE) and give "
            f"--keys-file FILE, or set {KEYS_VARIABLE}"
        )


def memory_bill(engine: Engine) -> str:
    """What the slots cost, in one line."""
    mib = engine.kv_bytes / 2**20
    return f"engine {engine.name}: {engine.slots} slots of {engine.max_len} tokens, {mib:.1f} MiB of keys and values"


if __name__ == "__main__":
    run(main)
