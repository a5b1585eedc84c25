"""The measured table as Markdown, from reports/summary.json and reports/comparisons.json, and single figures for
prose."""

from collections.abc import Callable, Mapping
from typing import Any

from tradewind.errors import UserError
from tradewind.report.summary import in_order

Format = Callable[[Any], str]


def _number(template: str, scale: float = 1.0) -> Format:
    return lambda value: "-" if value is None else template.format(value * scale)


COLUMNS: tuple[tuple[str, str, Format], ...] = (
    ("parameters", "M params", _number("{:.1f}", 1e-6)),
    ("bytes", "weights MB", _number("{:.1f}", 1e-6)),
    ("answer_f1", "answer F1 [95 %]", _number("{:.3f}")),
    ("bits_per_byte", "bits/byte", _number("{:.3f}")),
    ("kl_to_parent", "KL to fp32", _number("{:.4f}")),
    ("top1_agreement", "top-1 %", _number("{:.1f}", 100)),
    ("prefill_tokens_per_s", "prefill tok/s", _number("{:,.0f}")),
    ("decode_tokens_per_s", "decode tok/s", _number("{:,.0f}")),
    ("ttft_ms", "TTFT ms", _number("{:,.0f}")),
    ("peak_rss_bytes", "peak RSS MB", _number("{:,.0f}", 1e-6)),
)
"""Key, heading and form of each column."""


def measured_table(summary: Mapping[str, Any], comparisons: Mapping[str, Any]) -> str:
    """Variants, then baselines (which have answers only), then a line with device, profile and commit."""
    lines = ["| variant | " + " | ".join(heading for _, heading, _ in COLUMNS) + " |"]
    lines.append("|---|" + "---:|" * len(COLUMNS))
    lines += [_line(name, summary["variants"][name]) for name in in_order(summary["variants"])]
    lines += [_line(f"*{label}*", row) for label, row in sorted(comparisons["baselines"].items())]
    commit = summary["git_commit"] or "no git repository"
    lines += ["", f"Measured on {summary['device']}; profile `{summary['profile']}`, commit `{commit}`."]
    return "\n".join(lines) + "\n"


def _line(name: str, row: Mapping[str, Any]) -> str:
    cells = [form(row.get(key)) for key, _, form in COLUMNS]
    if interval := row.get("answer_f1_ci"):
        place = [key for key, _, _ in COLUMNS].index("answer_f1")
        cells[place] += f" [{interval[0]:.3f}, {interval[1]:.3f}]"
    return f"| {name} | " + " | ".join(cells) + " |"


def differences_table(comparisons: Mapping[str, Any]) -> str:
    """Paired differences in answer F1, in points (hundredths)."""
    lines = ["| difference in answer F1, points | value | 95 % interval | n |", "|---|---:|---:|---:|"]
    for name, row in sorted(comparisons["f1_differences"].items()):
        low, high = row["interval"]
        lines.append(f"| {name} | {100 * row['value']:+.1f} | {100 * low:+.1f} to {100 * high:+.1f} | {row['n']} |")
    return "\n".join(lines) + "\n"


def figure(tree: Any, path: str, form: str) -> str:
    """One figure: the value at `a/b/c` in nested mappings (list places by number), formatted by `form` (a format spec,
    with `*100` or `/1e6` before it to scale, as in `*100.1f` or `/1e6.0f`). Raises UserError naming a path that is not
    there."""
    value = tree
    for part in path.split("/"):
        try:
            value = value[int(part)] if isinstance(value, list) else value[part]
        except (KeyError, IndexError, TypeError, ValueError):
            raise UserError(f"no figure {path!r} in the reports (nothing at {part!r})") from None
    for sign, scale in SCALES.items():
        if form.startswith(sign):
            return format(value * scale, form.removeprefix(sign))
    return format(value, form)


SCALES = {"*100": 100.0, "/1e6": 1e-6, "/1e9": 1e-9}
