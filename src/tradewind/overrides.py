"""SET='key=value ...': held against conf/ before Hydra composes, so that a mistake is one line with the choices.

Covered: unknown groups' choices, unknown keys, values of another type than the one they replace. Not covered: keys that
are added (`+key=`) or removed (`~key`), which the stage that reads them refuses.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from tradewind.errors import UserError

PLAIN = (bool, int, float, str)


def check(overrides: list[str], folder: Path, composed: Callable[[list[str]], Mapping[str, Any]]) -> None:
    """Raise a UserError for the first mistake. `composed` gives the parameters with some overrides."""
    from hydra.core.override_parser.overrides_parser import OverridesParser

    found = [
        one for one in OverridesParser.create().parse_overrides(overrides) if not (one.is_add() or one.is_delete())
    ]
    choices = {group: _choices(folder / group) for group in _groups(folder)}
    for one in found:
        if one.key_or_group in choices and one.value() not in choices[one.key_or_group]:
            known = ", ".join(choices[one.key_or_group]) or "none yet"
            raise UserError(f"unknown {one.key_or_group} {one.value()!r} (choices: {known})")
    values = [one for one in found if one.key_or_group not in choices]
    if values:
        before = composed([str(one.input_line) for one in found if one.key_or_group in choices])
        for one in values:
            _check_value(one.key_or_group, one.value(), before)


def _groups(folder: Path) -> set[str]:
    """The groups that conf/config.yaml lists, those of which no choice exists yet included."""
    import yaml

    listed = yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8"))["defaults"]
    return {str(next(iter(entry))) for entry in listed if isinstance(entry, dict)}


def _choices(group: Path) -> list[str]:
    return sorted(path.stem for path in group.glob("*.yaml"))


def _check_value(key: str, value: Any, tree: Any) -> None:
    passed: list[str] = []
    for part in key.split("."):
        if not isinstance(tree, Mapping) or part not in tree:
            known = f" (choices: {', '.join(sorted(tree))})" if isinstance(tree, Mapping) else ""
            raise UserError(f"{'.'.join(passed) or 'SET'}: unknown key {part!r}{known}")
        tree = tree[part]
        passed.append(part)
    wanted = float if isinstance(tree, float) else type(tree)
    fits = isinstance(value, (int, float) if wanted is float else wanted) and (wanted is bool) == isinstance(
        value, bool
    )
    if wanted in PLAIN and isinstance(value, PLAIN) and not fits:
        raise UserError(f"{key}: {value!r} is not of type {wanted.__name__}")
