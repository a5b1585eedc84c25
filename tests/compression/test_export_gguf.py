"""One set of integers in three containers: safetensors, GGUF and ONNX hold equal codes and equal scales."""

from collections.abc import Callable

import gguf
import numpy as np
import pytest

from tests.compression.onnx_file import initializers
from tests.compression.tiny import CONFIG, rules, tiny_flat, tiny_tokenizer
from tradewind.compression.export_gguf import export_gguf
from tradewind.compression.export_onnx import export_onnx
from tradewind.compression.quantize import Blocks, dequantize, load_tensors, quantize, save_tensors
from tradewind.model.gguf import load_gguf

Numbers = tuple[np.ndarray, np.ndarray]
"""Codes [out, in] as signed integers, scales [out, in / 32] as float16."""

PARTS = {"q": "attn_q", "k": "attn_k", "v": "attn_v"}
HEADS = {"q": CONFIG.num_heads, "k": CONFIG.num_kv_heads}


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
    narrow = scales.astype(np.float16)
    assert np.array_equal(narrow.astype(np.float32), scales)  # widened, not recomputed
    return (halves.astype(np.int16) - 2 ** (bits - 1)).astype(np.int8), narrow.reshape(len(scales), -1)


def in_pairs(rows: np.ndarray, heads: int) -> np.ndarray:
    """Hugging Face's row order (first halves, second halves) to GGUF's (pairs), a row at a time."""
    size = len(rows) // heads
    order = [head * size + half * size // 2 + i for head in range(heads) for i in range(size // 2) for half in (0, 1)]
    return rows[order]


def same(one: Numbers, two: Numbers) -> bool:
    return all(a.tobytes() == b.tobytes() for a, b in zip(one, two, strict=True))


@pytest.mark.parametrize("dtype", ["int8", "int4"])
def test_three_containers_hold_the_same_integers(tmp_path, dtype):
    bits = int(dtype[3:])
    made = quantize(tiny_flat(), rules(dtype))
    save_tensors(tmp_path / "model.safetensors", made)
    tensors = load_tensors(tmp_path / "model.safetensors")
    export_gguf(tmp_path, CONFIG, tensors, tiny_tokenizer(), {"general.name": "tiny"})
    export_onnx(tmp_path, CONFIG, tensors)
    stored = {t.name: t.data for t in gguf.GGUFReader(tmp_path / "model.gguf").tensors}
    graph = initializers(tmp_path)

    def ours(name: str, order: Callable[[np.ndarray], np.ndarray] = lambda rows: rows) -> Numbers:
        tensor = tensors[name]
        assert isinstance(tensor, Blocks)
        return np.ascontiguousarray(order(tensor.codes)), np.ascontiguousarray(order(tensor.scales))

    table = ours("model.embed_tokens.weight")
    assert same(table, from_gguf(stored["token_embd.weight"], bits))
    assert same(table, from_onnx(graph["embed_tokens.codes"], graph["embed_tokens.scales"], bits))
    for layer in range(CONFIG.num_layers):
        name = f"model.layers.{layer}"
        names = {"o": "self_attn.o_proj", "gate": "mlp.gate_proj", "up": "mlp.up_proj", "down": "mlp.down_proj"}
        others = {"o": "attn_output", "gate": "ffn_gate", "up": "ffn_up", "down": "ffn_down"}
        for key, part in names.items():
            want = ours(f"{name}.{part}.weight")
            assert same(want, from_gguf(stored[f"blk.{layer}.{others[key]}.weight"], bits))
            assert same(want, from_onnx(graph[f"{name}.{key}.codes"], graph[f"{name}.{key}.scales"], bits))
        rows = [ours(f"{name}.self_attn.{part}_proj.weight") for part in PARTS]
        whole = np.concatenate([codes for codes, _ in rows]), np.concatenate([scales for _, scales in rows])
        assert same(whole, from_onnx(graph[f"{name}.qkv.codes"], graph[f"{name}.qkv.scales"], bits))
        for part, theirs in PARTS.items():
            heads = HEADS.get(part)
            want = ours(f"{name}.self_attn.{part}_proj.weight", lambda r, h=heads: in_pairs(r, h) if h else r)
            assert same(want, from_gguf(stored[f"blk.{layer}.{theirs}.weight"], bits))


@pytest.mark.parametrize("dtype", ["int8", "int4"])
def test_a_written_file_reads_as_the_dequantized_weights(tmp_path, dtype):
    tensors = quantize(tiny_flat(), rules(dtype))
    export_gguf(tmp_path, CONFIG, tensors, tiny_tokenizer(), {"general.name": "tiny"})
    config, flat, metadata = load_gguf(tmp_path / "model.gguf")
    assert config == CONFIG
    assert metadata["general.name"] == "tiny"
    for name, weight in dequantize(tensors).items():
        assert np.array_equal(flat[name], weight), name


def test_the_same_codes_give_the_same_file(tmp_path):
    tensors = quantize(tiny_flat(), rules("int4"))
    for folder in ("a", "b"):
        export_gguf(tmp_path / folder, CONFIG, tensors, tiny_tokenizer(), {"general.name": "tiny"})
    assert (tmp_path / "a" / "model.gguf").read_bytes() == (tmp_path / "b" / "model.gguf").read_bytes()
