"""The scenario `failover`: a cluster of its own whose replica is killed."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.loadtests.test_results import RAW, request
from tradewind.errors import UserError
from tradewind.load import scenario
from tradewind.load.results import measure
from tradewind.load.scenario import LoadSettings

ROOT = Path(__file__).parents[2]
SHORT = ["--seconds", "9", "--prompt-words", "8", "--answer-tokens", "40", "--engine", "mock", "--model", "mock"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "loadtests").symlink_to(ROOT / "loadtests")
    text = (ROOT / "serve.yaml").read_text().replace("model: champion", "model: mock\n      engine: mock")
    (tmp_path / "serve.yaml").write_text(text)
    return tmp_path


def failover(folder: Path, *options: str) -> tuple[str, dict[str, float]]:
    command = [sys.executable, "-m", "tradewind.load", "failover", *SHORT, *options]
    environment = os.environ | {"PYTHONPATH": str(ROOT / "src"), "TRADEWIND_HOME": str(folder / "home")}
    ended = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300)
    assert ended.returncode == 0, ended.stderr
    found = json.loads((folder / "reports/load/failover.json").read_text())["measurements"]
    return ended.stdout, {name: one["value"] for name, one in found.items()}


@pytest.mark.slow
def test_a_replica_of_its_own_cluster_is_killed_and_no_answer_changes(folder: Path) -> None:
    _, found = failover(folder)
    assert found["kills"] == 1
    for phase in ("before", "during", "after"):
        assert (found[f"{phase}/failures"], found[f"{phase}/altered"]) == (0, 0)
        assert 0 < found[f"{phase}/itl_p50_ms"] <= found[f"{phase}/longest_gap_ms"]


def test_a_cluster_that_runs_already_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """A failover is not reported where nothing can be killed."""
    monkeypatch.chdir(ROOT)
    with pytest.raises(UserError, match="kills replicas of a cluster of its own: leave the URL out"):
        scenario.run_scenario(LoadSettings(scenario="failover"), 0, "http://127.0.0.1:9")


def test_kills_come_in_the_middle_third() -> None:
    assert scenario.kills(LoadSettings(seconds=40)) == [20.0]
    assert scenario.kills(LoadSettings(seconds=300)) == [150.0, 170.0]


def test_altered_answers_and_the_longest_gap_by_hand() -> None:
    compared = [request(1.0, [1.1, 1.6]) | {"altered": False}, request(2.0, [2.1, 2.2]) | {"altered": True}]
    found = {one.name: one.value for one in measure(RAW | {"requests": compared}, warm_up=0.0, seed=0)}
    assert (found["altered"], found["longest_gap_ms"]) == (1, pytest.approx(500))
    assert "altered" not in {one.name for one in measure(RAW, warm_up=1.0, seed=0)}
