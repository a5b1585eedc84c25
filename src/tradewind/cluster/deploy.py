"""A cluster of this machine: Ray started, a plan deployed, updated, and all of it ended again.

The life of an update: 1. the new model's application is deployed beside the old one; where it does not come up, it is
taken away again, and nothing has changed; 2. the API is rolled over to it: a new API replica takes the calls from then on,
the old one ends what it has, on the old model; 3. the old model's application goes.
"""

import fcntl
import logging
import os
import secrets
import signal
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil
import ray
from ray import serve
from ray.serve._private.api import serve_start
from ray.serve.schema import ApplicationStatus

from tradewind.cluster.plan import Json, Plan, schema
from tradewind.cluster.room import ray_cpus
from tradewind.cluster.status import lines
from tradewind.errors import UserError
from tradewind.files import read_json, write_json
from tradewind.load.server import await_ready, terminated_as_exit
from tradewind.serving.server import bind
from tradewind.tracking import home

START_S = 600.0
GLANCE_S = 0.2
SWITCH_S = 2.0
"""In which proxies learn that another API takes the calls."""
OBJECTS = 128 << 20
"""Bytes of Ray's object store, through which no token goes."""
NAMESPACE, NOTE, UPDATE = "serve", "cluster.json", "cluster.update"
FAILED = (ApplicationStatus.DEPLOY_FAILED, ApplicationStatus.UNHEALTHY)


class Cluster:
    """One that runs, with the plan that it runs."""

    def __init__(self, plan: Plan, client: Any, pid: int) -> None:
        self.plan, self._client, self._pid = plan, client, pid

    @property
    def url(self) -> str:
        host = "127.0.0.1" if self.plan.host in ("0.0.0.0", "") else self.plan.host
        return f"http://{host}:{self.plan.port}"

    def deploy(self, plan: Plan) -> None:
        """All of it, until it is ready. Raises UserError where it does not come up."""
        self._client.deploy_apps(schema(plan.config))
        self.plan = plan
        self._note()
        self._await({app["name"] for app in plan.config["applications"]})
        await_ready(self.url)

    def update(self, plan: Plan) -> None:
        """To another main model. Raises UserError where it does not come up, or is not another: all is as before then."""
        before, plan = self.plan, plan.with_new_main(f"engine-{int(time.time())}")
        new, old = plan.engines[0], before.engines[0]
        if new["args"] == old["args"]:
            raise UserError(f"{plan.model} is what is served")
        with alone():
            with self._taken_back(before):
                self._client.deploy_apps(schema(before.beside(new)))
                self._await({new["name"]})
            with self._taken_back(before, new):
                self._client.deploy_apps(schema(plan.beside(old)))
                self._switched(plan)
            self.deploy(plan)

    @contextmanager
    def _taken_back(self, before: Plan, new: Json | None = None) -> Iterator[None]:
        """What fails in the block leaves what was before. new: an application that the API may have turned to; it stays
        until the API has turned back."""
        try:
            yield
        except BaseException:
            if new is not None:
                self._client.deploy_apps(schema(before.beside(new)))
                self._switched(before)
            self._client.deploy_apps(schema(before.config))
            raise

    def _switched(self, plan: Plan) -> None:
        """Until the API is as `plan` says, and proxies know it."""
        self._await({plan.api["name"]})
        time.sleep(SWITCH_S)

    def _note(self) -> None:
        """For `attached`."""
        note = {
            "pid": self._pid,
            "address": ray.get_runtime_context().gcs_address,
            "config": self.plan.config,
            "profile": self.plan.profile,
        }
        write_json(home() / NOTE, note)

    def status(self) -> list[str]:
        """See `cluster.status`."""
        return list(lines(self.plan, self.url, self._client.get_serve_details()))

    def watch(self) -> None:
        """Until SIGINT or SIGTERM."""
        with suppress(KeyboardInterrupt, SystemExit):
            threading.Event().wait()

    def _await(self, names: set[str]) -> None:
        latest, said = time.monotonic() + START_S, ""
        while time.monotonic() < latest:
            found = {name: app for name, app in serve.status().applications.items() if name in names}
            for name, app in found.items():
                if app.status in FAILED:
                    raise UserError(f"application {name} did not come up: {reason(app)}")
            running = [app.status is ApplicationStatus.RUNNING for app in found.values()]
            if set(found) == names and all(running):
                return
            now = ", ".join(f"{name}: {app.status.value.lower()}" for name, app in sorted(found.items()))
            if now != said:
                print(now, flush=True)
                said = now
            time.sleep(GLANCE_S)
        raise UserError(f"{', '.join(sorted(names))} did not come up within {START_S:.0f} s")


def reason(app: Any) -> str:
    """The last line of what its deployments, or it itself, say."""
    said = [one.message for one in app.deployments.values() if one.message] or [app.message]
    lines = [line.strip() for text in said for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else "no reason given"


@contextmanager
def alone() -> Iterator[None]:
    """One update at a time; the lock goes with its process. Raises UserError."""
    with open(home() / UPDATE, "w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError("another update is under way") from None
        yield


@contextmanager
def started(plan: Plan) -> Iterator[Cluster]:
    """Ray and Serve on this machine, ended afterwards; accepted requests end first. Raises UserError where the port is
    taken."""
    if _running() is not None:
        raise UserError(f"a cluster runs already, known to {home()}: end it first, or set TRADEWIND_HOME")
    listener = bind(plan.host, plan.port)
    plan = plan.changed(port=listener.getsockname()[1])
    listener.close()
    _set_up()
    _make_secret(token_file())
    _init(include_dashboard=False, num_cpus=ray_cpus(plan), object_store_memory=OBJECTS, _node_ip_address="127.0.0.1")
    with _ended(), terminated_as_exit():  # after Ray, which sets a handler of its own
        config = schema(plan.config)
        client = serve_start(http_options=config.http_options.model_dump(), proxy_location=config.proxy_location)
        yield Cluster(plan, client, os.getpid())
        _drain(client, plan)


@contextmanager
def _ended() -> Iterator[None]:
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # this is what it asks for
        for name in (NOTE, UPDATE):
            (home() / name).unlink(missing_ok=True)
        serve.shutdown()
        ray.shutdown()


@contextmanager
def attached() -> Iterator[Cluster]:
    """To the one that `up` runs. Raises UserError where there is none."""
    known = _running()
    if known is None:
        raise UserError("no cluster runs here: `make cluster` starts one")
    host, _, port = known["address"].rpartition(":")
    try:
        socket.create_connection((host, int(port)), 2).close()
    except OSError as error:  # Ray itself would try for minutes
        raise UserError(f"the cluster at {known['address']} does not answer: {error}") from None
    _set_up()
    _init(address=known["address"])
    try:
        with terminated_as_exit():  # what is half done is taken back
            yield Cluster(Plan(known["config"], known["profile"]), serve.context._get_global_client(), known["pid"])
    finally:
        ray.shutdown()


def _running() -> Json | None:
    """The note of the cluster that runs here."""
    note = home() / NOTE
    known: Json | None = read_json(note) if note.is_file() else None
    return known if known is not None and psutil.pid_exists(known["pid"]) else None


def _drain(client: Any, plan: Plan) -> None:
    """No new calls; accepted ones end, as far as the API's settings give them time."""
    client.delete_apps([plan.api["name"]], blocking=False)
    latest = time.monotonic() + plan.drain_seconds
    while plan.api["name"] in serve.status().applications and time.monotonic() < latest:
        time.sleep(GLANCE_S)


def _make_secret(path: Path) -> None:
    """Where there is none yet, for a process reads it once. Its owner alone can, from the first moment on."""
    with suppress(FileExistsError), open(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "w") as file:
        file.write(secrets.token_hex(32))


def _set_up() -> None:
    home().mkdir(parents=True, exist_ok=True)
    os.environ["RAY_AUTH_TOKEN_PATH"] = str(token_file())


def token_file() -> Path:
    """The secret of clusters started here: who has it may run anything as this user."""
    return home() / "cluster.token"


def _init(**options: Any) -> None:
    ray.init(namespace=NAMESPACE, log_to_driver=False, logging_level=logging.WARNING, **options)
