"""Round weights to int8 or int4 codes with one float16 scale for every 32 neighbours along the input dimension.

Symmetric, round-to-nearest, no calibration (methods that calibrate: see recipe.py). The grids are those of GGUF's `Q8_0`
and `Q4_0`, which ONNX Runtime's `MatMulNBits` runs as they are (block 32, zero points 128 and 8): quantize once, run the
same integers anywhere.
Not covered: zero points, blocks other than 32.

With w a block, d its scale before it is stored in float16, and q its codes:
- int8: d = max|w| / 127, q = w / d rounded to nearest, ties away from zero: q in [-127, 127].
- int4: d = (the w of largest magnitude, with its sign) / -8, q = floor(w / d + 8.5) - 8, ties upward: q in [-8, 7].
- w8a8: as int8, but d = max|w| / 127 of a whole row [in]: with one scale for each output, products are sums of integers,
  and a runtime may round activations to int8, too. In GGUF this is `Q8_0` with the scale repeated.
- A block whose d is zero in float16 stands for zeros: q = 0.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from tradewind.compression.rules import Rule, assign, deciding
from tradewind.errors import UserError
from tradewind.files import atomic_path

BLOCK = 32
"""Weights that share a scale. 576, the default width, is no multiple of 128 or 256."""
BITS = {"int8": 8, "int4": 4, "w8a8": 8}
CODES, SCALES, ROW_SCALES = ".codes", ".scales", ".row_scales"

Array = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Blocks:
    """A quantized matrix. codes: int8 [out, in]. scales: float16 [out, in / 32]. bits: 8, or 4 (codes in [-8, 7])."""

    bits: int
    codes: NDArray[np.int8]
    scales: NDArray[np.float16]

    @property
    def shape(self) -> tuple[int, ...]:
        return self.codes.shape

    @property
    def nbytes(self) -> int:
        """Bytes of packed codes and scales."""
        return self.codes.size * self.bits // 8 + self.scales.nbytes

    def dequantize(self) -> Array:
        """float32 [out, in]: each code times the float16 scale of its block; what every runtime computes with."""
        out, width = self.codes.shape
        blocks = self.codes.reshape(out, width // BLOCK, BLOCK).astype(np.float32)
        return (blocks * self.scales.astype(np.float32)[..., None]).reshape(out, width)


@dataclass(frozen=True, eq=False)
class Rows(Blocks):
    """A matrix of W8A8: one scale a row, float16 [out, 1], multiplied by activations in int8 with one scale a token."""

    def dequantize(self) -> Array:
        return self.codes.astype(np.float32) * self.scales.astype(np.float32)


Tensor = Array | Blocks
"""A weight as a variant holds it: float32, or quantized."""


def quantize(flat: Mapping[str, Array], rules: Sequence[Rule]) -> dict[str, Tensor]:
    """The weights of a flat Hugging Face dict, each as its rule says. Raises UserError for rules that do not fit."""
    dtypes = assign(rules, flat)
    check_shapes(rules, flat)
    return {name: quantize_tensor(weight, dtypes[name], name) for name, weight in flat.items()}


def check_shapes(rules: Sequence[Rule], flat: Mapping[str, Array]) -> None:
    """Raise UserError naming the first tensor, and the rule, that asks for codes where there cannot be any."""
    for name, weight in flat.items():
        rule = deciding(rules, name)
        if rule and rule.dtype != "float32" and not _divisible(weight):
            raise UserError(f"{name} of shape {weight.shape} cannot be {rule.dtype}, as rule {rule.tensors!r} has it: "
                            f"it must be [out, multiple of {BLOCK}]")  # fmt: skip


def _divisible(weight: Array) -> bool:
    return weight.ndim == 2 and weight.shape[1] % BLOCK == 0


def quantize_tensor(weight: Array, dtype: str, name: str = "tensor") -> Tensor:
    """A matrix [out, in] in blocks of 32 along `in`, or any array kept in float32."""
    weight = np.asarray(weight, np.float32)
    if dtype == "float32":
        return weight
    if not _divisible(weight):
        raise UserError(f"{name} of shape {weight.shape} cannot be {dtype}: it must be [out, multiple of {BLOCK}]")
    if not np.isfinite(weight).all():
        raise UserError(f"{name} holds values that are not finite")
    out, width = weight.shape
    size = width if dtype == "w8a8" else BLOCK
    blocks = weight.reshape(out, width // size, size)
    scale = steps(blocks, dtype)
    scales = stored_steps(scale, name)
    codes = (_int4 if dtype == "int4" else _int8)(blocks, scale)
    return (Rows if dtype == "w8a8" else Blocks)(BITS[dtype], codes.reshape(out, width), scales[..., 0])


def steps(blocks: NDArray[Any], dtype: str) -> NDArray[Any]:
    """d of each block [..., 32] -> [..., 1], not yet rounded to float16, in the precision of `blocks`."""
    kind = blocks.dtype.type
    if dtype != "int4":
        return np.abs(blocks).max(axis=-1, keepdims=True) / kind(127)
    return np.take_along_axis(blocks, np.abs(blocks).argmax(axis=-1, keepdims=True), axis=-1) / kind(-8)


def stored_steps(scale: NDArray[Any], name: str) -> NDArray[np.float16]:
    """As they are stored. Raises UserError naming the tensor where one is too large for float16."""
    stored = _half(scale)
    if not np.isfinite(stored).all():
        raise UserError(f"{name} holds values too large for a float16 scale")
    return stored


def _int8(blocks: Array, scale: Array) -> NDArray[np.int8]:
    scaled = blocks * _inverse(scale)
    whole = np.trunc(scaled)
    away = np.trunc(2 * (scaled - whole))  # exact, where adding a half to the value would round
    return (whole + away).astype(np.int8)


def _int4(blocks: Array, scale: Array) -> NDArray[np.int8]:
    return np.floor(blocks * _inverse(scale) + np.float32(8.5)).clip(0, 15).astype(np.int8) - np.int8(8)


def _inverse(scale: Array) -> Array:
    return np.divide(np.float32(1), scale, out=np.zeros_like(scale), where=_half(scale) != 0)


def _half(scale: NDArray[Any]) -> NDArray[np.float16]:
    """The scale as it is stored; infinite where it is too large."""
    with np.errstate(over="ignore"):
        return scale.astype(np.float16)


def dequantize(tensors: Mapping[str, Tensor]) -> dict[str, Array]:
    """The float32 weights that the codes stand for."""
    return {name: t.dequantize() if isinstance(t, Blocks) else t for name, t in tensors.items()}


def stackable(parts: Sequence[Tensor]) -> bool:
    """Whether `stack_rows` takes them."""
    return len({(type(part), part.bits if isinstance(part, Blocks) else 32) for part in parts}) == 1


def stack_rows(parts: Sequence[Tensor]) -> Tensor:
    """Matrices of one dtype and width, one below the other: the same codes and scales, so the same products."""
    if not stackable(parts):
        raise UserError("matrices that are multiplied as one (q, k and v of a layer) must be of one dtype")
    blocks = [part for part in parts if isinstance(part, Blocks)]
    if not blocks:
        return np.concatenate([part for part in parts if isinstance(part, np.ndarray)])
    codes, scales = [part.codes for part in blocks], [part.scales for part in blocks]
    return type(blocks[0])(blocks[0].bits, np.concatenate(codes), np.concatenate(scales))


def errors(flat: Mapping[str, Array], tensors: Mapping[str, Tensor]) -> dict[str, dict[str, float]]:
    """Per quantized tensor: `relative_rms` = |w - w'| / |w| (Frobenius norms) and `max`, the largest |w - w'|."""
    return {name: _error(flat[name], t.dequantize()) for name, t in tensors.items() if isinstance(t, Blocks)}


def _error(weight: Array, restored: Array) -> dict[str, float]:
    delta = np.subtract(weight, restored, dtype=np.float64)
    norm = float(np.sqrt(np.square(weight, dtype=np.float64).sum()))
    relative = float(np.sqrt(np.square(delta).sum())) / norm if norm else 0.0
    return {"relative_rms": float(f"{relative:.6g}"), "max": float(f"{np.abs(delta).max():.6g}")}


def pack4(codes: NDArray[np.int8]) -> NDArray[np.uint8]:
    """Two int4 codes a byte along the last axis, plus 8 each, the first in the low half: `MatMulNBits`' layout."""
    unsigned = (codes + np.int8(8)).astype(np.uint8)
    return unsigned[..., 0::2] | (unsigned[..., 1::2] << np.uint8(4))


def unpack4(packed: NDArray[np.uint8]) -> NDArray[np.int8]:
    """What `pack4` packed."""
    halves = np.stack([packed & np.uint8(15), packed >> np.uint8(4)], axis=-1)
    return halves.reshape(*packed.shape[:-1], -1).astype(np.int8) - np.int8(8)


def save_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """A safetensors file: `NAME.codes` (int8, or uint8 of two int4 each) and `NAME.scales` (`NAME.row_scales` where a row
    has one); float tensors as `NAME`."""
    stored: dict[str, NDArray[np.generic]] = {}
    for name, tensor in tensors.items():
        if isinstance(tensor, Blocks):
            stored[name + CODES] = np.ascontiguousarray(tensor.codes if tensor.bits == 8 else pack4(tensor.codes))
            stored[name + (ROW_SCALES if isinstance(tensor, Rows) else SCALES)] = np.ascontiguousarray(tensor.scales)
        else:
            stored[name] = np.ascontiguousarray(tensor)
    with atomic_path(path) as temporary:
        save_file(stored, temporary)


def load_tensors(path: Path) -> dict[str, Tensor]:
    """What `save_tensors` saved. Raises UserError naming a file that is missing or damaged, or half a tensor."""
    stored = _stored(path)
    tensors: dict[str, Tensor] = {}
    for name in _names(stored):
        codes, plain, rows = stored.get(name + CODES), stored.get(name), stored.get(name + ROW_SCALES)
        scales = stored.get(name + SCALES) if rows is None else rows
        if plain is not None:
            tensors[name] = plain.astype(np.float32, copy=False)
        elif codes is None or scales is None:
            raise UserError(f"{path}: {name} lacks its {'codes' if codes is None else 'scales'}")
        else:
            tensors[name] = _blocks(codes, scales, rows is not None, f"{path}: {name}")
    return tensors


def _stored(path: Path) -> dict[str, NDArray[np.generic]]:
    if not path.is_file():
        raise UserError(f"{path}: no such file")
    try:
        with safe_open(path, framework="numpy") as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
    except SafetensorError as error:
        raise UserError(f"{path}: not a readable safetensors file ({error})") from None


def _names(stored: Iterable[str]) -> list[str]:
    return sorted({name.removesuffix(CODES).removesuffix(SCALES).removesuffix(ROW_SCALES) for name in stored})


def _blocks(codes: NDArray[np.generic], scales: NDArray[np.generic], whole_rows: bool, where: str) -> Blocks:
    bits = 4 if codes.dtype == np.uint8 else 8
    unpacked = unpack4(codes) if codes.dtype == np.uint8 else codes  # type: ignore[arg-type]
    groups = 1 if whole_rows else unpacked.shape[-1] // BLOCK
    if scales.dtype != np.float16 or unpacked.dtype != np.int8 or scales.shape != (len(unpacked), groups):
        raise UserError(f"{where}: codes {codes.dtype} {codes.shape}, scales {scales.dtype} {scales.shape}: no match")
    return (Rows if whole_rows else Blocks)(bits, unpacked, scales)  # type: ignore[arg-type]
