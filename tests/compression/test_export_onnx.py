"""The exported graph against the JAX decoder over the same numbers, and the bytes of its weights."""

import hashlib
from pathlib import Path

import numpy as np
import pytest

from tests.compression.onnx_file import initializers, operators
from tests.compression.tiny import CONFIG, reference_logits, rules, tiny_flat, tiny_variant
from tradewind.compression.export_onnx import export_onnx
from tradewind.compression.quantize import Blocks, dequantize, quantize
from tradewind.engine.ort import OrtEngine
from tradewind.errors import UserError

TOKENS = np.random.default_rng(0).integers(0, CONFIG.vocab_size, 48).tolist()
PARITY = 2e-3
"""Largest difference of a logit between two runtimes that multiply the same numbers in float32, in another order."""


def ort_logits(folder: Path, precision: str, accuracy_level: int) -> np.ndarray:
    tiny_variant(folder, precision, accuracy_level=accuracy_level)
    engine = OrtEngine.load(folder, slots=1, max_len=64, threads=1)
    lines = engine.prefill(TOKENS, keep_logits=True).all_logits
    engine.close()
    assert lines is not None
    return lines


def restored(precision: str) -> dict[str, np.ndarray]:
    return tiny_flat() if precision == "fp32" else dequantize(quantize(tiny_flat(), rules(precision)))


@pytest.mark.parametrize("precision", ["fp32", "int8", "int4"])
def test_float_products_equal_the_jax_decoder(tmp_path, precision):
    ours = ort_logits(tmp_path / "v", precision, accuracy_level=0)
    theirs = reference_logits(CONFIG, restored(precision), TOKENS)
    assert np.abs(theirs).max() > 3  # a difference has something to show in
    np.testing.assert_allclose(ours, theirs, atol=PARITY)


@pytest.mark.parametrize("precision", ["int8", "int4"])
def test_served_products_stay_close(tmp_path, precision):
    """Activations rounded to int8 in blocks of 32 err by about 0.5 % a product, as int8 weights do, and so do cached
    keys and values."""
    served = ort_logits(tmp_path / "v", precision, accuracy_level=4)
    theirs = reference_logits(CONFIG, restored(precision), TOKENS)
    relative = np.sqrt(np.square(served - theirs).sum() / np.square(theirs).sum())
    assert 0 < relative < 0.06


@pytest.mark.parametrize("precision", ["int8", "int4"])
def test_weights_are_the_codes_and_scales(tmp_path, precision):
    tensors = quantize(tiny_flat(), rules(precision))
    export_onnx(tmp_path, CONFIG, tensors)
    stored, bits = initializers(tmp_path), int(precision[3:])
    for layer in range(CONFIG.num_layers):
        name = f"model.layers.{layer}"
        down = tensors[f"{name}.mlp.down_proj.weight"]
        assert isinstance(down, Blocks)
        assert stored[f"{name}.mlp.down_proj.codes"].shape == (64, 96 // 32, 4 * bits)
        assert np.array_equal(stored[f"{name}.mlp.down_proj.scales"], down.scales.astype(np.float32))
        qkv = [tensors[f"{name}.self_attn.{part}_proj.weight"] for part in "qkv"]
        codes = np.concatenate([part.codes for part in qkv if isinstance(part, Blocks)])
        raw = stored[f"{name}.self_attn.qkv.codes"].reshape(len(codes), -1)
        halves = [raw] if bits == 8 else [raw & 15, raw >> 4]
        unpacked = np.stack(halves, axis=-1).reshape(codes.shape).astype(np.int16) - 2 ** (bits - 1)
        assert np.array_equal(unpacked, codes)


def test_the_tied_table_is_stored_once(tmp_path):
    export_onnx(tmp_path, CONFIG, quantize(tiny_flat(), rules("int8")))
    stored = initializers(tmp_path)
    assert stored["model.embed_tokens.codes"].tobytes() == stored["head.codes"].tobytes()
    unique = sum(array.nbytes for name, array in stored.items() if name != "head.codes")
    assert unique <= (tmp_path / "model.onnx.data").stat().st_size < unique + 4096 * len(stored)


def test_float_weights_are_those_of_the_safetensors_file(tmp_path):
    assert export_onnx(tmp_path, CONFIG, tiny_flat()) == ["model.onnx", "model.onnx.data", "model.safetensors"]
    stored = initializers(tmp_path)
    assert all(np.array_equal(stored[name], array) for name, array in tiny_flat().items())
    rest = sum(array.nbytes for name, array in stored.items() if name not in tiny_flat())
    assert (tmp_path / "model.onnx.data").stat().st_size < rest + 4096 * len(stored)


def test_operators_are_the_documented_ones(tmp_path):
    norms = {"SimplifiedLayerNormalization", "SkipSimplifiedLayerNormalization"}
    common = norms | {"GroupQueryAttention", "Sigmoid", "Mul", "Gather"}
    export_onnx(tmp_path / "f", CONFIG, tiny_flat())
    export_onnx(tmp_path / "q", CONFIG, quantize(tiny_flat(), rules("int4")))
    assert operators(tmp_path / "f") == common | {"FusedMatMul"}
    assert operators(tmp_path / "q") == common | {"MatMulNBits", "GatherBlockQuantized"}


def test_the_same_weights_give_the_same_bytes(tmp_path):
    for folder in ("a", "b"):
        export_onnx(tmp_path / folder, CONFIG, quantize(tiny_flat(), rules("int8")))
    digests = {
        name: {hashlib.sha256((tmp_path / folder / name).read_bytes()).hexdigest() for folder in ("a", "b")}
        for name in ("model.onnx", "model.onnx.data")
    }
    assert all(len(found) == 1 for found in digests.values())


def test_missing_and_unknown_tensors_are_named(tmp_path):
    flat = tiny_flat()
    del flat["model.layers.1.mlp.up_proj.weight"]
    with pytest.raises(UserError, match=r"lack model\.layers\.1\.mlp\.up_proj\.weight"):
        export_onnx(tmp_path, CONFIG, flat)
    with pytest.raises(UserError, match="does not use: lm_head"):
        export_onnx(tmp_path, CONFIG, tiny_flat() | {"lm_head.weight": np.ones((2, 2), np.float32)})
    assert not list(tmp_path.glob("*.onnx*"))
