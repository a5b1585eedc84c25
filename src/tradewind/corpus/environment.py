"""Which version of each documented package is installed where: what the corpus stage depends on beside its parameters.

An entry names a package and, optionally, whose: `python` is an interpreter or a site-packages folder, the project's
own interpreter by default.
"""

import importlib.metadata
import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from tradewind.errors import UserError

_LIST_VERSIONS = """
import importlib.metadata, json
print(json.dumps({d.metadata["Name"].lower().replace("_", "-"): d.version for d in importlib.metadata.distributions()}))
"""


def package_versions(packages: Sequence[Mapping[str, str | None]]) -> dict[str, dict[str, str]]:
    """{python: {package: version}} of the entries; a package that is not installed there is named in a UserError."""
    found: dict[str, dict[str, str]] = {}
    for entry in packages:
        python = entry.get("python") or "own"
        versions = found.setdefault(python, {})
        versions[str(entry["package"])] = installed_version(str(entry["package"]), entry.get("python"))
    return found


def installed_version(package: str, python: str | None = None) -> str:
    """The version of `package` (an import name or a distribution name) that `python` would import."""
    versions = _distributions(python)
    names = [package.lower().replace("_", "-"), *_PROVIDERS.get(package, ())]
    for name in names:
        if name in versions:
            return versions[name]
    raise UserError(f"package {package!r} is not installed for {python or sys.executable}")


# Import names whose distribution has another name.
_PROVIDERS = {"sklearn": ("scikit-learn",), "hydra": ("hydra-core",), "orbax": ("orbax-checkpoint",), "yaml": ("pyyaml",)}
_KNOWN: dict[str, dict[str, str]] = {}


def _distributions(python: str | None) -> dict[str, str]:
    key = python or "own"
    if key not in _KNOWN:
        _KNOWN[key] = _read_distributions(python)
    return _KNOWN[key]


def _read_distributions(python: str | None) -> dict[str, str]:
    if python is None or Path(python).is_dir():
        listed = importlib.metadata.distributions(**({} if python is None else {"path": [python]}))
        return {d.metadata["Name"].lower().replace("_", "-"): d.version for d in listed}
    try:
        answer = subprocess.run([python, "-c", _LIST_VERSIONS], capture_output=True, text=True, timeout=60, check=True)
        return {str(name): str(version) for name, version in json.loads(answer.stdout).items()}
    except (OSError, subprocess.SubprocessError, ValueError) as error:
        raise UserError(f"python {python!r} of conf/corpus cannot be run ({error})") from None
