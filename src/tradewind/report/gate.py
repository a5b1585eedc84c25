"""Which variant is served by default: the rules of the gate, as data, and the decision with its reasons.

1. Only fine-tuned models stand (teacher, student), in any precision.
2. A quantized one must be near its own fp32 weights: KL and paired loss of F1 within bounds.
3. F1 must be within `within_best` of the best that is left, and above every baseline where `beat_baselines` is set.
4. Of those, the one with the highest single-stream decode rate is the champion; none left: the alias stays where it
   was.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class GateRules:
    """KL in nats; F1 differences on the scale 0 to 1."""

    max_kl: float
    max_f1_loss: float
    within_best: float
    beat_baselines: bool


@dataclass(frozen=True)
class Decision:
    """reasons: variant -> why it is not the champion (empty for the champion)."""

    champion: str | None
    reasons: dict[str, list[str]]


def decide(
    variants: Mapping[str, Mapping[str, Any]],
    parents: Mapping[str, str | None],
    f1_against_parent: Mapping[str, float],
    baselines: Mapping[str, float],
    rules: GateRules,
) -> Decision:
    """variants: rows of the summary. f1_against_parent: paired F1 difference (variant - parent) of quantized
    variants."""
    reasons = {name: _faults(name, row, parents, f1_against_parent, baselines, rules) for name, row in variants.items()}
    left = [name for name, found in reasons.items() if not found]
    best = max((variants[name]["answer_f1"] for name in left), default=0.0)
    for name in left:
        if (gap := best - variants[name]["answer_f1"]) > rules.within_best:
            reasons[name].append(f"F1 is {gap:.3f} below the best (at most {rules.within_best})")
    left = [name for name in left if not reasons[name]]
    if not left:
        return Decision(None, reasons)
    champion = max(left, key=lambda name: (variants[name]["decode_tokens_per_s"], name))
    for name in left:
        if name != champion:
            reasons[name].append(f"decodes slower than {champion}")
    return Decision(champion, reasons)


def _faults(
    name: str,
    row: Mapping[str, Any],
    parents: Mapping[str, str | None],
    f1_against_parent: Mapping[str, float],
    baselines: Mapping[str, float],
    rules: GateRules,
) -> list[str]:
    if name.startswith("base-"):
        return ["not fine-tuned"]
    if row["answer_f1"] is None:
        return ["no answer F1"]
    found = []
    if parents[name]:
        if row["kl_to_parent"] > rules.max_kl:
            found.append(f"KL to its fp32 weights is {row['kl_to_parent']:.4f} (at most {rules.max_kl})")
        if (loss := -f1_against_parent[name]) > rules.max_f1_loss:
            found.append(f"loses {loss:.3f} F1 against its fp32 weights (at most {rules.max_f1_loss})")
    if rules.beat_baselines:
        found += [f"F1 is not above {label}" for label, f1 in sorted(baselines.items()) if row["answer_f1"] <= f1]
    return found
