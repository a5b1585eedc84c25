"""Serve a variant in the foreground: `python -m tradewind.serving --model NAME --engine ort --port 8000`.

Values come from the `serve` section of params.yaml, where there is one, and the command line. API keys come from
TRADEWIND_API_KEYS (separated by commas); without keys only a loopback address is served. SIGTERM lets running answers
end.
"""

import argparse
import ipaddress
import logging
import os
import signal
import socket
from dataclasses import fields, replace
from pathlib import Path

import uvicorn

from tradewind.config import PROFILES, build, read_params, run
from tradewind.engine import ENGINES, Engine
from tradewind.engine.scheduler import Scheduler
from tradewind.errors import UserError
from tradewind.serving.app import create_app
from tradewind.serving.settings import ServeSettings
from tradewind.serving.variants import load


def main() -> None:
    settings, profile = settings_from(arguments())
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s")
    keys = api_keys()
    refuse_open_bind(settings.host, keys)
    listener = bind(settings.host, settings.port)
    model, engine, tokenizer = load(settings, profile)
    engine.warm_up()
    print(memory_bill(engine), flush=True)
    app = create_app(Scheduler(engine, tokenizer, settings.scheduler), tokenizer, model, settings, keys)
    serve(app, listener, model, settings.drain_seconds)


def arguments(argv: list[str] | None = None) -> argparse.Namespace:
    """Options left out are None. Unknown ones end with exit code 2, as argparse does it."""
    parser = argparse.ArgumentParser(prog="python -m tradewind.serving", description=(__doc__ or "").split("\n")[0])
    for field in fields(ServeSettings):
        kind = int if isinstance(field.default, int) else str
        parser.add_argument(f"--{field.name.replace('_', '-')}", type=kind, help=f"{field.default}")
    parser.add_argument("--profile", help="whose variants and champion: that of params.yaml")
    return parser.parse_args(argv)


def settings_from(given: argparse.Namespace) -> tuple[ServeSettings, str]:
    """The settings and the profile that the champion belongs to. Raises UserError."""
    folder = run_folder(given.profile)
    params = read_params(folder / "params.yaml") if (folder / "params.yaml").is_file() else {}
    settings = build(ServeSettings, params.get("serve", {}), "serve")
    settings = replace(settings, variants=str(folder / settings.variants))
    options = {name: value for name, value in vars(given).items() if value is not None and name != "profile"}
    settings = replace(settings, **options)
    if settings.engine not in ENGINES:
        raise UserError(f"unknown engine {settings.engine!r}; choose one of {', '.join(ENGINES)}")
    return settings, given.profile or str(params.get("profile", "cpu"))


def run_folder(profile: str | None) -> Path:
    """Where a profile's run lies, seen from the repository: `cpu` in its root, the others in a working copy."""
    if profile not in (None, *PROFILES):
        raise UserError(f"unknown profile {profile!r}; choose one of {', '.join(PROFILES)}")
    copy = Path(".tradewind") / "runs" / str(profile)
    return copy if profile not in (None, "cpu") and copy.is_dir() else Path()


def api_keys() -> tuple[str, ...]:
    return tuple(key.strip() for key in os.environ.get("TRADEWIND_API_KEYS", "").split(",") if key.strip())


def refuse_open_bind(host: str, keys: tuple[str, ...]) -> None:
    """Raises UserError where others than this machine could call without a key."""
    try:
        loopback = host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        loopback = False
    if not loopback and not keys:
        raise UserError(f"host {host} is open to others: set TRADEWIND_API_KEYS, or serve 127.0.0.1")


def bind(host: str, port: int) -> socket.socket:
    """Port 0 takes a free one. Bound before weights are loaded, so that a taken port is known at once."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except (OSError, OverflowError) as error:
        listener.close()
        raise UserError(f"cannot serve {host} port {port}: {error}") from None
    return listener


def memory_bill(engine: Engine) -> str:
    """What the slots cost, in one line."""
    mib = engine.kv_bytes / 2**20
    return f"engine {engine.name}: {engine.slots} slots of {engine.max_len} tokens, {mib:.1f} MiB of keys and values"


class Server(uvicorn.Server):
    """Says where it serves once it does."""

    def __init__(self, config: uvicorn.Config, line: str) -> None:
        super().__init__(config)
        self.line = line

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if not self.should_exit:
            print(self.line, flush=True)


def serve(app: object, listener: socket.socket, model: str, drain_seconds: int) -> None:
    """Until SIGINT or SIGTERM; then no new connection, and running answers have `drain_seconds` to end."""
    host, port = listener.getsockname()[:2]
    shown = f"[{host}]" if ":" in host else host
    config = uvicorn.Config(
        app,  # type: ignore[arg-type]
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=drain_seconds,
    )
    # The server passes the signal on when it is done; having done what it asks for, the process ends with 0.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    Server(config, f"serving {model} at http://{shown}:{port}/v1").run(sockets=[listener])


if __name__ == "__main__":
    run(main)
