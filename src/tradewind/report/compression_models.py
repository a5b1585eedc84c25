"""Notebook 3's sections on smaller models, from reports/compression.json: what each cut costs, what the losses of
distillation do."""

from collections.abc import Mapping, Sequence
from typing import Any

from tradewind.report.markdown import source, source_of_variants, table

MODELS = ("teacher", "student", "tiny", "vocabulary", "depth", "width", "sparse")
"""In the order in which they are shown."""
TEACHER = "teacher-fp32"


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
                   for key in ("kl_to_teacher", "kl_beyond_basis", "cross_entropy")]  # fmt: skip
        rows.append([_name(one), *figures])
    head = [
        "strategy", "KL to the teacher [95 %]", f"beyond `{part['basis']}` [95 %]", "cross-entropy, nats a token [95 %]",
    ]  # fmt: skip
    told = f"{part['trained_tokens']:,} tokens each from `{part['initial']}`; {part['judged_tokens']:,} answer tokens judged."
    told += " One training of each: intervals are over the text alone, each at 95 %, not adjusted for their number."
    return f"{table(head, rows)}\n{told}\n\n{verdict(part)}\n{source(part)}"


def verdict(part: Mapping[str, Any]) -> str:
    """What the intervals decide. Against the untrained model they are not paired, so they decide less than they could."""
    basis = part["basis"]
    start = next(one for one in part["rows"] if one["tokens_per_s"] == 0)
    trained = [one for one in part["rows"] if one is not start]
    others = [one for one in trained if one["strategy"] != basis]
    nearer, further = _apart(others, (0.0, 0.0))
    better, worse = _apart(trained, start["kl_beyond_basis_ci"])
    left = len(others) - len(nearer) - len(further)
    return (
        f"On this text, nearer to the teacher than `{basis}`: {_listed(nearer)}; further: {_listed(further)}; not told from "
        f"it: {left} of {len(others)} (paired by row). Nearer than the untrained model: "
        f"{_listed(better)}; further: {_listed(worse)}; not told from it: {len(trained) - len(better) - len(worse)} of "
        f"{len(trained)} (intervals beyond `{basis}` that do not overlap)."
    )


def _apart(rows: Sequence[Mapping[str, Any]], around: Sequence[float]) -> tuple[list[str], list[str]]:
    """Whose interval beyond the basis lies wholly below, and wholly above, another."""
    low, high = around
    below = [_name(one) for one in rows if one["kl_beyond_basis_ci"][1] < low]
    return below, [_name(one) for one in rows if one["kl_beyond_basis_ci"][0] > high]


def _name(row: Mapping[str, Any]) -> str:
    return row["strategy"] if row["tokens_per_s"] > 0 else "untrained"


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
