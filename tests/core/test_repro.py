import subprocess
import sys

import pytest

from tradewind import host
from tradewind.config import PROFILES, compose
from tradewind.errors import UserError
from tradewind.repro import exclusive, refuse_early, refuse_hand_edits, working_copy, write_params


def test_parameters_are_written_only_on_change(tmp_path, capsys):
    path = tmp_path / "params.yaml"
    assert write_params({"profile": "nano", "finetune": {"rank": 8}}, path)
    before = path.stat().st_mtime_ns
    assert not write_params({"profile": "nano", "finetune": {"rank": 8}}, path)
    assert path.stat().st_mtime_ns == before
    assert write_params({"profile": "nano", "finetune": {"rank": 16}}, path)
    assert "finetune.rank: 8 -> 16" in capsys.readouterr().out


def test_hand_edits_are_refused_and_kept(tmp_path):
    path = tmp_path / "params.yaml"
    write_params({"rank": 8}, path)
    edited = path.read_text(encoding="utf-8").replace("8", "9", 1) + "extra: 1\n"
    path.write_text(edited, encoding="utf-8")
    with pytest.raises(UserError, match="edited by hand"):
        write_params({"rank": 16}, path)
    assert path.read_text(encoding="utf-8") == edited


def test_the_committed_parameters_are_as_generated(root):
    refuse_hand_edits(root / "params.yaml")


def test_a_second_run_is_told_of_the_first(tmp_path):
    with exclusive(tmp_path / "lock"), pytest.raises(UserError, match="another `make repro` is running"), \
            exclusive(tmp_path / "lock"):  # fmt: skip
        pass
    with exclusive(tmp_path / "lock"):
        pass


def test_an_unknown_profile_is_one_line_with_the_choices(root):
    command = [sys.executable, "-m", "tradewind.repro", "huge"]
    answer = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    assert answer.returncode == 2
    assert answer.stderr == "error: unknown profile 'huge' (choices: nano, cpu, gpu, tpu)\n"


def test_a_working_copy_follows_the_repository(tmp_path):
    subprocess.run(["git", "init", "-q", str(tmp_path)], check=True)
    (tmp_path / "src").mkdir()
    (tmp_path / "src" / "a.py").write_text("a", encoding="utf-8")
    (tmp_path / "src" / "b.py").write_text("b", encoding="utf-8")
    (tmp_path / "params.yaml").write_text("x", encoding="utf-8")
    (tmp_path / ".gitignore").write_text(".tradewind\n", encoding="utf-8")
    (tmp_path / ".dvcignore").touch()
    (tmp_path / ".dvc").mkdir()
    (tmp_path / ".dvc" / "config").touch()
    copy = working_copy(tmp_path, "nano")
    assert (copy / "src" / "a.py").read_text(encoding="utf-8") == "a"
    assert not (copy / "params.yaml").exists()
    (tmp_path / "src" / "b.py").unlink()
    (tmp_path / "src" / "a.py").write_text("changed", encoding="utf-8")
    working_copy(tmp_path, "nano")
    assert (copy / "src" / "a.py").read_text(encoding="utf-8") == "changed"
    assert not (copy / "src" / "b.py").exists()


def test_host_facts_are_rewritten_only_when_they_change(tmp_path):
    path = tmp_path / "host.json"
    assert host.write_facts(path)
    assert not host.write_facts(path)


@pytest.mark.parametrize("profile", PROFILES)
def test_the_parameters_of_every_profile_are_accepted(root, profile):
    assert refuse_early(compose(profile, []), root) is None


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("prune.student.schedule=[{layerz:26}]", r"unknown strategy 'layerz'"),
        ("prune.student.schedule=[{mlp_size:500}]", r"mlp_size: the width 500 is no multiple of 32"),
        ("+distill.student.losses.logit=1", r"unknown loss 'logit'"),
        ("quantize.variants=[student-int5]", "int5"),
    ],
)
def test_what_a_late_stage_would_refuse_is_refused_at_once(root, override, words):
    with pytest.raises(UserError, match=words):
        refuse_early(compose("cpu", [override]), root)
