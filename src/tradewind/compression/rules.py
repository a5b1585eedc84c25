"""Quantization rules: an ordered table from tensor names to dtypes.

A rule is a regular expression that must match a whole tensor name; the first rule that matches decides. Every tensor
must be decided by a rule and every rule must decide a tensor: a table that has drifted from its model is an error.
Nothing here knows how a dtype is quantized.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass

from tradewind.errors import UserError

DTYPES = ("float32", "int8", "int4", "w8a8")


@dataclass(frozen=True)
class Rule:
    """`tensors`: regular expression over whole Hugging Face tensor names. `dtype`: one of DTYPES."""

    tensors: str
    dtype: str

    def __post_init__(self) -> None:
        if self.dtype not in DTYPES:
            raise UserError(f"rule {self.tensors!r}: unknown dtype {self.dtype!r} (choices: {', '.join(DTYPES)})")
        try:
            re.compile(self.tensors)
        except re.error as error:
            raise UserError(f"rule {self.tensors!r} is not a regular expression: {error}") from None


def read_rules(rows: Iterable[Mapping[str, str]]) -> tuple[Rule, ...]:
    """Rules from their rows in a configuration: `{"tensors": regular expression, "dtype": name}`."""
    rules = []
    for row in rows:
        if set(row) != {"tensors", "dtype"}:
            raise UserError(f"rule {dict(row)}: the keys must be tensors and dtype")
        rules.append(Rule(row["tensors"], row["dtype"]))
    return tuple(rules)


def rules_as_rows(rules: Iterable[Rule]) -> list[dict[str, str]]:
    return [asdict(rule) for rule in rules]


def assign(rules: Sequence[Rule], names: Iterable[str]) -> dict[str, str]:
    """Tensor name -> dtype, in the order of `names`.

    Raises:
        UserError: tensors that no rule matches, or rules that decide no tensor.
    """
    used: set[Rule] = set()
    table: dict[str, str] = {}
    unmatched = []
    for name in names:
        rule = deciding(rules, name)
        if rule is None:
            unmatched.append(name)
            continue
        used.add(rule)
        table[name] = rule.dtype
    if unmatched:
        raise UserError(f"no quantization rule matches {_some(unmatched)}")
    if unused := [rule.tensors for rule in rules if rule not in used]:
        raise UserError(f"quantization rules that decide no tensor: {_some(unused)}")
    return table


def deciding(rules: Sequence[Rule], name: str) -> Rule | None:
    """The first rule that matches the whole name."""
    return next((rule for rule in rules if re.fullmatch(rule.tensors, name)), None)


def _some(names: Sequence[str]) -> str:
    shown = ", ".join(names[:3])
    return shown if len(names) <= 3 else f"{shown} and {len(names) - 3} more"
