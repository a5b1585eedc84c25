"""Where a package is installed: an interpreter or a site-packages folder -> location, version, introspection rows.

An interpreter is asked for its `sys.path` and runs `introspect.py`, both in a subprocess with a time limit; a plain
folder is only read. What the sources say is `static`'s business.
"""

import functools
import importlib.metadata
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tradewind.errors import UserError

_SCRIPT = Path(__file__).with_name("introspect.py")
_PATHS = "import json, sys; print(json.dumps([p for p in sys.path if p]))"


@dataclass(frozen=True)
class Installed:
    """A package as installed: `interpreter` is empty where only its folder is known (then nothing is introspected)."""

    package: str
    version: str
    location: Path
    site: Path
    interpreter: str


def locate(package: str, python: str = "", timeout: float = 60.0) -> Installed:
    """Find a package (by import name, or distribution name) in an interpreter, a folder, or this environment.

    Raises UserError naming the interpreter or package that is not there.
    """
    python = python or sys.executable
    paths: tuple[str, ...]
    if Path(python).is_dir():
        paths, interpreter = (python,), ""
    else:
        paths, interpreter = _search_path(python, timeout), python
    name, version = _distribution(package, paths)
    for site in paths:
        base = Path(site).joinpath(*name.split("."))
        for location in (base, base.with_suffix(".py")):
            if (location.is_dir() and any(location.rglob("*.py"))) or location.is_file():
                return Installed(name, version, location, Path(site), interpreter)
    raise UserError(f"corpus: package {package!r} is not installed in {python} (import names are expected)")


def introspect(installed: Installed, modules: Sequence[str], timeout: float) -> list[dict[str, str]]:
    """Rows of `introspect.py` for the named modules; none where the package is known by its folder only."""
    if not installed.interpreter:
        return []
    command = [installed.interpreter, "-X", "utf8", str(_SCRIPT), installed.package.partition(".")[0]]
    text = _run(command, "\n".join(modules), timeout, f"introspecting {installed.package!r}")
    return [json.loads(line) for line in text.splitlines()]


@functools.cache
def _search_path(python: str, timeout: float) -> tuple[str, ...]:
    return tuple(json.loads(_run([python, "-I", "-c", _PATHS], "", timeout, "asking for its search path")))


def _run(command: list[str], text: str, timeout: float, doing: str) -> str:
    # No accelerator is needed to read docstrings, and claiming one would disturb what uses it.
    quiet = {"JAX_PLATFORMS": "cpu", "PYTHONHASHSEED": "0", "MPLBACKEND": "agg", "PYTHONDONTWRITEBYTECODE": "1"}
    try:
        done = subprocess.run(
            command, input=text, capture_output=True, encoding="utf-8", timeout=timeout, env={**os.environ, **quiet}
        )
    except OSError as error:
        raise UserError(f"corpus: interpreter {command[0]} cannot be run ({error.strerror})") from None
    except subprocess.TimeoutExpired:
        raise UserError(f"corpus: {command[0]}: {doing} took more than {timeout:g} s (corpus.timeout_s)") from None
    if done.returncode:
        last = done.stderr.strip().splitlines()[-1:] or [f"exit code {done.returncode}"]
        raise UserError(f"corpus: {command[0]}: {doing} failed: {last[0]}")
    return done.stdout


def _distribution(package: str, paths: tuple[str, ...]) -> tuple[str, str]:
    """(import name, version) of a package; the version is empty where no distribution claims it."""
    wanted = package.replace("-", "_").lower()
    for name, version, tops in _distributions(paths):
        if wanted == name or package.partition(".")[0] in tops:
            known = package if package.partition(".")[0] in tops or not tops else tops[0]
            return known, version
    marks = (f"{package}/__init__.py,", f"{package}.py,")
    for found in importlib.metadata.distributions(path=list(paths)):
        listed = found.read_text("RECORD") or ""
        if listed.startswith(marks) or any(f"\n{mark}" in listed for mark in marks):
            return package, found.version or ""
    return package, ""


@functools.cache
def _distributions(paths: tuple[str, ...]) -> list[tuple[str, str, list[str]]]:
    """(normalised name, version, import names) of every distribution, by name; a damaged one is passed over."""
    rows = []
    for found in importlib.metadata.distributions(path=list(paths)):
        name = (found.metadata["Name"] or "").replace("-", "_").replace(".", "_").lower()
        if name:
            tops = (found.read_text("top_level.txt") or "").split()
            rows.append((name, found.version or "", tops))
    return sorted(rows)
