"""Where the study keeps what it makes, and what it is to make (params.yaml beside this file)."""

from pathlib import Path
from typing import Any

from tradewind.config import read_params

STUDY = "compression"
MADE = Path("artifacts/studies/compression")
VARIANTS = MADE / "variants"
REPORTS = Path("reports/studies/compression")
SUMMARY, RUNS = Path("reports/compression.json"), Path("reports/runs")


def plan() -> dict[str, Any]:
    return read_params(Path(__file__).with_name("params.yaml"))


def planned() -> list[str]:
    """Names of the study's variants, from its dvc.yaml; results of others may lie about."""
    parts = read_params(Path(__file__).with_name("dvc.yaml"))["vars"]
    return next(list(part["variants"]) for part in parts if "variants" in part)


def model_folder(name: str) -> Path:
    """Of a model's float weights."""
    return Path("artifacts") / name
