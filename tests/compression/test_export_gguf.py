"""One set of integers in three containers: safetensors, GGUF and ONNX hold equal codes and equal scales."""

from collections.abc import Mapping
from pathlib import Path

import gguf
import numpy as np
import pytest

from tests.compression.onnx_file import initializers
from tests.compression.tiny import CONFIG, rules, tiny_flat, tiny_tokenizer
from tradewind.compression.export_gguf import export_gguf
from tradewind.compression.export_onnx import export_onnx
from tradewind.compression.quantize import Blocks, Rows, Tensor, dequantize, load_tensors, quantize, save_tensors
from tradewind.compression.rules import read_rules
from tradewind.config import read_params
from tradewind.model.decoder import DecoderConfig
from tradewind.model.gguf import load_gguf
from tradewind.model.tokenizer import Tokenizer
from tradewind.model.weights import load_hf

Numbers = tuple[np.ndarray, np.ndarray]
"""Codes [out, in] as signed integers, scales [out, in / 32] as float16."""

PARTS = {"q": "attn_q", "k": "attn_k", "v": "attn_v"}
ALONE = {
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
"""Hugging Face's name, which is the graph's, -> GGUF's."""


def from_gguf(data: np.ndarray, bits: int) -> Numbers:
    """Written from the layout in ggml-common.h, not with the exporter's code."""
    size = 2 + 4 * bits
    blocks = data.reshape(len(data), -1, size)
    scales = blocks[..., :2].copy().view(np.float16)[..., 0]
    body = blocks[..., 2:]
    halves = body if bits == 8 else np.concatenate([body & 15, body >> 4], axis=-1) - np.uint8(8)
    codes = halves.view(np.int8)
    return codes.reshape(len(data), -1), scales


def from_onnx(codes: np.ndarray, scales: np.ndarray, bits: int) -> Numbers:
    flat = codes.reshape(len(scales), -1)
    halves = flat if bits == 8 else np.stack([flat & 15, flat >> 4], axis=-1).reshape(len(scales), -1)
    return (halves.astype(np.int16) - 2 ** (bits - 1)).astype(np.int8), scales.reshape(len(scales), -1)


def in_pairs(rows: np.ndarray, heads: int) -> np.ndarray:
    """Hugging Face's row order (first halves, second halves) to GGUF's (pairs), a row at a time."""
    size = len(rows) // heads
    order = [head * size + half * size // 2 + i for head in range(heads) for i in range(size // 2) for half in (0, 1)]
    return rows[order]


def same(one: Numbers, two: Numbers) -> bool:
    return all(a.tobytes() == b.tobytes() for a, b in zip(one, two, strict=True))


@pytest.mark.parametrize("dtype", ["int8", "int4"])
def test_three_containers_hold_the_same_integers(tmp_path, dtype):
    in_three_containers(tmp_path, CONFIG, quantize(tiny_flat(), rules(dtype)), tiny_tokenizer())


@pytest.mark.needs_base
@pytest.mark.parametrize("dtype", ["int8", "int4"])
def test_three_containers_hold_the_same_integers_of_the_base(tmp_path, base_folder, root, dtype):
    config, flat = load_hf(base_folder)
    served = read_rules(read_params(root / "params.yaml")["quantize"]["recipes"][dtype]["rules"])
    in_three_containers(tmp_path, config, quantize(flat, served), Tokenizer.load(base_folder))
    for path in tmp_path.iterdir():
        path.unlink()  # half a gigabyte that pytest would keep


def in_three_containers(folder: Path, config: DecoderConfig, made: Mapping[str, Tensor], tokenizer: Tokenizer) -> None:
    """Write all three, read each back with code of its own, compare every codes and scales byte for byte."""
    save_tensors(folder / "model.safetensors", made)
    tensors = load_tensors(folder / "model.safetensors")
    export_gguf(folder, config, tensors, tokenizer, {"general.name": "test"})
    export_onnx(folder, config, tensors)
    stored = {t.name: t.data for t in gguf.GGUFReader(folder / "model.gguf").tensors}
    graph = initializers(folder)

    def ours(name: str) -> tuple[int, Numbers]:
        tensor = tensors[f"{name}.weight"]
        assert isinstance(tensor, Blocks)
        return tensor.bits, (tensor.codes, tensor.scales)

    def onnx(name: str, bits: int) -> Numbers:
        return from_onnx(graph[f"{name}.codes"], graph[f"{name}.scales"], bits)

    bits, table = ours("model.embed_tokens")
    assert same(table, from_gguf(stored["token_embd.weight"], bits))
    assert same(table, onnx("model.embed_tokens", bits))
    for layer in range(config.num_layers):
        name = f"model.layers.{layer}"
        for part, theirs in ALONE.items():
            bits, want = ours(f"{name}.{part}")
            assert same(want, from_gguf(stored[f"blk.{layer}.{theirs}.weight"], bits))
            assert same(want, onnx(f"{name}.{part}", bits))
        rows = [ours(f"{name}.self_attn.{part}_proj")[1] for part in PARTS]
        whole = np.concatenate([codes for codes, _ in rows]), np.concatenate([scales for _, scales in rows])
        assert same(whole, onnx(f"{name}.self_attn.qkv", bits))
        for (part, theirs), want in zip(PARTS.items(), rows, strict=True):
            heads = {"q": config.num_heads, "k": config.num_kv_heads}.get(part)
            moved = tuple(in_pairs(rows, heads) if heads else rows for rows in want)
            assert same(moved, from_gguf(stored[f"blk.{layer}.{theirs}.weight"], bits))


@pytest.mark.parametrize("dtype", ["int8", "int4"])
def test_a_written_file_reads_as_the_dequantized_weights(tmp_path, dtype):
    tensors = quantize(tiny_flat(), rules(dtype))
    export_gguf(tmp_path, CONFIG, tensors, tiny_tokenizer(), {"general.name": "tiny"})
    config, flat, metadata = load_gguf(tmp_path / "model.gguf")
    assert config == CONFIG
    assert metadata["general.name"] == "tiny"
    for name, weight in dequantize(tensors).items():
        assert np.array_equal(flat[name], weight), name


def test_w8a8_is_q8_0_with_one_scale_a_row(tmp_path):
    tensors = quantize(tiny_flat(), rules("w8a8"))
    export_gguf(tmp_path, CONFIG, tensors, tiny_tokenizer(), {"general.name": "tiny"})
    stored = {t.name: t for t in gguf.GGUFReader(tmp_path / "model.gguf").tensors}
    codes, scales = from_gguf(stored["blk.1.ffn_down.weight"].data, 8)
    down = tensors["model.layers.1.mlp.down_proj.weight"]
    assert isinstance(down, Rows)
    assert np.array_equal(codes, down.codes)
    assert (scales == down.scales).all()
    for name, weight in load_gguf(tmp_path / "model.gguf")[1].items():
        assert np.array_equal(weight, dequantize(tensors)[name]), name


def test_the_same_codes_give_the_same_file(tmp_path):
    tensors = quantize(tiny_flat(), rules("int4"))
    for folder in ("a", "b"):
        export_gguf(tmp_path / folder, CONFIG, tensors, tiny_tokenizer(), {"general.name": "tiny"})
    assert (tmp_path / "a" / "model.gguf").read_bytes() == (tmp_path / "b" / "model.gguf").read_bytes()
