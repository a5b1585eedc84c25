"""Codes and scales of a variant as its files hold them, read back from each container's bytes and laid side by side.

The readers follow the layouts (ggml-common.h, `MatMulNBits`), not this project's exporters. Nothing
is dequantized or run here. Codes are signed int8 [out, in], scales float16 [out, in / 32], under Hugging Face names.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
from gguf import GGUFReader
from numpy.typing import NDArray

from tradewind.compression.export_gguf import TYPES
from tradewind.compression.quantize import BLOCK, Blocks
from tradewind.compression.variant import Manifest
from tradewind.errors import UserError
from tradewind.model.weights import unpermute_rotary, weight_table

Integers = dict[str, Blocks]
BITS = {name: bits for bits, name in TYPES.items()}


def from_gguf(folder: Path, manifest: Manifest) -> Integers:
    """Of `Q8_0` and `Q4_0` tensors; q and k rows put back from llama.cpp's rotary pairs."""
    config, found = manifest.decoder, {}
    weights = {weight.gguf: weight for weight in weight_table(config)}
    for tensor in GGUFReader(folder / manifest.files["gguf"][0]).tensors:
        if (bits := BITS.get(tensor.tensor_type.name)) is None:
            continue
        weight = weights[tensor.name]
        rows = np.asarray(tensor.data)
        rows = unpermute_rotary(rows, weight.heads(config)) if weight.heads else rows
        blocks = rows.reshape(len(rows), -1, 2 + 4 * bits)
        scales = np.ascontiguousarray(blocks[..., :2]).view(np.float16)[..., 0]
        body = blocks[..., 2:]
        codes = body if bits == 8 else np.concatenate([body & 15, body >> 4], axis=-1) - np.uint8(8)
        found[weight.hf] = Blocks(bits, codes.view(np.int8).reshape(len(rows), -1), scales)
    return found


def from_onnx(folder: Path, manifest: Manifest) -> Integers:
    """Of the graph's `NAME.codes` and `NAME.scales`; a matrix of q, k and v together is cut into its three."""
    config = manifest.decoder
    heads = {"q": config.num_heads, "k": config.num_kv_heads, "v": config.num_kv_heads}
    stored = ir.load(folder / manifest.files["ort"][0]).graph.initializers
    arrays = {key: _array(value.const_value, folder) for key, value in stored.items()}
    found: Integers = {}
    for key, codes in arrays.items():
        name = key.removesuffix(".codes")
        if name == key or name == "head":  # the head's are a view of the embedding's
            continue
        blocks = _unpacked(codes, arrays[f"{name}.scales"], key)
        if not name.endswith(".qkv"):
            found[f"{name}.weight"] = blocks
            continue
        start = 0
        for part, count in heads.items():
            rows = slice(start, start := start + count * config.head_dim)
            part_name = f"{name.removesuffix('qkv')}{part}_proj.weight"
            found[part_name] = Blocks(blocks.bits, blocks.codes[rows], blocks.scales[rows])
    return found


def _array(tensor: ir.TensorProtocol | None, folder: Path) -> NDArray[Any]:
    """Files that the graph points into are read here: the library refuses those with several hard links, as DVC makes."""
    assert tensor is not None
    if not isinstance(tensor, ir.ExternalTensor):
        return tensor.numpy()
    dtype, shape = tensor.dtype.numpy(), tensor.shape.numpy()
    return np.memmap(folder / tensor.location, dtype, "r", tensor.offset or 0, shape)


def _unpacked(codes: NDArray[Any], scales: NDArray[np.float32], key: str) -> Blocks:
    """Zero points: 128 at 8 bits; 8 at 4 bits, the first code of a byte in its low half. W8A8: int8 [in, out] without
    one, a scale a row, which stands in each of its blocks here."""
    narrow = scales.astype(np.float16)
    if not np.array_equal(narrow.astype(np.float32), scales):
        raise UserError(f"{key}: scales that are no float16 numbers")
    if codes.dtype == np.int8:
        return Blocks(8, np.ascontiguousarray(codes.T), np.repeat(narrow[:, None], len(codes) // BLOCK, axis=1))
    rows = codes.reshape(len(scales), -1)
    halved = narrow.reshape(len(rows), -1)
    if rows.shape[1] == halved.shape[1] * BLOCK:
        return Blocks(8, (rows ^ np.uint8(128)).view(np.int8), halved)
    halves = np.stack([rows & 15, rows >> 4], axis=-1).reshape(len(rows), -1)
    return Blocks(4, (halves - np.uint8(8)).view(np.int8), halved)


READERS: dict[str, Callable[[Path, Manifest], Integers]] = {"gguf": from_gguf, "ort": from_onnx}
"""Key of a manifest's `files` -> reader of that container."""


def differing(first: Mapping[str, Blocks], second: Mapping[str, Blocks]) -> list[str]:
    """Names of tensors that are not the same to the last bit in both, or are in one alone."""
    return sorted(name for name in first.keys() | second.keys() if not _equal(first.get(name), second.get(name)))


def _equal(first: Blocks | None, second: Blocks | None) -> bool:
    if first is None or second is None or first.bits != second.bits:
        return False
    bits = first.scales.view(np.uint16), second.scales.view(np.uint16)
    return np.array_equal(first.codes, second.codes) and np.array_equal(*bits)


def report(containers: Mapping[str, Integers]) -> tuple[list[str], dict[str, int]]:
    """Lines that tell how the containers agree with the first of them, and how many tensors differ in each other one."""
    (name, first), *others = containers.items()
    count = sum(blocks.codes.size for blocks in first.values())
    found = {other: differing(first, integers) for other, integers in others}
    lines = []
    for other, wrong in found.items():
        verdict = "the same codes and scales" if not wrong else f"{len(wrong)} tensors differ, first {wrong[0]}"
        lines.append(f"integers, {other} against {name}: {len(first)} tensors, {count} codes: {verdict}")
    return lines, {other: len(wrong) for other, wrong in found.items()}
