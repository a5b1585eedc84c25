"""Notebook 1's sections: figures from reports, one line where there is no report."""

import io

import pytest
from PIL import Image

from tests.support import ROOT
from tradewind.files import read_json, write_json
from tradewind.report.readme import Reports
from tradewind.report.serving import MADE_BY, PEERS, SECTIONS
from tradewind.report.serving_cluster import compared
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
    "errors_by_quantity": dict.fromkeys((*NAMES, "goodput_per_s"), ERROR),
    "measured": {"ramp": RAMP}, "predicted": {"ramp": RAMP}, "paper": [PAPER, PAPER | {"users": 10_000}],
}  # fmt: skip


@pytest.fixture
def planned(tmp_path) -> Reports:
    worse = {"errors_by_quantity": dict.fromkeys((*NAMES, "goodput_per_s"), ERROR | {"worst": 1.0, "high": 1.0})}
    two = PLANNED | worse | {"git_commit": "def"}
    write_json(tmp_path / "benchmarks" / "planning.json", {"2": two, "1": PLANNED})
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
    assert errors.index("| requests/s | 1 | -5 % | -20 % | 3 |") < errors.index(
        "| requests/s | 2 | -5 % | +100 % | 3 |"
    )
    assert "1 replica: teacher-int8, two cores, commit abc; 2 replicas: teacher-int8, two cores, commit def." in errors
    row = "| 1,000 | 3.3 | 3 [2, 4] | 3 to 6 | 100 [90, 125] | 400 [360, 500] | 88 % | 70 % | 189 [126, 252] |"
    assert row in paper  # 3.3 / 1.25 = 2.64 replicas, times 0.8 and 2; 3.3 / 3 / 1.25 = 88 %
    assert "teacher-int8, two cores, commit abc." in paper
    assert "each 5 minutes, 106 tokens in" in paper and "an assumption" in paper
    assert "(requests/s -20 to +10 %, TTFT p95 -20 to +10 %)" in paper
    assert "With 2 replicas on one machine goodput was predicted -20 to +100 % off" in paper
    decided = SECTIONS["serving_decision"](planned)
    assert "with 1 replica alone on its machine, requests/s -5 / -20 %" in decided
    assert "with 2 replicas that share one machine, requests/s -5 / +100 %" in decided
    assert "1,000 users: 3 [2, 4] replicas for 189 USD a month, 3 to 6 if off" in decided


def test_a_plan_without_a_run_of_several_says_so(tmp_path):
    write_json(tmp_path / "benchmarks" / "planning.json", {"1": PLANNED})
    paper = SECTIONS["serving_paper"](Reports(tmp_path))
    assert "| 3 [2, 4] | - |" in paper and "No run with more replicas stands behind it" in paper


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
    phase = {"goodput_per_s": 2.5, "peak_share": 0.91, "ttft_p99_ms": 4321.0, "rejected": 7.0, "refusal_p99_ms": 51.0}
    strategy = {"requests_per_s": 3.25, "ttft_ms": {"p50": 101.0, "p95": 202.0}, "cached_share": 0.84, "requests": 60}
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
                        "requests": 130,
                        "requests_per_s": 3.5,
                        "ttft_ms": {"p50": 101.0, "p95": 102.0},
                        "by_slots": {"8": 41, "4": 20},
                        "imbalance": 1.02,
                    },
                },
            },
            "overload": {
                "settings": {"slo_ttft_ms": 5000.0, "slo_itl_ms": 250.0},
                "targets": {
                    "2 replicas": {
                        "10x": {**phase, "failures": 0.0, "peak_share": 0.5, "ttft_p99_ms": 5001.0},
                        "5x": {**phase, "failures": 0.0},
                        "client": {},
                    },
                    "server": {"2x": {**phase, "failures": 0.0, "refusal_p99_ms": None}},
                },
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
    assert "| prefix aware | 3.50 | 101 / 102 | 84% | 41 : 20 | 1.02 |" in cluster
    rows = ["| server | 2x |", "| 2 replicas | 5x | 2.50 | 91% | 4,321 | 7 | 51 | 0 |", "| 2 replicas | 10x |"]
    assert sorted(rows, key=cluster.index) == rows  # baselines first, loads as they grow
    outside = "**2 replicas** at 5x: 429 p99 51 ms; at 10x: TTFT p99 5,001 ms, goodput 50%, 429 p99 51 ms."
    outside += " All kept by: server."
    assert outside in cluster
    assert "| one of two killed, again and again | 300 | 1 | 0 | 0 | 9 | 0.25 / 2.25 | - |" in chaos
    decided = SECTIONS["serving_decision"](reports)
    assert "8 were killed in 180 s under load: of 300 requests 0 failed and 0 were altered" in decided
    assert outside in decided
    assert "Prefix aware gave the most answers, 130 against 60 at least, beyond chance" in decided
    assert "TTFT p95 of prefix aware: 102 ms, of the next one 202 ms" in decided


def test_strategies_within_chance_have_no_winner():
    one = {"cached_share": 0.5, "ttft_ms": {"p95": 10.0}}
    assert compared({"a": one | {"requests": 100}, "b": one | {"requests": 128}}).startswith(
        "No strategy wins: 100 to 128"
    )
    assert "beyond chance" in compared({"a": one | {"requests": 100}, "b": one | {"requests": 131}})


def test_equality_is_told_of_every_variant_and_way(tmp_path):
    way = {"answers": 200, "differing": 0}
    head = {"device": "d", "tokens": 128, "threads": 1}
    data = {
        "a ort": {**head, "git_commit": "x", "ways": {"after failover": way | {"resumed": 99}, "alone": way}},
        "b ort": {**head, "git_commit": "y", "ways": {"through the cluster": way | {"differing": 3}, "alone": way}},
    }
    write_json(tmp_path / "benchmarks" / "equivalence.json", data)
    text = SECTIONS["serving_equivalence"](Reports(tmp_path))
    rows = [line for line in text.splitlines() if " of 200" in line and line.startswith("|")]
    assert rows == [
        "| alone | 0 of 200 | 0 of 200 |",
        "| through the cluster | - | 3 of 200 |",
        "| after failover | 0 of 200 | - |",
    ]
    assert "a ort: 99 of 200 answers went on at another replica (after failover)" in text
    assert "a ort: d, commit x; b ort: d, commit y." in text


def test_the_committed_equality_shows_all_that_was_run():
    reports = Reports(ROOT / "reports")
    text = SECTIONS["serving_equivalence"](reports)
    ran = {way for one in reports["benchmarks/equivalence"].values() for way in one["ways"]}
    assert all(f"\n| {way} | " in text for way in ran)
    assert all(f" {name} |" in text.splitlines()[0] for name in reports["benchmarks/equivalence"])


def test_clients_that_differ_are_told_by_how_much(tmp_path):
    sides = {"aiperf": {"ttft_ms": 60.0}, "ours": {"ttft_ms": 100.0}}
    ratios = {"ttft_ms": 0.6, "itl_ms": 1.09, "requests_per_s": 1.0, "prompt_tokens": 1.0}
    data = {"checks": [], "versions": {}, "load": {"repeats": 1}, "device": "d", "streams": {"8": {"ratios": ratios}}}
    data["streams"]["8"]["repeats"] = [sides]
    write_json(tmp_path / "benchmarks" / "outside_clients.json", data)
    assert "with 8 streams by TTFT -40 % (60 / 100)" in SECTIONS["serving_clients"](Reports(tmp_path))
    data["streams"]["8"]["ratios"] = ratios | {"ttft_ms": 0.95}
    write_json(tmp_path / "benchmarks" / "outside_clients.json", data)
    assert "They agree within 10% everywhere" in SECTIONS["serving_clients"](Reports(tmp_path))


def test_where_llama_cpp_is_faster_the_decision_says_so(tmp_path):
    def side(ratio, high):
        return {"ratio": ratio, "interval": [ratio - 0.1, high]}

    row = dict.fromkeys(PEERS, side(1.5, 1.6)) | {"ttft_ms": side(0.8, 0.9), "copying_tokens_per_s": side(0.9, 1.1)}
    write_json(tmp_path / "benchmarks" / "llama_cpp.json", {"variants": {"v": row}})
    decided = SECTIONS["serving_decision"](Reports(tmp_path))
    assert "It is slower: v in TTFT 0.80 [0.70, 0.90]." in decided
    assert "Below 1, with 1 in the interval: v in copying 0.90 [0.80, 1.10]." in decided


@pytest.mark.parametrize("run", ["r", "other"])
def test_a_load_test_is_of_the_commit_of_its_own_run(tmp_path, run):
    write_json(
        tmp_path / "loadtest" / "steady.json",
        read_json(ROOT / "reports" / "loadtest" / "steady.json") | {"run_id": "r"},
    )
    write_json(tmp_path / "runs" / "loadtest-steady.json", {"run_id": run, "git_commit": "abc"})
    text = SECTIONS["serving_steady"](Reports(tmp_path))
    assert ("commit abc, run r." in text) == (run == "r") and "run r." in text
