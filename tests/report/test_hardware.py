"""Notebook 4's sections over reports made by hand."""

import pytest

from tradewind.files import write_json
from tradewind.report.hardware import SECTIONS
from tradewind.report.readme import Reports


def point(program, tokens, rows, error, variant="student-int8"):
    return {
        "variant": variant, "engine": "ort", "program": program, "rows": rows, "tokens": tokens, "context": 193,
        "seconds": 0.1, "tokens_per_s": 10.0 * rows * tokens, "predicted_s": 0.1 * (1 + error), "error": error,
        "utilization": 0.5,
    }  # fmt: skip


def host(errors, joules=None):
    whole = {"peak_rss_bytes": 255e6, "load_s": 0.5} | ({"joules_per_token": {"value": joules}} if joules else {})
    points = [point("prefill", 256, 1, 0.1), point("decode", 1, 1, -0.2), point("decode", 1, 8, 0.3)]
    part = {"chip": "a CPU", "plan": {"prompts": [32, 256], "rows": [1, 8]}, "points": points, "errors": errors,
            "variants": {"student-int8": whole}}  # fmt: skip
    return {
        "tier": "measured",
        "device": "a CPU, 2 cores",
        "slug": "a-cpu",
        "git_commit": "abc",
        "engines": {"ort": part},
    }


@pytest.fixture
def reports(tmp_path):
    return Reports(tmp_path)


def test_what_was_not_measured_names_its_command(reports):
    for name in ("measured", "roofline"):
        assert "`make bench`" in SECTIONS[f"hardware_{name}"](reports)
    for name in ("compiled", "trip"):
        assert "`make study NAME=hardware`" in SECTIONS[f"hardware_{name}"](reports)


def test_hosts_have_a_table_each_and_other_tiers_none(reports):
    write_json(
        reports.folder / "hardware" / "a-cpu.json", host({"n": 3, "median": 0.2, "worst": 0.3, "bias": 0.1}, 0.25)
    )
    write_json(reports.folder / "hardware" / "compiled.json", {"tier": "compiled", "programs": []})
    text = SECTIONS["hardware_measured"](reports)
    assert "| student-int8, ort | 2,560 | 10 | 80 | 50% | 50% | 50% | 255 | 0.25 |" in text
    assert text.count("a CPU, 2 cores, commit abc") == 1


@pytest.mark.parametrize(("median", "worst", "reached"), [(0.2, 0.4, "yes"), (0.21, 0.3, "no"), (0.1, 0.41, "no")])
def test_the_roofline_is_held_to_its_goal(reports, median, worst, reached):
    errors = {"n": 3, "median": median, "worst": worst, "bias": -0.05}
    write_json(reports.folder / "hardware" / "a-cpu.json", host(errors))
    text = SECTIONS["hardware_roofline"](reports)
    assert f"| a-cpu, ort | 3 | {median:.0%} | {worst:.0%} | -5% | {reached} |" in text
    assert "Farthest off: student-int8 (ort), decode 8: +30%; student-int8 (ort), decode 1: -20%" in text


def test_a_round_trip_says_what_was_expected_beside_what_came(reports):
    trip = {
        "device": "a CPU", "git_commit": "abc", "asked": {"slo": "f1=0.8"}, "rate": 1.5,
        "chosen": {"variant": "student-int8", "engine": "ort", "replicas": 1},
        "predicted": {"ttft_p95_ms": 110.0}, "measured": {"ttft_p95_ms": 100.0}, "errors": {"ttft_p95_ms": 0.1},
    }  # fmt: skip
    write_json(reports.folder / "studies" / "hardware" / "trip.json", trip)
    text = SECTIONS["hardware_trip"](reports)
    assert (
        "| ttft p95 ms | 110.00 | 100.00 | +10% | yes |" in text and "student-int8 by ort, 1 replica, at 1.50" in text
    )


def test_devices_are_what_others_claim(reports):
    assert "| NVIDIA H200 SXM 141 GB | 989 | 141 | 4,800 | 700 | 2.50 to 7.00 |" in SECTIONS["hardware_devices"](
        reports
    )


def test_training_is_told_in_tokens_and_arithmetic(reports):
    write_json(reports.folder / "compression.json", {"variants": {"teacher-fp32": {"parameters": 10**8}}})
    for name, method in (("finetune", "lora"), ("distill", None)):
        params = {"matmul_precision": "bfloat16"} | ({"method": method} if method else {})
        rates = [{"name": "trained_tokens_per_s", "value": 500.0}]
        write_json(reports.folder / "runs" / f"{name}.json",
                   {"device": "a CPU, 2 cores", "variant": "teacher", "params": params, "measurements": rates})  # fmt: skip
    text = SECTIONS["hardware_training"](reports)
    assert "| finetune | teacher | bfloat16 | 500 | 200 |" in text
    assert "| distill | teacher | bfloat16 | 500 | 300 |" in text


def test_plans_show_a_table_for_each_tier_and_what_could_not_be_had(reports):
    one = {"name": "a on 1 x b", "tier": "measured", "f1": 0.9, "ttft_p95_ms": 300.4, "usd_hour": 0.1,
           "usd_per_million": 1.234, "joules": None, "carbon_g_per_1000": None, "joules_tier": "-"}  # fmt: skip
    other = {
        **one,
        "name": "a on 1 x c",
        "tier": "modelled",
        "joules": 3.0,
        "carbon_g_per_1000": 0.4,
        "joules_tier": "modelled",
    }
    kept = {"slo": "f1=0.8", "load": "rate=1", "left_out": {"t4": "no price"}, "chosen": one, "pareto": [one, other],
            "reasons": ["cheapest"]}  # fmt: skip
    lost = {"slo": "f1=1", "load": "rate=1", "left_out": {}, "words": "no variant"}
    write_json(
        reports.folder / "studies/hardware/plans.json", {"git_commit": "abc", "reach": 0.6, "goals": [kept, lost]}
    )
    text = SECTIONS["hardware_plans"](reports)
    assert "| **a on 1 x b** | 0.900 | 300 | 0.100 | 1.23 | - | - | - |" in text
    assert text.index("| times measured |") < text.index("| times modelled |") < text.index("no variant.")
    assert "Not planned for: t4: no price. Modelled at 60% of claimed peaks." in text
