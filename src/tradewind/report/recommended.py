"""Whether a quantized variant may be recommended: bounds on its distance from its own fp32 weights, by precision.

An 8-bit variant must be next to lossless; a 4-bit one may drift, but not lose answers. What is outside a bound is told with
its figure, and the variant is marked as not recommended; nothing here says which variant is best.
"""

from collections.abc import Mapping, Sequence
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


def used(row: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Of each bound the share that the variant uses (`value`; more than 1: outside) with its 95 % `interval`, and the figure
    in words (`told`); none for fp32.

    row: `precision`, `kl_to_parent` and `top1_agreement` with their intervals (`_ci`), `f1_to_parent`: the paired difference.
    """
    if row["precision"] not in BOUNDS:
        return []
    bounds, kl, top1, f1 = BOUNDS[row["precision"]], row["kl_to_parent"], row["top1_agreement"], row["f1_to_parent"]
    told = f"KL {kl:.4f} (at most {bounds.max_kl:g})"
    shares = [_share(kl, row["kl_to_parent_ci"], 0.0, bounds.max_kl, told)]
    told = f"top-1 {100 * top1:.1f} % (at least {100 * bounds.min_top1:.0f})"
    shares.append(_share(top1, row["top1_agreement_ci"], 1.0, bounds.min_top1 - 1.0, told))
    if bounds.max_f1_loss is not None:
        told = f"F1 {-100 * f1['value']:.1f} points lower (at most {100 * bounds.max_f1_loss:.0f})"
        shares.append(_share(f1["value"], f1["interval"], 0.0, -bounds.max_f1_loss, told))
    return shares


def _share(value: float, interval: Sequence[float], best: float, room: float, told: str) -> dict[str, Any]:
    """room: from the best value to the bound, negative where less is worse."""
    ends = sorted((end - best) / room for end in interval)
    return {"value": (value - best) / room, "interval": ends, "told": told}


def faults(bounds: Sequence[Mapping[str, Any]]) -> list[str]:
    """What speaks against a variant, of its `used` bounds."""
    return [one["told"] for one in bounds if one["value"] > 1]


def deciding(bounds: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Those that a variant is outside of for certain; where there is none, all."""
    return [one for one in bounds if one["interval"][0] > 1] or list(bounds)


def verdict(bounds: Sequence[Mapping[str, Any]]) -> str:
    """`within` or what speaks against it; and whether that is not for certain, a bound lying within its figure's interval."""
    open_ = any(one["interval"][0] < 1 < one["interval"][1] for one in deciding(bounds))
    return ("; ".join(faults(bounds)) or "within") + (", not for certain" if open_ else "")
