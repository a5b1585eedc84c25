"""A repository of its own to run in, and a run of the main job there."""

import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent


def checkout(folder: Path) -> Path:
    """A repository in `folder` that holds what this one holds now, committed."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split("\0")
    for name in (n for n in names if n and (ROOT / n).is_file()):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, folder / name)
    git = ["git", "-c", "user.name=Test", "-c", "user.email=test@localhost"]
    subprocess.run([*git, "init", "--quiet"], cwd=folder, check=True)
    subprocess.run([*git, "add", "--all"], cwd=folder, check=True)
    subprocess.run([*git, "commit", "--quiet", "--message", "As it is"], cwd=folder, check=True)
    return folder


def unreachable_index() -> dict[str, str]:
    """Variables with which pip knows one index, at a port of loopback where nobody listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{probe.getsockname()[1]}/simple"
    return {"PIP_CONFIG_FILE": os.devnull, "PIP_INDEX_URL": address, "PIP_EXTRA_INDEX_URL": "", "PIP_FIND_LINKS": ""}


def repro(repository: Path, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    """`python -m tradewind.repro ARGUMENTS` in `repository`, with that repository's own code and state."""
    environment = os.environ | {"PYTHONPATH": str(repository / "src"), "TRADEWIND_HOME": str(repository / ".tradewind")}
    environment.pop("MLFLOW_TRACKING_URI", None)
    answer = subprocess.run([sys.executable, "-m", "tradewind.repro", *arguments], cwd=repository, env=environment,
                            capture_output=True, text=True, check=False)  # fmt: skip
    assert not check or answer.returncode == 0, f"{answer.stdout[-4000:]}\n{answer.stderr[-4000:]}"
    return answer
