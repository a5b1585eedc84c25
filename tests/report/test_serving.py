"""Notebook 1's sections: figures from reports, one line where there is no report."""

import io

import pytest
from PIL import Image

from tests.support import ROOT
from tradewind.files import write_json
from tradewind.report.readme import Reports
from tradewind.report.serving import MADE_BY, SECTIONS
from tradewind.report.serving_pictures import PICTURES, draw, drawn_from

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


def test_replicas_are_told_in_tables_and_a_decision(tmp_path):
    """Of figures that each stand out."""
    value = {"median": 1.5, "interval": [1.25, 1.75]}
    side = {"engine": 11.0, "replica": 12.0, "server": 13.0, "cluster": 14.0}
    phase = {"goodput_per_s": 2.5, "peak_share": 0.91, "ttft_p99_ms": 4321.0, "rejected": 7.0, "refusal_p99_ms": 21.0}
    strategy = {"requests_per_s": 3.25, "ttft_ms": {"p50": 101.0, "p95": 202.0}, "cached_share": 0.84}
    write_json(
        tmp_path / "benchmarks" / "cluster.json",
        {
            "device": "d",
            "hop": {"engine": {"p50": 0.3}, "replica": {"p50": 1.9}, "added_ms": value},
            "path": {
                "calls": {"proxy_added_ms": {"median": 2.2, "interval": [2.1, 2.3]}},
                "streams": {"8": {"ttft_ms": side, "tokens_per_s": side, "cluster_lost_share": value}},
            },
            "routing": {
                "work": {"slots": [8, 4]},
                "strategies": {
                    "round_robin": {**strategy, "by_slots": {"8": 31, "4": 32}, "imbalance": 1.5},
                    "prefix_aware": {
                        **strategy,
                        "requests_per_s": 3.5,
                        "by_slots": {"8": 41, "4": 20},
                        "imbalance": 1.02,
                    },
                },
            },
            "overload": {
                "settings": {"slo_ttft_ms": 5000.0, "slo_itl_ms": 250.0},
                "targets": {"2 replicas": {"5x": {**phase, "failures": 0.0}, "client": {}}},
            },
        },
    )
    kills = {"requests": 300, "failed": 0, "altered": 0, "refused": 1, "failovers": 9, "kills": 8}
    write_json(
        tmp_path / "benchmarks" / "chaos.json",
        {
            "work": {"seconds": 180.0},
            "parts": {"kills": {**kills, "gap_around_s": {"p50": 0.25, "max": 2.25}, "whole_s": None}},
        },
    )
    reports = Reports(tmp_path)
    cluster, chaos = (SECTIONS[f"serving_{name}"](reports) for name in ("cluster", "chaos"))
    assert "handle and router add +1.5 [1.2, 1.8] ms" in cluster
    assert "| 8 | 11 / 11 | 12 / 12 | 13 / 13 | 14 / 14 | +150.0 [125.0, 175.0] % |" in cluster
    assert "| prefix aware | 3.50 | 101 / 202 | 84% | 41 : 20 | 1.02 |" in cluster
    assert "| 2 replicas | 5x | 2.50 | 91% | 4,321 | 7 | 21 | 0 |" in cluster
    assert "| one of two killed, again and again | 300 | 1 | 0 | 0 | 9 | 0.25 / 2.25 | - |" in chaos
    decided = SECTIONS["serving_decision"](reports)
    assert "8 were killed in 180 s under load: of 300 requests 0 failed and 0 were altered" in decided
    assert "prefix aware gave the most answers" in decided
