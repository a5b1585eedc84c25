"""Tables of Markdown, and the line that says what was measured on what."""

from collections.abc import Mapping
from os.path import commonprefix
from typing import Any


def table(head: list[str], rows: list[list[str]]) -> str:
    lines = ["| " + " | ".join(head) + " |", "|---|" + "---:|" * (len(head) - 1)]
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in rows)]) + "\n"


def origin(data: Mapping[str, Any]) -> str:
    """Variant, device, commit and run of a report, as far as it names them."""
    commit, run = data.get("git_commit"), data.get("run_id")
    facts = [
        data.get("variant"),
        data.get("device"),
        f"commit {commit}" if commit else None,
        f"run {run}" if run else None,
    ]
    return ", ".join(str(fact) for fact in facts if fact)


def source(data: Mapping[str, Any]) -> str:
    """On what it was measured."""
    return f"\n{origin(data)}.\n"


def source_of_variants(data: Mapping[str, Any]) -> str:
    """On what it was measured, where figures of a variant come from runs of its own: when, and what the ids of the runs share
    that hold all figures of one, whose parameters name those."""
    ids = list(data["runs"].values())
    stage = ids[0].partition("-")[0]
    stamp = commonprefix([one.rsplit("-", 2)[1] for one in ids])  # noqa: RUF071 - of characters is what is meant
    made = sorted(one.rsplit("-", 2)[1] for row in data["variants"].values()
                  for one in (row["evaluated_in"], *row["measured_in"]))  # fmt: skip
    first, last = (f"{one[:4]}-{one[4:6]}-{one[6:8]}" for one in (made[0], made[-1]))
    days = first if first == last else f"{first} to {last}"
    return (f"\n{data['device']}; evaluated and measured {days}, seed {data['seed']}; put together at commit "
            f"{data['git_commit']}; runs `{stage}-VARIANT-{stamp}...` name their sources.\n")  # fmt: skip


def sources(named: Mapping[str, Mapping[str, Any]]) -> str:
    """Where parts of a table were measured apart: a line that tells each, those of one origin together."""
    parts: dict[str, list[str]] = {}
    for name, data in named.items():
        parts.setdefault(origin(data), []).append(name)
    if len(parts) == 1:
        return f"\n{next(iter(parts))}.\n"
    return "\n" + "; ".join(f"{', '.join(names)}: {told}" for told, names in parts.items()) + ".\n"


def listed(parts: list[str]) -> str:
    """["a", "b", "c"] -> "a, b and c"."""
    return " and ".join(part for part in (", ".join(parts[:-1]), *parts[-1:]) if part)
