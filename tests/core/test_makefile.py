"""Targets of the Makefile whose mistakes and defaults make itself decides."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.support import ROOT, unreachable_index


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A repository with an environment that counts as installed."""
    shutil.copyfile(ROOT / "Makefile", tmp_path / "Makefile")
    (tmp_path / "requirements.lock").write_text(f"pkg==1 --hash=sha256:{'0' * 64}\n", encoding="utf-8")
    (tmp_path / ".venv").mkdir()
    (tmp_path / ".venv" / ".installed").touch()
    return tmp_path


def make(folder: Path, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    kept = {name: value for name, value in os.environ.items() if name not in ("PORT", "MAKEFLAGS")}
    command = ["make", "--no-print-directory", *arguments]
    return subprocess.run(command, cwd=folder, env=kept | variables, capture_output=True, text=True, timeout=300)


@pytest.mark.parametrize(
    ("given", "variables", "port"),
    [([], {}, 5000), (["PORT=8000"], {}, 8000), (["PORT=5001"], {}, 5001), ([], {"PORT": "8000"}, 8000)],
)
def test_the_mlflow_page_opens_on_the_port_that_was_given(
    folder: Path, given: list[str], variables: dict[str, str], port: int
) -> None:
    said = make(folder, "--dry-run", "mlflow", *given, **variables).stdout
    assert said.split() == ["python", "-m", "tradewind.tracking", "--port", str(port)]


def test_an_unknown_study_names_the_choices(folder: Path) -> None:
    said = make(folder, "study", "NAME=nosuch")
    assert said.returncode == 2
    assert said.stderr.splitlines()[0] == "error: no study 'nosuch' (choices: none yet)"
    for name in ("caching", "serving"):
        (folder / "studies" / name).mkdir(parents=True)
    assert make(folder, "study").stderr.splitlines()[0] == "error: no study '' (choices: caching, serving)"


def test_an_index_out_of_reach_is_named(folder: Path) -> None:
    (folder / ".venv" / ".installed").unlink()
    said = make(folder, ".venv/.installed", **unreachable_index())
    assert said.returncode == 2
    assert said.stderr.splitlines()[0] == "error: cannot reach the package index (see .venv/install.log)"
    assert not (folder / ".venv" / ".installed").exists()
