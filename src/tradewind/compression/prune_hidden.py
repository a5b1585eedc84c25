"""Hidden size: the residual stream is projected onto fewer dimensions, and every matrix that reads or writes it with it.

Two bases: the principal components of the stream (SliceGPT, arXiv:2401.15024, here one rotation for the whole model), or
the channels of largest mean size (Minitron, arXiv:2407.14679). RMSNorm commutes with rotations once its scale is folded
into the matrices that follow. That of the final norm cannot be, for the table is tied: its diagonal in the new basis
stays, which is exact for channels and close where the scale varies little.
"""

from dataclasses import replace

import numpy as np

from tradewind.compression.prune_sketch import Calibration, Sketch, check_amount, check_width
from tradewind.errors import UserError
from tradewind.model.weights import Flat

EMBEDDING, FINAL = "model.embed_tokens.weight", "model.norm.weight"
READS = {"input_layernorm": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
         "post_attention_layernorm": ("mlp.gate_proj", "mlp.up_proj")}  # fmt: skip
"""Norm of a layer -> the matrices that read what it gives."""
WRITES = ("self_attn.o_proj", "mlp.down_proj")


def keep_components(sketch: Sketch, calibration: Calibration, size: float) -> Sketch:
    """`size` dimensions stay: the principal components of the streams, each token scaled to length 1."""
    width = _checked(sketch, "hidden_size", size)
    if width == sketch.config.hidden_size:
        return sketch
    moments = calibration.survey.moments
    _, vectors = np.linalg.eigh(moments.mean(axis=0))
    basis = vectors[:, ::-1][:, :width]
    signs = np.sign(basis[np.abs(basis).argmax(axis=0), np.arange(width)])
    return _project(sketch, moments, basis * signs)


def keep_channels(sketch: Sketch, calibration: Calibration, size: float) -> Sketch:
    """`size` channels stay: those of largest mean square in the streams, each token scaled to length 1."""
    width, moments = _checked(sketch, "hidden_channels", size), calibration.survey.moments
    score = np.diagonal(moments.mean(axis=0))
    kept = np.sort(np.argsort(-score, kind="stable")[:width])
    return _project(sketch, moments, np.eye(len(score))[:, kept])


def _project(sketch: Sketch, moments: np.ndarray, basis: np.ndarray) -> Sketch:
    flat, narrow = dict(sketch.flat), basis.astype(np.float32)
    scales = np.sqrt(np.einsum("nij,ik,jk->n", moments, basis, basis, optimize=True) * len(basis) / basis.shape[1])
    flat[EMBEDDING] = flat[EMBEDDING] @ narrow
    flat[FINAL] = (((basis**2).T @ flat[FINAL]) * scales[-1]).astype(np.float32)
    for new, old in enumerate(sketch.layers):
        flat |= _projected_layer(flat, new, narrow, scales[2 * old : 2 * old + 2])
    config = replace(sketch.config, hidden_size=basis.shape[1])
    return replace(sketch, config=config, flat=flat, basis=narrow)


def _projected_layer(flat: Flat, layer: int, basis: np.ndarray, scales: np.ndarray) -> Flat:
    """`scales`: root mean square of a kept dimension over that of all, which the norm of the narrow stream divides by."""
    prefix, out = f"model.layers.{layer}.", Flat()
    for (norm, matrices), scale in zip(READS.items(), scales, strict=True):
        for name in matrices:
            out[f"{prefix}{name}.weight"] = (flat[f"{prefix}{name}.weight"] * flat[f"{prefix}{norm}.weight"]) @ basis
        out[f"{prefix}{norm}.weight"] = np.full(basis.shape[1], scale, np.float32)
    for name in WRITES:
        out[f"{prefix}{name}.weight"] = basis.T @ flat[f"{prefix}{name}.weight"]
    return out


def _checked(sketch: Sketch, name: str, size: float) -> int:
    if sketch.basis is not None:
        raise UserError("prune: the hidden size is cut twice in one entry of the schedule")
    return check_width(name, check_amount(name, size, sketch.config.hidden_size))
