"""The section `quantize` is refused, with a name, before anything is trained."""

import copy

import pytest
import yaml

from tests.support import ROOT
from tradewind.compression.quantize_section import read_section
from tradewind.errors import UserError

SECTION = yaml.safe_load((ROOT / "params.yaml").read_text())["quantize"]
KNOWN = SECTION["variants"]


def changed(path: str, value):
    section = copy.deepcopy(SECTION)
    *parents, last = path.split(".")
    place = section
    for key in parents:
        place = place[key]
    place[last] = value
    return section


def test_the_committed_section_is_read():
    made = read_section(SECTION, KNOWN)
    assert made.wanted["student"] == ["int8", "int4-qat"]
    assert set(made.recipes) == set(SECTION["recipes"])


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        ("variants", ["student-int9"], "unknown variant 'student-int9'"),
        ("variants", ["pupil-int8"], r"pupil-int8: no model 'pupil' \(choices: teacher, student\)"),
        ("variants", ["student-int8-odd"], "student-int8-odd: no recipe 'int8-odd'"),
        ("variants", [*KNOWN, KNOWN[0]], f"{KNOWN[0]} stands there twice"),
        ("variants", KNOWN[1:], r"must be those of dvc.yaml's `vars` \(teacher-int8, "),
        ("variants", [], "must be those of dvc.yaml"),
        ("recipes.int8.method", "magic", "recipe int8: unknown quantization method 'magic'"),
        ("recipes.int8.method", "qat", "recipe int8: method qat: `training`"),
        ("recipes.int8.rules", [], "recipe int8: no rules"),
        (
            "recipes.int8.rules",
            [{"tensors": ".*q_proj.*", "dtype": "int8"}],
            "recipe int8: no quantization rule matches model.emb",
        ),
        (
            "recipes.int8.rules",
            [{"tensors": ".*", "dtype": "int8"}, {"tensors": "lm_head", "dtype": "int4"}],
            "recipe int8: quantization rule that decides no tensor: lm_head",
        ),
        ("recipes.int8.rules", [{"tensors": "(", "dtype": "int8"}], r"rule '\(' is not a regular expression"),
        ("recipes.int8.rules", [{"tensors": ".*", "dtype": "int3"}], "unknown dtype 'int3'"),
        ("recipes.int4-qat.training.tokens", 0, "recipe int4-qat: training.tokens must be at least 1, not 0"),
        ("calibration.tokens", 0, "calibration of 0 tokens"),
    ],
)
def test_faults_are_named(path, value, said):
    with pytest.raises(UserError, match=said):
        read_section(changed(path, value), KNOWN)
