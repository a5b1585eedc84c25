import os
import shutil
import signal
import subprocess
import sys
import time

import jax.numpy as jnp
import numpy as np
import pytest

from tests.support import ROOT
from tradewind.errors import UserError
from tradewind.training.checkpoint import Checkpoints, run_folder

WORKER = [sys.executable, "-m", "tests.training.worker", "resume"]
ENVIRONMENT = os.environ | {"PYTHONPATH": f"{ROOT / 'src'}:{ROOT}", "JAX_PLATFORMS": "cpu"}


def steps(folder):
    return sorted(int(path.name) for path in folder.glob("*") if path.name.isdigit())


def test_a_run_killed_in_the_middle_ends_with_the_very_same_weights(tmp_path):
    subprocess.run([*WORKER, tmp_path / "a", tmp_path / "whole.npz"], cwd=ROOT, env=ENVIRONMENT, check=True)
    killed = subprocess.Popen([*WORKER, tmp_path / "b", tmp_path / "no.npz", "0.5"], cwd=ROOT, env=ENVIRONMENT)
    deadline = time.monotonic() + 120
    while len(steps(tmp_path / "b")) < 2 and time.monotonic() < deadline:
        time.sleep(0.02)
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    assert steps(tmp_path / "b") and not (tmp_path / "no.npz").exists()
    again = subprocess.run([*WORKER, tmp_path / "b", tmp_path / "resumed.npz"], cwd=ROOT, env=ENVIRONMENT, check=True,
                           capture_output=True, text=True)  # fmt: skip
    assert "resumed after step" in again.stdout
    assert (tmp_path / "whole.npz").read_bytes() == (tmp_path / "resumed.npz").read_bytes()


@pytest.fixture
def state():
    return {"layer": {"kernel": jnp.arange(12.0).reshape(3, 4)}, "count": jnp.int32(7)}


def saved(folder, state, *numbers):
    checkpoints = Checkpoints(folder)
    for number in numbers:
        checkpoints.save(number, state, [{"step": n + 1} for n in range(number)])
    return checkpoints


def flip(folder):
    """Change one byte in the middle of the largest file."""
    path = max((p for p in folder.rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    path.write_bytes(content)


def test_what_is_saved_is_what_is_restored(tmp_path, state):
    saved(tmp_path, state, 3)
    restored = Checkpoints(tmp_path).restore(state)
    assert restored.step == 3 and restored.log == [{"step": 1}, {"step": 2}, {"step": 3}]
    np.testing.assert_array_equal(restored.state["layer"]["kernel"], state["layer"]["kernel"])
    assert restored.state["count"] == 7 and restored.state["count"].dtype == jnp.int32


def test_nothing_saved_is_none(tmp_path, state):
    assert Checkpoints(tmp_path).restore(state) is None


@pytest.mark.parametrize(
    "damage", [flip, lambda folder: shutil.rmtree(folder / "state"), lambda f: shutil.rmtree(f / "meta")]
)
def test_a_damaged_checkpoint_is_passed_over_for_the_one_before_and_said_so(tmp_path, state, capsys, damage):
    saved(tmp_path, state, 2, 4)
    damage(tmp_path / "4")
    assert Checkpoints(tmp_path).restore(state).step == 2
    message = capsys.readouterr().err.strip()
    assert str(tmp_path / "4") in message and "trying the one before" in message and "\n" not in message


def test_only_damaged_checkpoints_are_a_user_error_naming_the_folder(tmp_path, state):
    saved(tmp_path, state, 2)
    flip(tmp_path / "2")
    with pytest.raises(UserError, match=f"{tmp_path}: no checkpoint can be read"):
        Checkpoints(tmp_path).restore(state)


def test_another_shape_is_a_user_error_with_the_tensor_and_both_shapes(tmp_path, state):
    saved(tmp_path, state, 2)
    other = {"layer": {"kernel": jnp.zeros((3, 5))}, "count": jnp.int32(0)}
    with pytest.raises(UserError, match=r"tensor layer.kernel has shape \(3, 4\), this run needs \(3, 5\)"):
        Checkpoints(tmp_path).restore(other)


def test_only_the_newest_are_kept_and_clear_removes_them(tmp_path, state):
    checkpoints = saved(tmp_path / "run", state, 1, 2, 3)
    assert steps(tmp_path / "run") == [2, 3]
    checkpoints.clear()
    assert not (tmp_path / "run").exists()


def test_a_run_is_named_by_its_parameters_and_inputs(tmp_path):
    file = tmp_path / "data.jsonl"
    file.write_text("one")
    first = run_folder("finetune", {"a": 1, "b": 2}, [file], tmp_path)
    assert first == run_folder("finetune", {"b": 2, "a": 1}, [file], tmp_path)
    assert first != run_folder("finetune", {"a": 1, "b": 3}, [file], tmp_path)
    file.write_text("two")
    assert first != run_folder("finetune", {"a": 1, "b": 2}, [file], tmp_path)
