"""Other people's programs, run as they are: to their end, bounded in time, without this project's environment."""

import os
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from tradewind.errors import UserError

COMMAND_S = 180
"""Seconds that one command may take."""


def outside(**more: str) -> dict[str, str]:
    """An environment without this project's import paths, keys of its user's, or calls to a hub."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("OPENAI_", "LLM_", "PYTHON"))}
    return kept | {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"} | more


def command(words: Sequence[str], env: Mapping[str, str], seconds: float = COMMAND_S) -> str:
    """What it printed. Raises UserError where it fails or takes too long."""
    name = Path(words[0]).name
    try:
        ended = subprocess.run(words, capture_output=True, text=True, check=False, timeout=seconds, env=dict(env))
    except subprocess.TimeoutExpired:
        raise UserError(f"{name} did not end within {seconds:.0f} s") from None
    if ended.returncode:
        said = (ended.stderr or ended.stdout).strip().splitlines() or ["no word"]
        raise UserError(f"{name} ended with exit code {ended.returncode}: {said[-1]}")
    return ended.stdout


def version_of(executable: str | None) -> str | None:
    """What it says of its version."""
    if not executable:
        return None
    answer = subprocess.run(
        [executable, "--version"], capture_output=True, text=True, check=False, timeout=COMMAND_S, env=outside()
    )
    return answer.stdout.strip() or None
