"""Attention heads: whole KV groups, or as many query heads of each group, by what they add to the residual stream.

Every group keeps the same number of query heads, so the student is grouped-query attention as before.
"""

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from tradewind.compression.prune_sketch import Calibration, Sketch, check_amount, check_width
from tradewind.errors import UserError
from tradewind.model.decoder import DecoderConfig
from tradewind.model.weights import Flat

Choice = Callable[[np.ndarray], np.ndarray]
"""Importance [K, G] of a layer's query heads by group -> mask [K, G] of those kept."""


def drop_kv_groups(sketch: Sketch, calibration: Calibration, count: float) -> Sketch:
    """`count` KV heads stay in each layer, with all their query heads: those whose query heads add most together."""
    config = sketch.config
    groups, per_group = check_amount("kv_heads", count, config.num_kv_heads), config.num_heads // config.num_kv_heads

    def choose(scores: np.ndarray) -> np.ndarray:
        return np.broadcast_to(_largest(scores.sum(axis=1), groups)[:, None], scores.shape)

    return _keep(sketch, calibration, "kv_heads", groups * per_group, groups, choose)


def drop_query_heads(sketch: Sketch, calibration: Calibration, count: float) -> Sketch:
    """`count` query heads stay in each layer, as many in each group: those that add most."""
    groups = sketch.config.num_kv_heads
    heads = check_amount("heads", count, sketch.config.num_heads)
    if heads % groups:
        raise UserError(f"prune.heads: {heads} is no multiple of the {groups} KV heads")

    def choose(scores: np.ndarray) -> np.ndarray:
        return np.stack([_largest(group, heads // groups) for group in scores])

    return _keep(sketch, calibration, "heads", heads, groups, choose)


def _keep(sketch: Sketch, calibration: Calibration, name: str, heads: int, groups: int, choose: Choice) -> Sketch:
    config = replace(sketch.config, num_heads=heads, num_kv_heads=groups)
    check_width(name, heads * config.head_dim, "the width of the heads")
    scores = calibration.survey.heads
    flat, kept = dict(sketch.flat), []
    for new, (old, now) in enumerate(zip(sketch.layers, sketch.heads, strict=True)):
        mask = choose(scores[old][list(now)].reshape(sketch.config.num_kv_heads, -1))
        flat |= _sliced(flat, sketch.config, new, mask)
        kept.append(tuple(np.asarray(now)[mask.reshape(-1)].tolist()))
    return replace(sketch, config=config, flat=flat, heads=tuple(kept))


def _sliced(flat: Flat, config: DecoderConfig, layer: int, mask: np.ndarray) -> Flat:
    attention = f"model.layers.{layer}.self_attn."
    queries, groups = (np.repeat(m, config.head_dim) for m in (mask.reshape(-1), mask.any(axis=1)))
    kept = {"q_proj": queries, "k_proj": groups, "v_proj": groups}
    rows = {f"{attention}{part}.weight": flat[f"{attention}{part}.weight"][keep] for part, keep in kept.items()}
    out = f"{attention}o_proj.weight"
    return rows | {out: np.ascontiguousarray(flat[out][:, queries])}


def _largest(scores: np.ndarray, count: int) -> np.ndarray:
    """Mask of the `count` largest (ties: the first)."""
    mask = np.zeros(len(scores), bool)
    mask[np.argsort(-scores, kind="stable")[:count]] = True
    return mask
