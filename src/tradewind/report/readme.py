"""Figures in README.md come from reports/: a marked block holds the table, marked spans hold single figures.

    <!-- measured:begin --> ... <!-- measured:end -->                    the measured table, what the served variant
                                                                         refuses, the paired differences
    <!--= summary/variants/teacher-int8/answer_f1 .2f -->0.79<!-- = -->  one figure of reports/summary.json; a file of
                                                                         a folder of reports/ is named with its folder

`render` replaces what stands between the marks; a README is right where rendering changes nothing.
"""

import difflib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tradewind.errors import UserError
from tradewind.files import read_json, write_text
from tradewind.report.table import differences_table, figure, measured_table

BEGIN, END = "<!-- measured:begin -->", "<!-- measured:end -->"
BLOCK = re.compile(re.escape(BEGIN) + r".*?" + re.escape(END), re.DOTALL)
SPAN = re.compile(r"(<!--= (\S+) (\S+) -->)(.*?)(<!-- = -->)")


class Reports(dict[str, Any]):
    """The JSON files of a reports folder by their path without `.json`, read when first asked for."""

    def __init__(self, folder: str | Path = "reports") -> None:
        super().__init__()
        self.folder = Path(folder)

    def __missing__(self, name: str) -> Any:
        self[name] = read_json(self.folder / f"{name}.json")
        return self[name]


def render(text: str, reports: Mapping[str, Any]) -> str:
    """README text with every marked block and span as `reports` has them. Raises UserError where the block is
    missing."""
    if not BLOCK.search(text):
        raise UserError(f"README.md has no block {BEGIN} ... {END}")
    summary, comparisons = reports["summary"], reports["comparisons"]
    parts = [measured_table(summary, comparisons), refusals(reports), differences_table(comparisons)]
    tables = "\n".join(part for part in parts if part)
    block = f"{BEGIN}\n{tables}{END}"
    text = BLOCK.sub(lambda _: block, text)
    return SPAN.sub(lambda m: f"{m[1]}{_figure(reports, m[2], m[3])}{m[5]}", text)


def refusals(reports: Mapping[str, Any]) -> str:
    """One line: how the served variant refuses; empty where none is served."""
    if not (name := reports["gate"]["champion"]):
        return ""
    result = reports[f"evaluate/{name}"][name]
    shown = [
        f"{words} {result['metrics'][key]:.2f} (n = {result['n'][key]})"
        for key, words in (
            ("refusal_precision", "precision of refusals"),
            ("refusal_recall", "recall of unanswerable questions"),
            ("false_refusals", "answerable questions refused"),
        )
        if result["metrics"].get(key) is not None
    ]
    return f"Served by default: {name}; {', '.join(shown)}.\n"


def _figure(reports: Mapping[str, Any], path: str, form: str) -> str:
    name, _, rest = path.partition("/")
    while isinstance(reports, Reports) and (reports.folder / name).is_dir():
        part, _, rest = rest.partition("/")
        name = f"{name}/{part}"
    return figure(reports[name], rest, form)


def check(path: str | Path, reports: str | Path = "reports") -> list[str]:
    """Lines of a diff between the file and what it should be; empty where it is right."""
    text = Path(path).read_text(encoding="utf-8")
    right = render(text, Reports(reports))
    return list(difflib.unified_diff(text.splitlines(), right.splitlines(), str(path), "as measured", lineterm="", n=0))


def write(path: str | Path, reports: str | Path = "reports") -> bool:
    """Render the file in place; returns whether it changed."""
    text = Path(path).read_text(encoding="utf-8")
    right = render(text, Reports(reports))
    if right != text:
        write_text(path, right)
    return right != text
