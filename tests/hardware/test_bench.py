"""A bench of a tiny variant: what is measured, what is predicted, and what is written."""

import gzip
import json
from dataclasses import asdict

import pytest

from tests.compression.tiny import tiny_variant
from tradewind import host
from tradewind.hardware import bench
from tradewind.hardware.bench import BenchPlan, errors, points, seen, slug
from tradewind.hardware.peaks import Peaks
from tradewind.hardware.places import measured, models
from tradewind.load.prices import PRICE

PEAKS = Peaks(
    dict.fromkeys(("float32", "int8", "int4", "attention.float32", "attention.int8"), 100000000000.0),
    dict.fromkeys(("float32", "int8", "int4", "attention.float32", "attention.int8", "elementwise"), 10000000000.0),
    1e-6, 1e-5, (10, 4),
)  # fmt: skip
PLAN = {"slots": 2, "max_len": 96, "threads": 1, "repeats": 2, "warm_up": 0, "prompts": (8, 16), "rows": (1, 2),
        "context": 32, "metered": 0.0}  # fmt: skip


@pytest.fixture
def result(tmp_path, monkeypatch):
    facts = {"chip": host.processor(), "dtype": "float32", "meter": None, "peaks": asdict(PEAKS)}
    monkeypatch.setattr(bench, "in_process", lambda *_: facts)
    monkeypatch.setattr(bench, "RUNS", tmp_path / "runs")
    tiny_variant(tmp_path / "variants" / "base-int4", "int4")
    return bench.bench({"base-int4": tmp_path / "variants" / "base-int4"}, ["ort"], PLAN, 0, tmp_path / "hardware")


def test_every_point_is_measured_predicted_and_recorded(result, tmp_path):
    found = result["engines"]["ort"]["points"]
    assert [(row["program"], row["tokens"], row["rows"], row["context"]) for row in found] == [
        ("prefill", 8, 1, 8), ("prefill", 16, 1, 16), ("decode", 1, 1, 33), ("decode", 1, 2, 33),
    ]  # fmt: skip
    for row in found:
        assert row["n"] == 2 and row["interval"][0] <= row["seconds"] <= row["interval"][1]
        assert row["error"] == pytest.approx(row["predicted_s"] / row["seconds"] - 1)
        assert row["tokens_per_s"] == pytest.approx(row["rows"] * row["tokens"] / row["seconds"])
    stored = json.loads((tmp_path / "hardware" / f"{result['slug']}.json").read_text())
    assert stored["engines"]["ort"]["errors"]["n"] == 4 and stored["tier"] == "measured"
    (record,) = (tmp_path / "runs").glob("bench-*-base-int4-ort.json")
    told = json.loads(record.read_text())
    assert told["tags"]["device"] == result["slug"] and len(told["measurements"]) == 5
    assert "base-int4 | prefill 8" in bench.table(result) and "median" in bench.table(result)


def test_a_planner_reads_what_a_bench_wrote(result, tmp_path):
    """Seconds of a known machine stand in for the measured ones: those of so small a model need not grow with it."""
    known = models_of(result, tmp_path, host.processor())
    (place,) = measured(known, tmp_path, 33, 2)
    assert (place.tier, place.engine, place.joules, place.threads) == ("measured", "ort", None, PLAN["threads"])
    cores = result["host"]["cores"]
    assert place.device == result["slug"] and place.price == pytest.approx(PRICE * cores / 2)
    (longer,) = measured(known, tmp_path, 64, 2)
    assert longer.tier == "extended" and longer.times.step + longer.times.row >= place.times.step + place.times.row
    assert longer.needs > place.needs and not [*measured(known, tmp_path, 33, 2, only="another")]
    assert (place.times.call, place.times.prefill_rate) == (pytest.approx(0.002), pytest.approx(500))
    assert (place.times.step, place.times.row) == (pytest.approx(0.003), pytest.approx(0.001))


def test_a_bench_of_some_variants_keeps_the_others(result):
    other = {**result["engines"]["ort"]["points"][0], "variant": "student", "error": 0.5}
    part = {**result["engines"]["ort"], "points": [other], "variants": {"student": {}}}
    both = bench.joined({**result, "engines": {"ort": part, "jax": part}}, result)
    kept = both["engines"]["ort"]
    assert set(kept["variants"]) == {"student", "base-int4"} and kept["errors"]["n"] == len(kept["points"]) == 5
    assert bench.joined(result, result) == result and both["engines"]["jax"] == part


def test_a_chip_that_is_measured_is_priced_as_itself_or_not_at_all(result, tmp_path):
    known = models_of(result, tmp_path, "NVIDIA H200")
    (place,) = measured(known, tmp_path, 33, 2)
    assert place.device == "nvidia-h200" and place.price > 1 and place.watts == 700
    known = models_of(result, tmp_path, "a chip of tomorrow")
    (left_out,) = measured(known, tmp_path, 33, 2)
    assert "no file of conf/hardware" in left_out.why


def models_of(result, tmp_path, chip):
    result["engines"]["ort"]["chip"] = chip
    for row in result["engines"]["ort"]["points"]:
        row["seconds"] = 0.002 + row["tokens"] / 500 if row["program"] == "prefill" else 0.003 + 0.001 * row["rows"]
    (tmp_path / "hardware" / f"{result['slug']}.json").write_text(json.dumps(result))
    return models(tmp_path)["base-int4"]


def test_a_trace_is_kept_that_perfetto_reads(tmp_path):
    tiny_variant(tmp_path / "base-int4", "int4")
    bench.trace(tmp_path / "base-int4", PLAN, tmp_path / "traces")
    (kept,) = (tmp_path / "traces").rglob("perfetto_trace.json.gz")
    assert b"traceEvents" in gzip.decompress(kept.read_bytes())


def test_errors_are_sizes_and_the_bias_keeps_its_sign():
    rows = [{"error": value} for value in (-0.3, 0.1, -0.2)]
    assert errors(rows) == {"median": 0.2, "worst": 0.3, "bias": -0.2, "n": 3}


def test_the_jax_engine_sees_whole_buckets():
    plan = BenchPlan("jax", 2, 1024, 1, 1, 0)
    assert [seen(plan, past, new) for past, new in ((0, 32), (255, 1), (256, 1), (1000, 1))] == [256, 256, 1024, 1024]
    assert seen(BenchPlan("ort", 2, 1024, 1, 1, 0), 255, 1) == 256
    assert [*points(BenchPlan("ort", 2, 64, 1, 1, 0, (4,), (1, 2), 8))] == [
        ("prefill", 4, 1), ("decode", 1, 1), ("decode", 1, 2),
    ]  # fmt: skip


def test_a_device_has_a_name_for_files():
    assert slug("NVIDIA H200, 570.1, Intel(R) Xeon(R), 16 cores, 128 GiB") == "nvidia-h200"
    assert slug("Intel(R) Xeon(R) Processor, 2 cores, 24 GiB") == "intel-xeon-processor-2-cores"
