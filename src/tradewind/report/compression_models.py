"""Notebook 3's sections on smaller models, from reports/compression.json: what each cut costs, what the losses of
distillation do."""

from collections.abc import Mapping, Sequence
from typing import Any

from tradewind.report.markdown import source, source_of_variants, table

MODELS = ("teacher", "student", "tiny", "vocabulary", "depth", "width", "sparse")
"""In the order in which they are shown."""
TEACHER, UNTRAINED = "teacher-fp32", "untrained"


def models(data: Any) -> str:
    """Each model in fp32 beside the teacher; those of one more cut beside `vocabulary`, which they are cut from."""
    variants, cuts, rows = data["variants"], data.get("cuts", {}), []
    whole = variants[TEACHER]
    for name in (f"{model}-fp32" for model in MODELS):
        if name in variants:
            row = variants[name]
            low, high = (100 * (1 + end / whole["answer_f1"]) for end in row["f1_to_teacher"]["interval"])
            rows.append([
                row["model"], f"{row['parameters'] / 1e6:.1f}", f"{100 * row['parameters'] / whole['parameters']:.0f}",
                "100" if row is whole else f"{100 * row['answer_f1'] / whole['answer_f1']:.0f} [{low:.0f}, {high:.0f}]",
                points(cuts[name]) if name in cuts else "-", _kl(row), f"{row['decode_tokens_per_s']:,.0f}",
            ])  # fmt: skip
    head = [
        "fp32 model", "M params", "% of the teacher's", "% of the teacher's F1 [95 %]", "F1 to `vocabulary`, points [95 %]",
        "KL to the teacher [95 %]", "decode tok/s",
    ]  # fmt: skip
    return table(head, rows) + source_of_variants(data)


def strategies(data: Any) -> str:
    """Distillation strategies on equal tokens, from the same start."""
    part = data["strategies"]
    rows = []
    for one in sorted(part["rows"], key=lambda one: one["kl_to_teacher"]):
        figures = [f"{one[key]:.3f} [{one[f'{key}_ci'][0]:.3f}, {one[f'{key}_ci'][1]:.3f}]"
                   for key in ("kl_to_teacher", "kl_beyond_basis", "kl_beyond_untrained", "cross_entropy")]  # fmt: skip
        rows.append([_name(one), *figures])
    beyond = [f"beyond {other} [95 %]" for other in (f"`{part['basis']}`", "the untrained")]
    head = ["strategy", "KL to the teacher [95 %]", *beyond, "cross-entropy, nats a token [95 %]"]
    told = f"{part['trained_tokens']:,} tokens each from `{part['initial']}`, {part['trained_targets']:,} of them answers; "
    told += f"{part['judged_tokens']:,} answer tokens judged."
    told += " One training of each: intervals are over the text alone, each at 95 %, not adjusted for their number."
    return f"{table(head, rows)}\n{told}\n\n{verdict(part)}\n{source(part)}"


def verdict(part: Mapping[str, Any]) -> str:
    """What the intervals decide, paired by row of the text."""
    basis = part["basis"]
    trained = [one for one in part["rows"] if _name(one) != UNTRAINED]
    others = [one for one in trained if one["strategy"] != basis]
    return (f"On this text, {_apart(others, 'basis', f'`{basis}`')}; {_apart(trained, 'untrained', 'the untrained model')} "
            "(paired by row).")  # fmt: skip


def _apart(rows: Sequence[Mapping[str, Any]], other: str, words: str) -> str:
    """Whose interval beyond the other lies wholly below 0, and wholly above."""
    below = [_name(one) for one in rows if one[f"kl_beyond_{other}_ci"][1] < 0]
    above = [_name(one) for one in rows if one[f"kl_beyond_{other}_ci"][0] > 0]
    left = len(rows) - len(below) - len(above)
    return (f"nearer to the teacher than {words}: {_listed(below)}; further: {_listed(above)}; not told from it: "
            f"{left} of {len(rows)}")  # fmt: skip


def _name(row: Mapping[str, Any]) -> str:
    return UNTRAINED if row["strategy"] == "none" else row["strategy"]


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names) or "none"


def _kl(row: Mapping[str, Any]) -> str:
    if row["kl_to_teacher"] is None:
        return "-"
    low, high = row["kl_to_teacher_ci"]
    return f"{row['kl_to_teacher']:.3f} [{low:.3f}, {high:.3f}]"


def points(difference: Mapping[str, Any]) -> str:
    """A difference of F1 in points, with its interval."""
    low, high = difference["interval"]
    return f"{100 * difference['value']:+.1f} [{100 * low:+.1f}, {100 * high:+.1f}]"
