"""The JavaScript libraries of the page: installed by `npm ci` from the page's lock, once for each lock.

They lie in `.tradewind/edge/<digest of the lock>/node_modules`. Nothing runs while they are installed (no scripts), and
npm asks nobody about them afterwards. It does not know what of them is served.
"""

import shutil
import subprocess
from pathlib import Path

from tradewind.errors import UserError
from tradewind.files import atomic_path, sha256_file

PAGE = Path(__file__).with_name("page")
LOCK = "package-lock.json"
OPTIONS = ("--ignore-scripts", "--no-audit", "--no-fund", "--no-update-notifier", "--omit=dev", "--loglevel=error")


def node_packages(home: Path) -> Path:
    """The folder `node_modules`, made where it is missing. Raises UserError without npm or where the install fails."""
    made = home / "edge" / sha256_file(PAGE / LOCK)[:16]
    if not made.is_dir():
        _install(made)
    return made / "node_modules"


def _install(folder: Path) -> None:
    npm = shutil.which("npm")
    if npm is None:
        raise UserError("npm not found: the page needs it once, to install onnxruntime-web (Debian: apt install npm)")
    with atomic_path(folder) as new:
        new.mkdir()
        for name in ("package.json", LOCK):
            shutil.copy(PAGE / name, new)
        ended = subprocess.run([npm, "ci", *OPTIONS], cwd=new, capture_output=True, text=True, check=False)
        if ended.returncode:
            lines = [line for line in ended.stderr.splitlines() if line.strip()] or ["no message"]
            raise UserError(f"npm ci failed: {lines[0].strip()} (the lock: {PAGE / LOCK})")
