"""The command line: what is wrong is told before anything is compared."""

import pytest

from tests.compression.test_compare import tiny_variant
from tradewind.compression.__main__ import arguments, chosen
from tradewind.errors import UserError


def test_names_and_runtimes_are_checked_before_the_first_comparison(tmp_path):
    tiny_variant(tmp_path / "base-int4", "int4")
    here = ["compare", "--variants", str(tmp_path), "--variant", "base-int4"]
    assert chosen(arguments(here)) == ["base-int4"]
    with pytest.raises(UserError, match="no variant 'base-int9'"):
        chosen(arguments([*here, "--variant", "base-int9"]))
    with pytest.raises(UserError, match="/nonexistent: no such executable"):
        chosen(arguments([*here, "--llama", "/nonexistent"]))
    with pytest.raises(UserError, match="--litert /nonexistent: no such file"):
        chosen(arguments([*here, "--litert", "/nonexistent"]))


def test_the_number_of_questions_is_of_the_test_set_alone(capsys):
    assert arguments(["compare"]).count == 20
    assert arguments(["compare", "--count", "3"]).count == 3
    with pytest.raises(SystemExit):
        arguments(["compare", "--count", "3", "--prompts", "a.txt"])
    assert "not with --prompts" in capsys.readouterr().err
