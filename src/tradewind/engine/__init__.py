"""Engines: one contract, three engines, and what is above every engine (sampling, detokenization, the scheduler).

Importing this package imports no engine: `load_engine` brings in only the library that it needs.
"""

from importlib import import_module
from pathlib import Path
from typing import cast

from tradewind.engine.contract import Engine, EngineError, Prefix
from tradewind.errors import UserError

ENGINES = {"ort": "OrtEngine", "jax": "JaxEngine", "mock": "MockEngine"}
"""Engine name, which is also its module's, and the class there."""

__all__ = ["ENGINES", "Engine", "EngineError", "Prefix", "load_engine"]


def load_engine(
    variant: Path | str | None, engine: str = "ort", slots: int = 8, max_len: int = 2048, threads: int = 2
) -> Engine:
    """An engine over a variant folder (None for the mock). Raises UserError naming what is missing and the choices."""
    if engine not in ENGINES:
        raise UserError(f"unknown engine {engine!r} (choices: {', '.join(ENGINES)})")
    if engine != "mock" and (variant is None or not (Path(variant) / "manifest.json").is_file()):
        raise UserError(f"no variant at {variant}: engine {engine} needs a folder with a manifest.json")
    module = import_module(f"tradewind.engine.{engine}")
    folder = None if variant is None else Path(variant)
    made = getattr(module, ENGINES[engine]).load(folder, slots=slots, max_len=max_len, threads=threads)
    return cast(Engine, made)
