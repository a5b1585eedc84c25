"""One load test from its settings: Locust without its page, in a process of its own, bounded in time.

The scenario is a Locust file of loadtests/; who answers is a URL, or a server started here and stopped after it. For
`failover` that is a cluster of two replicas, one of which is killed in the middle of the run, and every KILL_EVERY_S after;
for `caching` it is one with a cache and one without.
"""

import subprocess
import sys
import tempfile
from collections.abc import Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tradewind.caching.node import redis_node
from tradewind.errors import UserError
from tradewind.files import read_json
from tradewind.load.caching import NAME as CACHING
from tradewind.load.caching import UNTIL, CachingSettings, held, measure_caching
from tradewind.load.faults import Part, killing
from tradewind.load.results import Slo, measure
from tradewind.load.server import START_SECONDS, await_ready, served, started
from tradewind.tracking import Measurement

ENDING_SECONDS = 30
"""How long answers that run at the end may go on."""
CLUSTERED = "failover"
KILL_EVERY_S, KILLS = 20.0, (0.5, 0.6)
"""Between two kills, and the shares of the run between which they come: the client's start must not move them out of the
second third."""
CACHING_PARTS = 10
"""Of the seconds of `caching`, those that each phase lasts."""
WARMING_SECONDS = 900
"""What its warm-up, which is so many requests, may take beyond them."""
MEMORY = "memory"
SHARED = ("sse.py", "arrivals.py", "__init__.py")


@dataclass(frozen=True)
class LoadSettings:
    """users: requests that run at once. seconds: of the whole run, the first `warm_up` of which do not count.

    prompt_words, answer_tokens: of each request, or their medians, with the `spread` of their logarithms. rate: arrivals a
    second, where a scenario has such. slo_ttft_ms, slo_itl_ms: what an answer keeps that counts as goodput. model and
    engine are those of the server that is started here. caching: of the load test of that name.
    """

    scenario: str = "steady"
    model: str = "student-int8"
    engine: str = "ort"
    users: int = 4
    seconds: int = 40
    warm_up: float = 5.0
    prompt_words: int = 64
    answer_tokens: int = 64
    spread: float = 0.0
    rate: float = 1.0
    slo_ttft_ms: float = 5000.0
    slo_itl_ms: float = 250.0
    caching: CachingSettings = field(default_factory=CachingSettings)


@dataclass(frozen=True)
class Outcome:
    """What one run gave. model: the name that the server gave the model that was asked."""

    settings: LoadSettings
    seed: int
    measurements: list[Measurement]
    model: str


def locustfile(name: str, folder: Path = Path("loadtests")) -> Path:
    """Raises UserError with the choices."""
    choices = sorted(path.stem for path in folder.glob("*.py") if path.name not in SHARED)
    if name not in choices:
        fault = f"unknown load test {name!r}" if name else "name a load test, as in `make load SCENARIO=steady`"
        raise UserError(f"{fault} (choices: {', '.join(choices) or 'none: no loadtests/ here'})")
    return folder / f"{name}.py"


def run_scenario(settings: LoadSettings, seed: int, url: str | None = None, server: tuple[str, ...] = ()) -> Outcome:
    """Drive `url`, or a server of our own started with the options `server` too. Raises UserError."""
    path = locustfile(settings.scenario)
    if settings.seconds <= settings.warm_up:
        raise UserError(f"loadtest: seconds ({settings.seconds}) must exceed warm_up ({settings.warm_up})")
    if settings.scenario == CACHING:
        return _run_caching(path, settings, seed, url, server)
    clustered = settings.scenario == CLUSTERED
    if url and clustered:
        raise UserError(
            f"{CLUSTERED} kills replicas of a cluster of its own: leave the URL out (steady asks a cluster that runs)"
        )
    own = _cluster(settings, server) if clustered else _server(settings, server)
    with nullcontext(url) if url else own as target:
        host = str(target).rstrip("/").removesuffix("/v1")
        await_ready(host, 30)
        model = served(host)
        with killing(Part.REPLICA, kills(settings) if clustered else ()) as victims:
            raw = drive(path, host, settings, seed)
    slo = Slo(settings.slo_ttft_ms, settings.slo_itl_ms)
    found = measure(raw, settings.warm_up, seed, slo)
    if clustered:
        found.append(Measurement("kills", len(victims), "replicas", None, None, "killed with SIGKILL by the run", seed))
    return Outcome(settings, seed, found, model)


def _run_caching(path: Path, settings: LoadSettings, seed: int, url: str | None, server: tuple[str, ...]) -> Outcome:
    """Against `url`, or servers of our own, which never work at the same time."""
    given = settings.caching
    if given.store not in (MEMORY, "redis"):
        raise UserError(f"caching: store {given.store!r}: choose memory or redis")
    if given.until not in UNTIL:
        raise UserError(f"caching: no phase {given.until!r} to end with: choose {', '.join(UNTIL[1:])}")
    options = [*given.options, "--closed-users", str(settings.users)]
    options += ["--phase-seconds", str(settings.seconds / CACHING_PARTS)]
    with ExitStack() as stack:
        cache = MEMORY
        if given.store != MEMORY and not url:
            node = stack.enter_context(redis_node())
            cache = node.url
            options += ["--store-pid", str(node.pid)]
        own = (*server, *given.server(cache))
        target = url or stack.enter_context(_server(settings, own))
        host = target.rstrip("/").removesuffix("/v1")
        await_ready(host, 30)
        model = served(host)
        if cache != MEMORY:
            options += ["--elsewhere", stack.enter_context(_server(settings, own))]
        if not url and not given.until:
            options += ["--uncached", stack.enter_context(_server(settings, (*server, "--cache", "none")))]
        raw = drive(path, host, settings, seed, options, WARMING_SECONDS)
        entry = held(host)
    return Outcome(settings, seed, measure_caching(raw, given, seed, entry), model)


def _server(settings: LoadSettings, options: tuple[str, ...]) -> AbstractContextManager[str]:
    return started(["--model", settings.model, "--engine", settings.engine, *options])


def _cluster(settings: LoadSettings, options: tuple[str, ...]) -> AbstractContextManager[str]:
    chosen = ["--model", settings.model, "--engine", settings.engine, "--replicas", "2"]
    return started(["up", *chosen, *options], module="tradewind.cluster")


def kills(settings: LoadSettings) -> list[float]:
    """Seconds of the run."""
    first, last = (share * settings.seconds for share in KILLS)
    return [first + number * KILL_EVERY_S for number in range(1 + int((last - first) / KILL_EVERY_S))]


def drive(
    path: Path, host: str, settings: LoadSettings, seed: int, options: Sequence[str] = (), more_seconds: int = 0
) -> dict[str, Any]:
    """Run Locust and give its timings. Exit code 1 only says that requests failed, which the timings say too. more_seconds:
    that it may take beyond those of the settings, where it ends by itself."""
    seconds = settings.seconds + more_seconds
    with tempfile.TemporaryDirectory() as folder:
        raw = Path(folder) / "raw.json"
        command = [sys.executable, "-m", "locust", "--locustfile", str(path), "--host", host, "--headless"]
        command += ["--users", str(settings.users), "--spawn-rate", str(settings.users), "--only-summary"]
        command += ["--run-time", f"{seconds}s", "--stop-timeout", str(ENDING_SECONDS)]
        command += ["--prompt-words", str(settings.prompt_words), "--answer-tokens", str(settings.answer_tokens)]
        command += ["--spread", str(settings.spread), "--rate", str(settings.rate)]
        command += options
        command += ["--seed", str(seed), "--raw", str(raw), "--loglevel", "WARNING"]
        try:
            ended = subprocess.run(command, timeout=START_SECONDS + seconds + ENDING_SECONDS, check=False)
        except subprocess.TimeoutExpired:
            raise UserError(f"load test {path.stem} did not end in time") from None
        if ended.returncode not in (0, 1) or not raw.is_file():
            raise UserError(f"load test {path.stem} broke off with exit code {ended.returncode}")
        return dict(read_json(raw))
