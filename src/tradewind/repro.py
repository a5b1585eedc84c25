"""One run of the main job: `python -m tradewind.repro PROFILE [SET...]`, what `make repro` calls.

1. Take the lock; a second run at the same time is told so.
2. Compose params.yaml from conf/, print what changes, refuse to overwrite hand edits. The committed params.yaml is
   that of profile `cpu`; every other profile runs in a working copy of its own, .tradewind/runs/<profile>.
3. Fetch or verify data/; write the facts that stages depend on (host, versions of the documented packages).
4. Run `dvc repro`; bring MLflow's store up to the reports, its champion too; print minutes per stage and the disk used.
What it does not know: what the stages do. dvc.yaml says that.
"""

import argparse
import fcntl
import hashlib
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from tradewind import data, host
from tradewind.config import PROFILES, build, check_profile, compose, read_params, run
from tradewind.corpus.environment import locate
from tradewind.errors import UserError
from tradewind.files import read_json, write_json, write_text
from tradewind.tracking import flatten

HEADER = "# Generated from conf/ by `make repro` (content {}). Edit conf/ or pass SET=, not this file.\n"
FULL = 64 * 2**20
"""Bytes free below which a stage that failed is taken to have filled the disk."""
STAGE = re.compile(r"Running stage '([^']+)'")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tradewind.repro", description="Run the main job of a profile.")
    parser.add_argument("profile", help=f"one of {', '.join(PROFILES)}")
    parser.add_argument("overrides", nargs="*", help="Hydra overrides, e.g. finetune.optimizer.learning_rate=1e-4")
    parser.add_argument("--compose-only", action="store_true", help="write params.yaml and stop")
    options = parser.parse_args()
    root = Path.cwd()
    os.environ.setdefault("TRADEWIND_HOME", str(root / ".tradewind"))
    check_profile(options.profile)
    with exclusive(root / ".tradewind" / "lock"):
        params = compose(options.profile, options.overrides)
        refuse_early(params, root)
        folder = root if options.profile == "cpu" else working_copy(root, options.profile)
        write_params(params, folder / "params.yaml")
        if not options.compose_only:
            reproduce(root, folder, params)


def refuse_early(params: dict[str, Any], root: Path) -> None:
    """What a stage would refuse only after those that train. Raises UserError."""
    from tradewind.compression.distill import DistillConfig
    from tradewind.compression.prune import PruneConfig
    from tradewind.compression.quantize_section import read_section

    for name, section in params["prune"].items():
        own = {key: value for key, value in section.items() if key not in ("calibration", "recovery")}
        build(PruneConfig, own, f"prune.{name}")
    for name, section in params["distill"].items():
        build(DistillConfig, section, f"distill.{name}")
    variables = {key: value for part in read_params(root / "dvc.yaml")["vars"] for key, value in part.items()}
    read_section(params["quantize"], [name for name in variables["variants"] if not name.endswith("-fp32")])


@contextmanager
def exclusive(path: Path) -> Iterator[None]:
    """Hold the lock file for the block, or say which process holds it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "a+", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            raise UserError(f"another `make repro` is running here (process {file.read().strip()})") from None
        file.truncate(0)
        file.write(f"{os.getpid()}\n")
        file.flush()
        yield


def write_params(params: dict[str, Any], path: Path) -> bool:
    """Write params.yaml where its content changes, printing each change; a hand-edited file is refused."""
    body = yaml.safe_dump(params, sort_keys=False, allow_unicode=True, width=120)
    if path.exists():
        refuse_hand_edits(path)
        old, new = flatten(read_params(path)), flatten(params)
        if old == new:
            return False
        for key in sorted(old.keys() | new.keys()):
            if old.get(key) != new.get(key):
                print(f"params.yaml: {key}: {old.get(key)} -> {new.get(key)}")
    write_text(path, HEADER.format(_content(body)) + body)
    return True


def refuse_hand_edits(path: Path) -> None:
    """Raise a UserError where the content is not what the first line says was generated."""
    first, _, body = path.read_text(encoding="utf-8").partition("\n")
    if _content(body) not in first:
        raise UserError(
            f"{path.name} was edited by hand: put the change into conf/ or pass it as SET='key=value', "
            f"then `git checkout {path.name}` (or delete it) and run again"
        )


def _content(body: str) -> str:
    return hashlib.sha256(body.encode()).hexdigest()[:16]


def working_copy(root: Path, profile: str) -> Path:
    """.tradewind/runs/<profile>: the tracked and new files of the repository as they are now, with a DVC of its own."""
    copy = root / ".tradewind" / "runs" / profile
    listed = subprocess.run(["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"], cwd=root,
                            capture_output=True, text=True, check=True)  # fmt: skip
    kept = {"params.yaml", "dvc.lock", "data.dvc"}
    names = {n for n in listed.stdout.split("\0") if n and n not in kept and not n.startswith((".dvc/", "reports/"))}
    for name in sorted(names):
        _mirror(root / name, copy / name)
    for folder in ("conf", "pipelines", "src", "loadtests"):
        for path in (copy / folder).rglob("*"):
            if path.is_file() and "__pycache__" not in path.parts and str(path.relative_to(copy)) not in names:
                path.unlink()
    if not os.path.lexists(copy / "data"):
        (copy / "data").symlink_to(root / "data")
    if not (copy / ".dvc").exists():
        dvc(copy, "init", "--no-scm", "--quiet")
        shutil.copyfile(root / ".dvc" / "config", copy / ".dvc" / "config")
        dvc(copy, "config", "core.no_scm", "true")
        shutil.copyfile(root / ".dvcignore", copy / ".dvcignore")
    return copy


def _mirror(source: Path, target: Path) -> None:
    if not source.is_file():
        return
    if not target.exists() or target.read_bytes() != source.read_bytes():
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, target)


def reproduce(root: Path, folder: Path, params: dict[str, Any]) -> None:
    """Bring data/ and the facts up to date, run the stages, print where the time and the disk went."""
    started = time.monotonic()
    if params["profile"] != "nano":
        data.fetch(root / "data", root / data.MANIFESTS)
    state = folder / ".tradewind"
    host.write_facts(state / "host.json")
    write_if_changed(state / "packages.json", _package_versions(params["corpus"]["packages"]))
    stages = run_stages(folder)
    from tradewind.report.build import Folders, publish  # seconds of imports, which no refusal above should wait for

    publish(Folders(reports=folder / "reports", variants=folder / "artifacts" / "variants"))
    for name, seconds in stages.items():
        print(f"{name:32s} {seconds / 60:6.1f} min")
    print(f"{'all':32s} {(time.monotonic() - started) / 60:6.1f} min, disk {disk_gib(root):.1f} GiB")
    profile = "" if params["profile"] == "cpu" else f" PROFILE={params['profile']}"
    print(
        f"results: {(folder / 'reports' / 'table.md').relative_to(root)}; `make serve{profile}` serves the champion, "
        f"`make mlflow` shows every run, `make notebooks{profile}` brings the notebooks up to these figures"
    )
    if stages and {name.partition("@")[0] for name in stages} == stage_names(folder):
        write_json(folder / "reports" / "repro.json", {
            "profile": params["profile"], "device": host.device(),
            "minutes": {name: round(seconds / 60, 2) for name, seconds in stages.items()},
            "total_minutes": round((time.monotonic() - started) / 60, 2), "disk_gib": round(disk_gib(root), 2),
        })  # fmt: skip


def _package_versions(packages: list[dict[str, str]]) -> dict[str, dict[str, str]]:
    """{python: {package: version}}: what the corpus stage depends on beside its parameters."""
    versions: dict[str, dict[str, str]] = {}
    for entry in packages:
        python = entry.get("python") or ""
        versions.setdefault(python or "own", {})[entry["package"]] = locate(entry["package"], python).version
    return versions


def run_stages(folder: Path) -> dict[str, float]:
    """Run `dvc repro` in `folder`, passing its output on; seconds of each stage that ran."""
    seconds: dict[str, float] = {}
    current, since = "", time.monotonic()
    environment = os.environ | {
        "PYTHONPATH": str(folder / "src"),
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
    }
    with subprocess.Popen([sys.executable, "-m", "dvc", "repro"], cwd=folder, env=environment, text=True,
                          stdout=subprocess.PIPE, bufsize=1) as process:  # fmt: skip
        assert process.stdout
        for line in process.stdout:
            print(line, end="", flush=True)
            if found := STAGE.search(line):
                now = time.monotonic()
                if current:
                    seconds[current] = now - since
                current, since = found[1], now
    if current:
        seconds[current] = time.monotonic() - since
    if process.returncode:
        failed = f"stage {current} failed" if current else "`dvc repro` failed"
        free = shutil.disk_usage(folder).free
        why = "above" if free > FULL else f"above; likely the disk: {free / 2**20:.0f} MiB are free in {folder}"
        raise UserError(f"{failed} (why: {why}); finished stages are kept, and running again goes on from there")
    return seconds


def stage_names(folder: Path) -> set[str]:
    return set(yaml.safe_load((folder / "dvc.yaml").read_text(encoding="utf-8"))["stages"])


def dvc(folder: Path, *arguments: str) -> None:
    subprocess.run([sys.executable, "-m", "dvc", *arguments], cwd=folder, check=True)


def write_if_changed(path: Path, value: Any) -> None:
    if not path.exists() or read_json(path) != value:
        write_json(path, value)


def disk_gib(root: Path) -> float:
    """GiB that the repository takes on disk, environment and DVC's cache included, hard links counted once."""
    seen: dict[tuple[int, int], int] = {}
    for folder, _, files in os.walk(root):
        for name in files:
            status = os.lstat(os.path.join(folder, name))
            seen[(status.st_dev, status.st_ino)] = status.st_blocks * 512
    return sum(seen.values()) / 2**30


if __name__ == "__main__":
    run(main)
