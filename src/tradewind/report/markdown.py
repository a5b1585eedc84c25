"""Tables of Markdown, and the line that says what was measured on what."""

from collections.abc import Mapping
from typing import Any


def table(head: list[str], rows: list[list[str]]) -> str:
    lines = ["| " + " | ".join(head) + " |", "|---|" + "---:|" * (len(head) - 1)]
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in rows)]) + "\n"


def source(data: Mapping[str, Any]) -> str:
    """On what it was measured."""
    facts = [data.get("variant"), data.get("device"), f"commit {data['git_commit']}" if "git_commit" in data else None]
    return "\n" + ", ".join(str(fact) for fact in facts if fact) + ".\n"
