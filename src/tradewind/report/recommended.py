"""Whether a quantized variant may be recommended: bounds on its distance from its own fp32 weights, by precision.

An 8-bit variant must be next to lossless; a 4-bit one may drift, but not lose answers. What is outside a bound is told with
its figure, and the variant is marked as not recommended; nothing here says which variant is best.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Bounds:
    """Mean KL in nats, top-1 agreement as a share, loss of answer F1 on the scale 0 to 1 (None: not bounded)."""

    max_kl: float
    min_top1: float
    max_f1_loss: float | None = None


EIGHT, FOUR = Bounds(0.01, 0.94), Bounds(0.10, 0.85, 0.03)
BOUNDS: Mapping[str, Bounds] = {"int8": EIGHT, "w8a8": EIGHT, "mixed": FOUR, "int4": FOUR}
"""By precision; fp32 has none."""


def faults(precision: str, row: Mapping[str, Any], f1_loss: float) -> list[str]:
    """What speaks against a variant: nothing for fp32.

    row: `kl_to_parent` and `top1_agreement`. f1_loss: answer F1 of its fp32 weights minus its own, paired.
    """
    if precision not in BOUNDS:
        return []
    bounds, found = BOUNDS[precision], []
    if row["kl_to_parent"] > bounds.max_kl:
        found.append(f"KL {row['kl_to_parent']:.4f} (at most {bounds.max_kl:g})")
    if row["top1_agreement"] < bounds.min_top1:
        found.append(f"top-1 {100 * row['top1_agreement']:.1f} % (at least {100 * bounds.min_top1:.0f})")
    if bounds.max_f1_loss is not None and f1_loss > bounds.max_f1_loss:
        found.append(f"F1 {100 * f1_loss:.1f} points lower (at most {100 * bounds.max_f1_loss:.0f})")
    return found
