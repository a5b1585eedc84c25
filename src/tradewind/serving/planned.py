"""A deployment that was planned: a file of conf/serve/ with the values of `serve`, and how many replicas they are for."""

from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import yaml

from tradewind.config import read_params
from tradewind.errors import UserError
from tradewind.serving.settings import ServeSettings

REPLICAS = "replicas"


def read_planned(path: Path) -> tuple[dict[str, Any], int]:
    """Values of `ServeSettings`, and replicas. Raises UserError for a file that is none."""
    if not path.is_file():
        raise UserError(f"{path}: no such plan (`python -m tradewind.hardware plan` writes one)")
    values = read_params(path)
    replicas = values.pop(REPLICAS, 1)
    known = {field.name for field in fields(ServeSettings)}
    if unknown := sorted(set(values) - known):
        raise UserError(f"{path}: unknown key {unknown[0]!r}")
    if not isinstance(replicas, int) or replicas < 1:
        raise UserError(f"{path}: replicas must be a number from 1, not {replicas!r}")
    return values, replicas


def planned_text(values: Mapping[str, Any], replicas: int, about: str) -> str:
    """The file. about: lines that say what it is for, as comments."""
    head = "".join(f"# {line}\n" for line in about.splitlines())
    return head + yaml.safe_dump({**values, REPLICAS: replicas}, sort_keys=False)
