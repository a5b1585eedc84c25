"""MLP width: in each layer the neurons of least mean contribution are dropped (as in Minitron, arXiv:2407.14679)."""

from dataclasses import replace

import numpy as np

from tradewind.compression.prune_sketch import Calibration, Sketch, check_amount, check_width


def drop_neurons(sketch: Sketch, calibration: Calibration, size: float) -> Sketch:
    """`size` neurons stay in each layer: those of largest mean |activation| times the length of their row in `down`."""
    width = check_width("mlp_size", check_amount("mlp_size", size, sketch.config.mlp_size))
    scores = calibration.survey.neurons
    flat, kept = dict(sketch.flat), []
    for new, old in enumerate(sketch.layers):
        keep = np.sort(np.argsort(-scores[old], kind="stable")[:width])
        mlp = f"model.layers.{new}.mlp."
        for part in ("gate_proj", "up_proj"):
            flat[f"{mlp}{part}.weight"] = flat[f"{mlp}{part}.weight"][keep]
        flat[f"{mlp}down_proj.weight"] = np.ascontiguousarray(flat[f"{mlp}down_proj.weight"][:, keep])
        kept.append(tuple(keep.tolist()))
    return replace(sketch, config=replace(sketch.config, mlp_size=width), flat=flat, neurons=tuple(kept))
