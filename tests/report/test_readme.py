import pytest

from tests.support import ROOT
from tradewind.errors import UserError
from tradewind.files import read_json, write_json
from tradewind.report.build import build_report
from tradewind.report.gate import GateRules
from tradewind.report.readme import BEGIN, END, Reports, check, refusals, render, write
from tradewind.report.table import figure

TEXT = (
    f"# Title\n\n{BEGIN}\nold\n{END}\n\nF1 is <!--= summary/variants/teacher-int8/answer_f1 .2f -->?<!-- = --> and "
    "<!--= summary/variants/teacher-int8/bytes /1e6.0f -->?<!-- = --> MB, "
    "<!--= evaluate/teacher-int8/teacher-int8/metrics/answer_f1 .1f -->?<!-- = -->.\n"
)


@pytest.fixture
def reports(folders):
    build_report(GateRules(0.01, 0.01, 0.02, True), "nano", 0, folders)
    return folders.reports


@pytest.fixture
def readme(tmp_path):
    (tmp_path / "README.md").write_text(TEXT, encoding="utf-8")
    return tmp_path / "README.md"


def test_writing_makes_the_check_pass_and_writing_again_changes_nothing(readme, reports):
    assert check(readme, reports)
    assert write(readme, reports)
    assert check(readme, reports) == []
    assert not write(readme, reports)
    text = readme.read_text(encoding="utf-8")
    assert text.startswith("# Title\n")
    assert "| teacher-int8 | 134.5 | 145.0 | 0.800 [" in text
    assert "<!--= summary/variants/teacher-int8/bytes /1e6.0f -->145<!-- = --> MB" in text
    assert "metrics/answer_f1 .1f -->0.8<!-- = -->." in text


def test_another_value_in_the_reports_is_a_difference(readme, reports):
    write(readme, reports)
    summary = read_json(reports / "summary.json")
    summary["variants"]["teacher-int8"]["decode_tokens_per_s"] += 30
    write_json(reports / "summary.json", summary)
    assert any("180" in line for line in check(readme, reports))


def test_refusals_are_those_of_the_served_variant(reports):
    rates = {"refusal_precision": 0.5, "refusal_recall": 0.25, "false_refusals": None}
    result = {"metrics": rates, "n": {"refusal_precision": 4, "refusal_recall": 8}}
    write_json(reports / "evaluate" / "teacher-int8.json", {"teacher-int8": result})
    write_json(reports / "gate.json", {"champion": "teacher-int8"})
    said = "precision of refusals 0.50 (n = 4), recall of unanswerable questions 0.25 (n = 8)"
    assert refusals(Reports(reports)) == f"Served by default: teacher-int8; {said}.\n"
    assert refusals({"gate": {"champion": None}}) == ""


def test_a_readme_without_the_block_and_a_wrong_figure_are_said(reports):
    with pytest.raises(UserError, match="no block"):
        render("# Title\n", {})
    with pytest.raises(UserError, match=r"teacher-int9/answer_f1.*teacher-int9"):
        figure({"variants": {}}, "variants/teacher-int9/answer_f1", ".2f")


def test_figures_scale():
    tree = {"a": [0.123, {"b": 2_500_000}]}
    assert figure(tree, "a/0", "*100.1f") == "12.3"
    assert figure(tree, "a/1/b", "/1e6.1f") == "2.5"
    assert figure(tree, "a/1/b", ",") == "2,500,000"


def test_the_readme_says_what_the_reports_say():
    if (ROOT / "reports" / "summary.json").exists():
        assert check(ROOT / "README.md", ROOT / "reports") == [], "run `make notebooks`, which rewrites the README too"
    else:
        block = (ROOT / "README.md").read_text(encoding="utf-8").partition(BEGIN)[2].partition(END)[0]
        assert not any(character.isdigit() for character in block), "figures without a run behind them"
