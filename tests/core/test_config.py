import dataclasses
import errno
import os
import subprocess
import sys

import pytest
import yaml

from tradewind.config import PROFILES, build, compose, run, stage_params
from tradewind.errors import UserError
from tradewind.tracking import flatten


@dataclasses.dataclass(frozen=True)
class Inner:
    rate: float
    layers: tuple[int, ...] = ()


@dataclasses.dataclass(frozen=True)
class Outer:
    name: str
    inner: Inner
    count: int = 1


def test_nested_dataclasses_are_built():
    built = build(Outer, {"name": "a", "inner": {"rate": "1e-4", "layers": [1, 2]}})
    assert built == Outer("a", Inner(1e-4, (1, 2)))


@pytest.mark.parametrize(
    ("mapping", "named"),
    [
        ({"name": "a", "inner": {"rat": 1}}, "'rat'.*choices: layers, rate"),
        ({"name": "a"}, "'inner' is missing"),
        ({"name": "a", "inner": {"rate": 1}, "count": "many"}, "'many' is not of type int"),
        ({"name": "a", "inner": {"rate": "fast"}}, "'fast' is not a number"),
        ({"name": "a", "inner": {"rate": 1}, "count": True}, "True is not of type int"),
    ],
)
def test_wrong_keys_and_types_are_named(mapping, named):
    with pytest.raises(UserError, match=named):
        build(Outer, mapping)


@pytest.mark.parametrize("profile", PROFILES)
def test_every_profile_composes(root, profile):
    params = compose(profile, folder=root / "conf")
    assert params["profile"] == profile
    stages = {path.stem for path in (root / "pipelines").glob("*.py")} - {"acquire"}
    assert stages <= set(params), "each stage has a section of its own name"


@pytest.mark.parametrize(
    ("profile", "expected"), [("cpu", "bfloat16"), ("gpu", "default"), ("tpu", "default"), ("nano", "default")]
)
def test_one_precision_of_products_holds_in_all_sections(root, profile, expected):
    params = flatten(compose(profile, folder=root / "conf"))
    found = {value for key, value in params.items() if key.endswith("matmul_precision")}
    assert found == {expected}


def test_the_committed_parameters_are_those_of_cpu(root):
    committed = yaml.safe_load((root / "params.yaml").read_text(encoding="utf-8"))
    assert committed == compose("cpu", folder=root / "conf")


@pytest.mark.parametrize(
    ("profile", "overrides", "named"),
    [
        ("huge", [], "unknown profile 'huge'.*nano, cpu, gpu, tpu"),
        ("nano", ["finetune.learning_rat=1"], "^finetune: unknown key 'learning_rat' .choices: .*optimizer"),
        ("nano", ["finetun.tokens=1"], "^SET: unknown key 'finetun' .choices: .*finetune"),
        ("nano", ["finetune.tokens.more=1"], "^finetune.tokens: unknown key 'more'$"),
        ("nano", ["finetune.tokens=abc"], "^finetune.tokens: 'abc' is not of type int$"),
        ("nano", ["finetune.tokens=true"], "^finetune.tokens: True is not of type int$"),
        ("nano", ["corpus=none_such"], "^unknown corpus 'none_such' .choices: installed, nano.$"),
        ("nano", ["experiment=none_such"], "^unknown experiment 'none_such' .choices: none yet.$"),
        ("nano", ["=="], "=="),
    ],
)
def test_bad_overrides_are_one_line(root, profile, overrides, named):
    with pytest.raises(UserError, match=named) as caught:
        compose(profile, overrides, folder=root / "conf")
    assert "\n" not in str(caught.value)


def test_good_overrides_are_taken(root):
    given = ["finetune=full", "finetune.tokens=7", "finetune.optimizer.learning_rate=1", "+finetune.more=x", "~seed"]
    params = compose("cpu", given, folder=root / "conf")
    assert (params["finetune"]["method"], params["finetune"]["tokens"]) == ("full", 7)
    assert (params["finetune"]["optimizer"]["learning_rate"], params["finetune"]["more"]) == (1, "x")
    assert "seed" not in params


def test_a_missing_section_is_named(tmp_path):
    (tmp_path / "params.yaml").write_text("profile: nano\nseed: 0\n", encoding="utf-8")
    with pytest.raises(UserError, match="no section 'finetune'"):
        stage_params("finetune", tmp_path / "params.yaml")


def test_entry_points_exit_with_2_and_one_line(root, tmp_path):
    answer = subprocess.run([sys.executable, str(root / "pipelines" / "corpus.py")], cwd=tmp_path, capture_output=True,
                            text=True, check=False)  # fmt: skip
    assert answer.returncode == 2
    assert answer.stderr.count("\n") == 1
    assert "params.yaml" in answer.stderr


def test_a_stage_tells_what_it_does_and_refuses_options(root, tmp_path):
    def asked(option: str) -> "subprocess.CompletedProcess[str]":
        command = [sys.executable, root / "pipelines" / "corpus.py", option]
        return subprocess.run(
            command, capture_output=True, text=True, cwd=tmp_path, check=False
        )  # no params.yaml there

    told = asked("--help")
    assert told.returncode == 0 and told.stdout.startswith("Stage `corpus`") and not told.stderr
    refused = asked("--dry-run")
    assert refused.returncode == 2 and "unknown option --dry-run" in refused.stderr


def test_a_full_disk_is_one_line_and_other_faults_are_not_hidden(capsys):
    def fail(number):
        raise OSError(number, os.strerror(number))

    with pytest.raises(SystemExit) as ended:
        run(lambda: fail(errno.ENOSPC))
    assert ended.value.code == 2
    assert capsys.readouterr().err == "error: no space is left on the disk: free some and run again\n"
    with pytest.raises(OSError, match="Input/output"):
        run(lambda: fail(errno.EIO))
