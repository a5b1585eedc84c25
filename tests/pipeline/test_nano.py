"""The whole chain on the profile `nano`: what runs, what does not run again, what is the same twice."""

import hashlib
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from tests.support import checkout, repro
from tradewind.compression.calibration import CalibrationConfig, calibration_rows
from tradewind.compression.kv_cache import SCALES_FILE, kv_scales, load_scales
from tradewind.compression.quantize import dequantize, load_tensors
from tradewind.compression.variant import split_name
from tradewind.config import read_params
from tradewind.files import read_json, write_json
from tradewind.model.tokenizer import Tokenizer
from tradewind.model.weights import load_hf, to_model

MEASURING = {"finetune", "distill", "evaluate", "benchmark", "loadtest", "report"}
VARIANTS = {
    "base-fp32",
    "teacher-fp32",
    "teacher-int8",
    "teacher-mixed",
    "student-fp32",
    "student-int8",
    "student-int4-qat",
}


def would_run(copy: Path) -> set[str]:
    """Names of the stages that `dvc repro` would run: not those of the studies, which have a dvc.yaml of their own."""
    answer = subprocess.run([sys.executable, "-m", "dvc", "status", "--json"], cwd=copy, capture_output=True, text=True,
                            check=True, env=os.environ | {"PYTHONPATH": str(copy / "src")})  # fmt: skip
    return {name.partition("@")[0] for name in yaml.safe_load(answer.stdout) if ":" not in name}


def test_every_variant_is_in_the_summary(nano_run):
    summary = read_json(nano_run / "reports" / "summary.json")
    assert set(summary["variants"]) == VARIANTS
    assert summary["profile"] == "nano"


def test_no_key_or_value_of_the_calibration_text_is_clipped_in_an_int8_cache(nano_run):
    """As the rounded weights make them, for each of a model's recipes."""
    params = read_params(nano_run / "params.yaml")
    choice = params["quantize"]
    settings, text = CalibrationConfig(**choice["calibration"]), nano_run / "artifacts" / "corpus" / "train.jsonl"
    for name in choice["variants"]:
        model, folder = nano_run / "artifacts" / split_name(name)[0], nano_run / "artifacts" / "quantized" / name
        batches, _ = calibration_rows(text, Tokenizer.load(model), settings, params["seed"])
        rounded = to_model(load_hf(model)[0], dequantize(load_tensors(folder / "model.safetensors")))
        reached = kv_scales(rounded, batches) / load_scales(folder / SCALES_FILE)
        assert reached.max() < 1.0001, name


@pytest.mark.timing
def test_a_second_run_does_nothing_and_is_quick(nano_run):
    started = time.monotonic()
    answer = repro(nano_run.parents[2], "nano")
    assert "Running stage" not in answer.stdout
    assert time.monotonic() - started < 20
    assert would_run(nano_run) == set()


def test_one_parameter_reruns_only_what_depends_on_it(nano_run):
    params = nano_run / "params.yaml"
    before = params.read_text(encoding="utf-8")
    try:
        changed = yaml.safe_load(before)
        changed["distill"]["student"]["learning_rate"] = 1e-5
        params.write_text(yaml.safe_dump(changed), encoding="utf-8")
        assert would_run(nano_run) == {"distill"}
    finally:
        params.write_text(before, encoding="utf-8")


def test_another_host_reruns_what_measures_and_nothing_else(nano_run):
    path = nano_run / ".tradewind" / "host.json"
    before = read_json(path)
    try:
        write_json(path, before | {"processor": "another"})
        assert would_run(nano_run) == {"evaluate", "benchmark", "loadtest", "report"}
    finally:
        write_json(path, before)


def hashes(copy: Path) -> dict[str, str]:
    """SHA-256 of every file that the stages wrote and that measures neither time nor memory."""
    return {
        str(path.relative_to(copy)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted((copy / "artifacts").rglob("*"))
        if path.is_file()
    }


@pytest.mark.slow
def test_two_runs_are_the_same_to_the_byte(nano_run, tmp_path):
    second = checkout(tmp_path / "second")
    repro(second, "nano")
    assert hashes(second / ".tradewind" / "runs" / "nano") == hashes(nano_run)


def test_altered_data_are_refused_and_git_is_clean(tmp_path):
    repository = checkout(tmp_path)
    (repository / "data" / "base").mkdir(parents=True)
    (repository / "data" / "base" / "SmolLM2-135M-Instruct.Q4_1.gguf").write_bytes(b"mine")
    answer = repro(repository, "cpu", check=False)
    assert answer.returncode == 2
    assert "SmolLM2-135M-Instruct.Q4_1.gguf is altered" in answer.stderr
    status = subprocess.run(
        ["git", "status", "--porcelain"], cwd=repository, capture_output=True, text=True, check=True
    )
    assert status.stdout == ""
