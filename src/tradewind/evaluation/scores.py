"""From answers to numbers: one row per question, and the measurements made of the rows, each with its interval.

Rows are written beside the numbers, so that any two results on the same test set can be compared question by question.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from tradewind.evaluation.bootstrap import macro_interval, macro_mean, paired_interval, ratio_interval
from tradewind.evaluation.divergence import AGREEMENT_FORMULA, KL_FORMULA, Comparison, clusters
from tradewind.evaluation.metrics import (
    EXACT_FORMULA,
    F1_FORMULA,
    bits_per_byte,
    exact_match,
    is_refusal,
    perplexity,
    token_f1,
)
from tradewind.tracking import Measurement

Row = dict[str, Any]
LN2 = 0.6931471805599453


def answer_row(sample: Mapping[str, Any], answer: str, **more: Any) -> Row:
    """One question's result: id, kind, answerable, answer, f1, exact, refused, and what else the caller measured."""
    return {
        "id": sample["id"],
        "kind": sample["kind"],
        "answerable": sample["answerable"],
        "answer": answer,
        "f1": token_f1(answer, sample["answer"]),
        "exact": exact_match(answer, sample["answer"]),
        "refused": is_refusal(answer),
        **more,
    }


def by_kind(rows: Iterable[Row], key: str) -> dict[str, dict[str, float]]:
    """kind -> question id -> value, over the answerable questions."""
    kinds: dict[str, dict[str, float]] = {}
    for row in rows:
        if row["answerable"]:
            kinds.setdefault(row["kind"], {})[row["id"]] = float(row[key])
    return kinds


def answer_measurements(rows: Sequence[Row], seed: int) -> list[Measurement]:
    """answer_f1, exact_match, refusal precision and recall, false refusals."""
    out = []
    for name, key, formula in (("answer_f1", "f1", F1_FORMULA), ("exact_match", "exact", EXACT_FORMULA)):
        values = {kind: list(questions.values()) for kind, questions in by_kind(rows, key).items()}
        count = sum(map(len, values.values()))
        value, interval = (macro_mean(values), macro_interval(values, seed)) if count else (None, None)
        out.append(Measurement(name, value, "1", count, interval, formula, seed))
    return out + _refusals(rows)


def _refusals(rows: Sequence[Row]) -> list[Measurement]:
    refused = [row for row in rows if row["refused"]]
    no_answer = [row for row in rows if not row["answerable"]]
    answerable = [row for row in rows if row["answerable"]]
    rightly = sum(not row["answerable"] for row in refused)
    return [
        _share("refusal_precision", rightly, len(refused), "refused and unanswerable / refused"),
        _share("refusal_recall", rightly, len(no_answer), "refused and unanswerable / unanswerable"),
        _share("false_refusals", len(refused) - rightly, len(answerable), "refused and answerable / answerable"),
    ]


def _share(name: str, part: int, whole: int, formula: str) -> Measurement:
    return Measurement(name, part / whole if whole else None, "1", whole, None, formula)


def likelihood_measurements(rows: Sequence[Row], seed: int) -> list[Measurement]:
    """Bits per byte and perplexity of the gold answers' text given their prompts, over all questions."""
    nats, sizes, tokens = ([row[key] for row in rows] for key in ("nats", "gold_bytes", "gold_tokens"))
    interval = ratio_interval([value / LN2 for value in nats], sizes, seed)
    per_byte, per_token = bits_per_byte(sum(nats), sum(sizes)), perplexity(sum(nats), sum(tokens))
    bpb = "sum of -log2 P(gold answer | prompt) / UTF-8 bytes of the gold answers; the end token is not counted"
    return [
        Measurement("bits_per_byte", per_byte, "bit/B", sum(sizes), interval, bpb, seed),
        Measurement("perplexity", per_token, "1", sum(tokens), None, "exp(mean -ln P(token)) over the same tokens"),
    ]


def divergence_measurements(comparison: Comparison, seed: int) -> list[Measurement]:
    """kl_to_parent and top1_agreement; intervals resample questions, not positions."""
    where = f"; positions: {comparison.positions}; reference: the variant's own fp32 weights"
    return [
        _mean("kl_to_parent", "nat", comparison.kl, KL_FORMULA + where, seed),
        _mean("top1_agreement", "1", comparison.same, AGREEMENT_FORMULA + where, seed),
    ]


def teacher_measurement(comparison: Comparison, seed: int) -> Measurement:
    reference = "reference: the teacher on the student's tokens, renormalised over the student's vocabulary"
    formula = f"{KL_FORMULA}; positions: {comparison.positions}; {reference}"
    return _mean("kl_to_teacher", "nat", comparison.kl, formula, seed)


def _mean(name: str, unit: str, values: Mapping[str, Any], formula: str, seed: int) -> Measurement:
    totals, counts = clusters(values)
    return Measurement(
        name, sum(totals) / sum(counts), unit, int(sum(counts)), ratio_interval(totals, counts, seed), formula, seed
    )


def kind_table(rows: Sequence[Row]) -> dict[str, dict[str, float]]:
    """Mean F1 and exact match of each kind; an unanswerable kind has its share of refusals instead."""
    out: dict[str, dict[str, float]] = {}
    for kind in sorted({row["kind"] for row in rows}):
        of_kind = [row for row in rows if row["kind"] == kind]
        keys = ("f1", "exact") if all(row["answerable"] for row in of_kind) else ("refused",)
        out[kind] = {"n": len(of_kind)} | {key: sum(row[key] for row in of_kind) / len(of_kind) for key in keys}
    return out


def difference(ours: Sequence[Row], theirs: Sequence[Row], seed: int, key: str = "f1") -> dict[str, Any]:
    """Paired macro difference ours - theirs in `key`: value, 95 % interval, n."""
    value, interval, count = paired_interval(by_kind(ours, key), by_kind(theirs, key), seed)
    return {"value": value, "interval": list(interval), "n": count}
