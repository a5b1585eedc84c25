"""What was measured: one record per run as JSON under reports/runs/, imported into MLflow, and the registry of variants.

The life of a run: a stage opens it with `record_run`; it logs `Measurement`s; the record is written when the stage
ends without error; `import_runs` (in the report stage and before the MLflow page opens) logs every record that the
MLflow store lacks, keyed by the tag `tradewind.run_id`. So a fresh clone, or a stage restored from a cache, shows its
runs too. Only this module uses MLflow.
"""

import csv
import io
import json
import logging
import os
import re
import secrets
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

import psutil

from tradewind import host
from tradewind.errors import UserError
from tradewind.files import read_json, write_json

if TYPE_CHECKING:
    from mlflow import MlflowClient

RUNS = Path("reports/runs")
NAME = re.compile(r"[\w\-. :/]+")
"""What MLflow takes as the name of a metric."""
_recorded: datetime | None = None  # when this process ended its last run


@dataclass(frozen=True)
class Measurement:
    """One measured value: `interval` is a 95 % interval unless the formula says otherwise, `n` its denominator."""

    name: str
    value: float | None
    unit: str
    n: int | None = None
    interval: tuple[float, float] | None = None
    formula: str = ""
    seed: int | None = None


@dataclass
class Run:
    """An open run: log measurements and artifact paths into it."""

    run_id: str
    stage: str
    question: str
    variant: str | None = None
    params: dict[str, Any] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    measurements: list[Measurement] = field(default_factory=list)
    artifacts: list[str] = field(default_factory=list)

    def log(self, measurement: Measurement) -> None:
        if not NAME.fullmatch(measurement.name):
            raise ValueError(f"MLflow takes no measurement of the name {measurement.name!r}")
        self.measurements.append(measurement)

    def artifact(self, path: str | Path) -> None:
        """A file to show beside the run (relative to the repository)."""
        self.artifacts.append(str(path))


@contextmanager
def record_run(
    *,
    stage: str,
    question: str,
    path: str | Path,
    variant: str | None = None,
    params: dict[str, Any] | None = None,
    tags: dict[str, str] | None = None,
) -> Iterator[Run]:
    """A run whose record is written to `path` when the block ends without error.

    It starts where this process, or the run before it here, left off: what is measured before a record is opened counts.
    """
    global _recorded
    started = _recorded or datetime.fromtimestamp(psutil.Process().create_time(), UTC)
    name = "-".join(part for part in (stage, variant) if part)
    run_id = f"{name}-{started:%Y%m%dT%H%M%S}-{secrets.token_hex(2)}"
    run = Run(run_id, stage, question, variant, dict(params or {}), dict(tags or {}))
    yield run
    _recorded = datetime.now(UTC)
    seconds = (_recorded - started).total_seconds()
    record = asdict(run) | {
        "started": started.isoformat(timespec="seconds"),
        "seconds": round(seconds, 3),
        "device": host.device(),
        "host": host.facts(),
        "git_commit": git_commit(),
    }
    write_json(path, record)
    print(f"run {run.run_id} -> {path}")


def git_commit() -> str | None:
    """The commit that the working tree stands on, with `-dirty` where tracked files differ from it; what runs write
    (reports/, the dvc.lock files) does not count."""
    commit = _git("rev-parse", "--short=12", "HEAD")
    top = _git("rev-parse", "--show-toplevel")
    if not commit or not top:
        return None
    written = (":(top,exclude)reports", ":(top,exclude)dvc.lock", ":(top,exclude,glob)studies/*/dvc.lock")
    changed = _git("-C", top, "status", "--porcelain", "--untracked-files=no", "--", ".", *written)
    return f"{commit}-dirty" if changed else commit


def _git(*arguments: str) -> str:
    """What git prints; nothing where it fails."""
    answer = subprocess.run(["git", *arguments], capture_output=True, text=True, check=False)
    return answer.stdout.strip()


def home() -> Path:
    """Where local state lives: TRADEWIND_HOME, or .tradewind in the working folder."""
    return Path(os.environ.get("TRADEWIND_HOME", ".tradewind")).resolve()


def tracking_uri() -> str:
    return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{home() / 'mlflow.db'}"


def client() -> "MlflowClient":
    """Raises UserError where the store cannot be opened, as after a kill while it was made."""
    logging.getLogger("alembic").setLevel(logging.WARNING)
    import mlflow
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    home().mkdir(parents=True, exist_ok=True)
    mlflow.set_tracking_uri(tracking_uri())
    try:
        return mlflow.MlflowClient()
    except (MlflowException, SQLAlchemyError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(
            f"{tracking_uri()} is no usable MLflow store ({reason}); a local one may be deleted: runs are imported anew"
        ) from None


def import_runs(folder: str | Path = RUNS, client_: "MlflowClient | None" = None) -> int:
    """Log every record under `folder` (reports/runs of a run) that the MLflow store lacks; returns how many there were.
    One that is there keeps its figures, and gets the name and the part that it would get now."""
    store = client_ or client()
    imported = 0
    for path in sorted(Path(folder).rglob("*.json")):
        record = read_json(path)
        experiment = _experiment(store, record["question"])
        wanted = f"tags.`tradewind.run_id` = '{record['run_id']}'"
        known = store.search_runs([experiment], wanted, max_results=1)
        if not known:
            _import_run(store, experiment, record, Path(folder).resolve().parent.parent)
            imported += 1
        elif known[0].info.run_name != run_name(record):
            store.update_run(known[0].info.run_id, name=run_name(record))
            store.set_tag(known[0].info.run_id, "part", part(record))
    return imported


def _experiment(store: "MlflowClient", name: str) -> str:
    if found := store.get_experiment_by_name(name):
        return str(found.experiment_id)
    local = tracking_uri().startswith("sqlite:")
    return store.create_experiment(name, (home() / "mlartifacts" / name).as_uri() if local else None)


def part(record: dict[str, Any]) -> str:
    """What a record measured of its stage, by its parameters: parts of a benchmark, replicas; empty where it is the whole."""
    params = record["params"]
    parts = params.get("parts", [])
    if record["stage"] == "planning" and "replicas" in params:
        parts = [f"{params['replicas']}-replica{'' if params['replicas'] == 1 else 's'}"]
    return "-".join(parts)


def run_name(record: dict[str, Any]) -> str:
    """The run's id, with its part behind the stage: cluster-routing-teacher-int8-20261124T012415-a5b0."""
    stage, told = record["stage"], part(record)
    return "-".join(one for one in (stage, told, record["run_id"].removeprefix(f"{stage}-")) if one)


def as_csv(record: dict[str, Any]) -> str:
    """The record's measurements as a table, which MLflow's page shows as one."""
    lines = io.StringIO()
    writer = csv.writer(lines)
    writer.writerow(("name", "value", "low", "high", "unit", "n", "formula"))
    for row in record["measurements"]:
        low, high = row["interval"] or (None, None)
        writer.writerow((row["name"], row["value"], low, high, row["unit"], row["n"], row["formula"]))
    return lines.getvalue()


def _import_run(store: "MlflowClient", experiment: str, record: dict[str, Any], root: Path) -> None:
    """The tag that tells an imported run comes last: what a kill leaves half made is imported anew."""
    from mlflow.entities import Metric, Param, RunTag

    started = int(datetime.fromisoformat(record["started"]).timestamp() * 1000)
    run = store.create_run(experiment, start_time=started, run_name=run_name(record))
    run_id = run.info.run_id
    values = [(m["name"], m["value"]) for m in record["measurements"] if m["value"] is not None]
    values += [(f"{m['name']}.{end}", v) for m in record["measurements"] if m["interval"]
               for end, v in zip(("low", "high"), m["interval"], strict=True)]  # fmt: skip
    store.log_batch(
        run_id,
        metrics=[Metric(name, value, started, 0) for name, value in values],
        params=[Param(name, str(value)[:500]) for name, value in flatten(record["params"]).items()],
        tags=[RunTag(name, value) for name, value in _tags(record).items()],
    )
    store.log_dict(run_id, record, "record.json")
    store.log_text(run_id, as_csv(record), "measurements.csv")
    for path in record["artifacts"]:
        if (root / path).exists():
            store.log_artifact(run_id, str(root / path))
    store.set_terminated(run_id, end_time=started + int(1000 * record["seconds"]))
    store.set_tag(run_id, "tradewind.run_id", record["run_id"])


def _tags(record: dict[str, Any]) -> dict[str, str]:
    named = {key: record[key] for key in ("stage", "variant", "device", "git_commit") if record[key]}
    named |= {"part": told} if (told := part(record)) else {}
    return {**named, **record["tags"]}


def flatten(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """{"a": {"b": 1}} -> {"a.b": 1}."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        flat |= flatten(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return flat


def registered_model(profile: str) -> str:
    """Each profile has a registered model of its own: a nano variant can never become the champion of cpu."""
    return f"tradewind-{profile}"


def register_variant(name: str, folder: str | Path, profile: str, tags: dict[str, str] | None = None) -> str:
    """Register the variant in `folder` once per weights digest; returns its version. Weights stay DVC's: the version
    holds their digest and the manifest."""
    from mlflow.exceptions import MlflowException

    store, model = client(), registered_model(profile)
    manifest = read_json(Path(folder) / "manifest.json")
    try:
        store.create_registered_model(model, description="Variants of the documentation model; weights are DVC's.")
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    for known in store.search_model_versions(f"name = '{model}'"):
        if known.tags.get("variant") == name and known.tags.get("weights_digest") == manifest["weights_digest"]:
            return str(known.version)
    run = store.create_run(_experiment(store, "registry"), run_name=f"{model}/{name}", tags={"variant": name})
    store.log_artifact(run.info.run_id, str(Path(folder) / "manifest.json"), "variant")
    store.set_terminated(run.info.run_id)
    facts = {"variant": name, "weights_digest": manifest["weights_digest"], **(tags or {})}
    source = f"{run.info.artifact_uri}/variant"
    return str(store.create_model_version(model, source, run.info.run_id, tags=facts).version)


def set_champion(version: str, profile: str) -> None:
    """Point the alias `champion` at a version that `register_variant` returned."""
    client().set_registered_model_alias(registered_model(profile), "champion", version)


def champion(profile: str = "cpu") -> str:
    """The variant that the alias `champion` names. A store that is not there is not made."""
    none = UserError(
        f"no champion is registered for profile {profile!r}: run `make repro PROFILE={profile}` first, or name a variant"
    )
    kind, _, path = tracking_uri().partition(":///")
    if kind == "sqlite" and not Path(path).exists():
        raise none
    from mlflow.exceptions import MlflowException

    try:
        version = client().get_model_version_by_alias(registered_model(profile), "champion")
    except MlflowException:
        raise none from None
    return str(version.tags["variant"])


def side_by_side(address: str) -> str | None:
    """Where the MLflow page at `address` compares the last report's variants; None before the first report."""
    store = client()
    newest: dict[str, Any] = {}
    for experiment in store.search_experiments():
        for run in store.search_runs([experiment.experiment_id], "tags.stage = 'report'", order_by=["start_time DESC"]):
            newest.setdefault(run.data.tags["variant"], run)
    return _comparison(address, list(newest.values()))


def serving_side_by_side(address: str) -> str | None:
    """The same for the newest run of each of serving's stages, its parts and variants."""
    store = client()
    experiment = store.get_experiment_by_name("serving")
    if experiment is None:
        return None
    newest: dict[tuple[str | None, ...], Any] = {}
    for run in store.search_runs([experiment.experiment_id], order_by=["start_time DESC"]):
        newest.setdefault(tuple(run.data.tags.get(name) for name in ("stage", "part", "variant", "scenario")), run)
    return _comparison(address, list(newest.values()))


def _comparison(address: str, runs: list[Any]) -> str | None:
    if not runs:
        return None
    ids, experiments = [run.info.run_id for run in runs], sorted({run.info.experiment_id for run in runs})
    query = urlencode({"runs": json.dumps(ids), "experiments": json.dumps(experiments)})
    return f"{address}/#/compare-runs?{query}"


def main() -> None:
    """Import every run on disk, then serve the MLflow page on loopback."""
    import argparse
    import sys

    parser = argparse.ArgumentParser(prog="python -m tradewind.tracking", description=main.__doc__)
    parser.add_argument("--port", type=int, default=5000)
    parser.add_argument("--import-only", action="store_true", help="import the runs and stop")
    options = parser.parse_args()
    folders = [RUNS, *sorted(home().glob("runs/*/reports/runs"))]
    print(f"imported {sum(import_runs(folder) for folder in folders)} runs into {tracking_uri()}")
    if not options.import_only:
        address = f"http://127.0.0.1:{options.port}"
        for what, link in (("variants", side_by_side(address)), ("serving runs", serving_side_by_side(address))):
            if link:
                print(f"the {what} side by side: {link}", flush=True)
        os.environ.setdefault("PYTHONWARNINGS", "ignore")  # its own deprecations, at every request
        command = [sys.executable, "-m", "mlflow", "ui", "--host", "127.0.0.1", "--port", str(options.port),
                   "--backend-store-uri", tracking_uri()]  # fmt: skip
        os.execv(sys.executable, command)


if __name__ == "__main__":
    from tradewind.config import run

    run(main)
