"""Notebook 1's sections: figures from reports, one line where there is no report."""

import io

import pytest
from PIL import Image

from tests.support import ROOT
from tradewind.files import write_json
from tradewind.report.readme import Reports
from tradewind.report.serving import MADE_BY, PICTURES, SECTIONS, draw, drawn_from, tree

ERROR = {"n": 3, "median": -0.05, "median_size": 0.05, "worst": -0.2, "low": -0.2, "high": 0.1}
NAMES = ("requests_per_s", "ttft_p50_ms", "ttft_p95_ms")
RAMP = {f"{users} users/{name}": 1.0 * users for users in (1, 2, 16) for name in NAMES}
PAPER = {
    "users": 1000, "rate": 3.3, "replicas": 3, "replicas_range": [2, 4], "utilization": 0.7, "goodput_share": 0.99,
    "ttft_p50_ms": 100.0, "ttft_p95_ms": 400.0, "ttft_p50_ms_range": [90.0, 125.0], "ttft_p95_ms_range": [360.0, 500.0],
    "cost_per_month": 189.2, "cost_per_month_range": [126.1, 252.3],
}  # fmt: skip
PLANNED = {
    "device": "two cores", "git_commit": "abc", "variant": "teacher-int8",
    "work": {"think_s": 300.0, "answer_tokens": 64, "slo": {"ttft_ms": 5000.0, "itl_ms": 250.0}, "price_per_hour": 0.1,
             "price_of": "an assumption"},
    "lone": {"prompt_tokens": 106}, "capacity": {"rate": 1.25},
    "service": {"times": {"prefill_rate": 800.0, "call": 0.01, "step": 0.008, "row": 0.002, "overhead": 0.003}, "drift": 1.0},
    "errors_by_quantity": dict.fromkeys(NAMES, ERROR),
    "measured": {"ramp": RAMP}, "predicted": {"ramp": RAMP}, "paper": [PAPER, PAPER | {"users": 10_000}],
}  # fmt: skip


@pytest.fixture
def planned(tmp_path) -> Reports:
    write_json(tmp_path / "benchmarks" / "planning.json", {"1": PLANNED, "2": PLANNED})
    return Reports(tmp_path)


@pytest.mark.parametrize("name", SECTIONS)
def test_a_missing_report_is_a_line_with_its_command(name, tmp_path):
    text = SECTIONS[name](Reports(tmp_path))
    assert "Not measured yet: `" in text
    assert not any(mark.isdigit() for mark in text.replace("429", ""))


def test_the_commands_exist_or_are_named_once():
    assert len(set(MADE_BY.values())) == len(MADE_BY)
    assert {name for name, _ in PICTURES.values()} < set(MADE_BY)


@pytest.mark.parametrize("name", ["serving_overload", "serving_overhead", "serving_llama_cpp", "serving_clients"])
def test_committed_reports_are_tables(name):
    text = SECTIONS[name](Reports(ROOT / "reports"))
    assert text.startswith("| ") and "AMD EPYC" in text


def test_the_plan_is_shown_with_its_error_and_its_assumptions(planned):
    errors, paper = SECTIONS["serving_errors"](planned), SECTIONS["serving_paper"](planned)
    assert "| requests/s | 2 | -5 % | -20 % | 3 |" in errors
    assert "| 1,000 | 3.3 | 3 [2, 4] | 100 [90, 125] | 400 [360, 500] | 70 % | 189 [126, 252] |" in paper
    assert "each 5 minutes, 106 tokens in" in paper and "an assumption" in paper
    assert "-20 % at worst" in SECTIONS["serving_decision"](planned)


@pytest.mark.parametrize("name", PICTURES)
def test_a_picture_names_its_data(name, planned):
    kept = planned if "planning" in PICTURES[name][0] else Reports(ROOT / "reports")
    picture = draw(name, kept)
    assert picture is not None
    assert len(drawn_from(picture) or "") == 64
    with Image.open(io.BytesIO(picture)) as image:
        assert image.size == (990, 396)
        assert len(image.getcolors(1 << 20) or ()) > 20  # more than an empty frame
    assert draw(name, Reports("nowhere")) is None


def test_any_report_is_a_tree_of_tables():
    text = tree({"device": "d", "routing": {"a": {"ttft": {"p50": 1.23456}}, "b": {"ttft": {"p50": 2.0, "p95": 3.0}}}})
    assert "device: d." in text
    assert "|  | ttft p50 | ttft p95 |\n|---|---:|---:|\n| a | 1.235 | - |\n| b | 2 | 3 |" in text
