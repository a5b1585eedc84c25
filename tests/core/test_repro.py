"""What `make repro` refuses before any stage has run."""

from pathlib import Path

import pytest

from tradewind.config import compose
from tradewind.errors import UserError
from tradewind.repro import refuse_early

ROOT = Path(__file__).parents[2]


def test_the_parameters_of_every_profile_are_accepted():
    for profile in ("nano", "cpu", "gpu", "tpu"):
        refuse_early(compose(profile, []), ROOT)


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("prune.student.schedule=[{layerz:26}]", r"unknown strategy 'layerz'"),
        ("prune.student.schedule=[{mlp_size:500}]", r"mlp_size: the width 500 is no multiple of 32"),
        ("+distill.student.losses.logit=1", r"unknown loss 'logit'"),
        ("quantize.variants=[student-int5]", "int5"),
    ],
)
def test_what_a_late_stage_would_refuse_is_refused_at_once(override, words):
    with pytest.raises(UserError, match=words):
        refuse_early(compose("cpu", [override]), ROOT)
