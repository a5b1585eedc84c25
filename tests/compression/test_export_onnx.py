"""The exported graph against the JAX decoder over the same numbers, and the bytes of its weights."""

import hashlib
from pathlib import Path

import numpy as np
import pytest

from tests.compression.onnx_file import initializers, operators, store_constants
from tests.compression.tiny import (
    CONFIG,
    NORMS,
    TABLE,
    reference_logits,
    rules,
    tiny_flat,
    tiny_scales,
    tiny_tokenizer,
    tiny_variant,
)
from tradewind.compression.export import write_variant
from tradewind.compression.export_onnx import export_onnx
from tradewind.compression.quantize import Blocks, dequantize, quantize
from tradewind.compression.rules import Rule
from tradewind.engine.ort import OrtEngine
from tradewind.errors import UserError

TOKENS = np.random.default_rng(0).integers(0, CONFIG.vocab_size, 48).tolist()
MIXED = (NORMS, TABLE, Rule(r".*\.(down|o|v)_proj\.weight", "int8"), Rule(".*", "int4"))
W8A8 = (NORMS, TABLE, Rule(".*", "w8a8"))
PARITY = 2e-3
"""Largest difference of a logit between two runtimes that multiply the same numbers in float32, in another order."""


def ort_logits(folder: Path, precision: str, accuracy_level: int) -> np.ndarray:
    tiny_variant(folder, precision, accuracy_level=accuracy_level)
    return prefilled(folder)


def logits_by_rules(folder: Path, made: tuple[Rule, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Logits of ONNX Runtime, products in float32 where the graph leaves the choice, and of the JAX decoder."""
    tensors = quantize(tiny_flat(), made)
    write_variant(folder, "base-mixed", CONFIG, tensors, tiny_tokenizer(), {}, accuracy_level=0)
    return prefilled(folder), reference_logits(CONFIG, dequantize(tensors), TOKENS)


def prefilled(folder: Path) -> np.ndarray:
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


@pytest.mark.parametrize("odd", ["q", "k", "v"])
@pytest.mark.parametrize("dtype", ["int8", "float32", "w8a8"])
def test_queries_keys_and_values_may_be_of_unlike_dtypes(tmp_path, odd, dtype):
    ours, theirs = logits_by_rules(tmp_path / "v", (NORMS, Rule(rf".*\.{odd}_proj\.weight", dtype), Rule(".*", "int4")))
    np.testing.assert_allclose(ours, theirs, atol=0.3 if dtype == "w8a8" else PARITY)


def test_the_mixed_recipe_equals_the_jax_decoder(tmp_path):
    ours, theirs = logits_by_rules(tmp_path / "v", MIXED)
    np.testing.assert_allclose(ours, theirs, atol=PARITY)
    assert {"model.layers.0.self_attn.v_proj.codes", "model.layers.0.self_attn.q_proj.codes"} <= set(
        initializers(tmp_path / "v")
    )


def test_w8a8_differs_from_the_jax_decoder_by_rounded_activations(tmp_path):
    """Rounding a token's activations to 127 steps of their largest errs by about 1 % a product."""
    ours, theirs = logits_by_rules(tmp_path / "v", W8A8)
    assert 0.001 < np.sqrt(np.square(ours - theirs).sum() / np.square(theirs).sum()) < 0.06


def test_w8a8_logits_do_not_depend_on_the_batch(tmp_path):
    """To the last bit, an int8 cache given: scales are a token's own, and sums of integers have no order."""
    tensors = quantize(tiny_flat(), W8A8)
    write_variant(tmp_path / "v", "base-w8a8", CONFIG, tensors, tiny_tokenizer(), {}, 4, tiny_scales())
    engine = OrtEngine.load(tmp_path / "v", slots=3, max_len=64, threads=1)
    prompts = [TOKENS[:9], [7] * 20, TOKENS[20:32]]
    for slot, prompt in enumerate(prompts):
        engine.insert(engine.prefill(prompt), slot)
    together = {slot: line.copy() for slot, line in engine.step({0: [5], 1: [6], 2: [7]}).items()}
    for slot, (prompt, token) in enumerate(zip(prompts, (5, 6, 7), strict=True)):
        alone = OrtEngine.load(tmp_path / "v", slots=1, max_len=64, threads=1)
        alone.insert(alone.prefill(prompt), 0)
        assert np.array_equal(alone.step({0: [token]})[0], together[slot])


def test_a_w8a8_table_is_refused_by_name(tmp_path):
    with pytest.raises(UserError, match=r"model\.embed_tokens\.weight cannot be w8a8: GatherBlockQuantized"):
        export_onnx(tmp_path, CONFIG, quantize(tiny_flat(), (NORMS, Rule(".*", "w8a8"))))


@pytest.mark.parametrize("made", [rules("int4"), rules("int8"), MIXED, W8A8])
def test_scales_and_tables_made_at_load_give_the_stored_ones_bits(tmp_path, made):
    """Against the same graph with float32 scales and NumPy's rotary tables stored in it."""
    tensors = quantize(tiny_flat(), made)
    manifest = write_variant(tmp_path, "base-mixed", CONFIG, tensors, tiny_tokenizer(), {}, 4, tiny_scales())
    before = prefilled(tmp_path)
    store_constants(tmp_path, CONFIG)
    assert "Cos" not in operators(tmp_path)
    engine = OrtEngine(tmp_path, manifest, 1, 64, 1)
    assert np.array_equal(engine.prefill(TOKENS, keep_logits=True).all_logits, before)


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
        assert np.array_equal(stored[f"{name}.mlp.down_proj.scales"], down.scales)
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
    assert (tmp_path / "model.onnx.data").stat().st_size < unique + 64 * len(stored)


def test_float_weights_are_those_of_the_safetensors_file(tmp_path):
    assert export_onnx(tmp_path, CONFIG, tiny_flat()) == ["model.onnx", "model.safetensors"]
    stored = initializers(tmp_path)
    assert all(np.array_equal(stored[name], array) for name, array in tiny_flat().items())
    assert not (tmp_path / "model.onnx.data").exists()


def test_operators_are_the_documented_ones(tmp_path):
    norms = {"SimplifiedLayerNormalization", "SkipSimplifiedLayerNormalization"}
    rotary = {"Range", "Unsqueeze", "Cos", "Sin", "Cast"}
    common = norms | rotary | {"GroupQueryAttention", "Sigmoid", "Mul", "Gather"}
    export_onnx(tmp_path / "f", CONFIG, tiny_flat())
    export_onnx(tmp_path / "q", CONFIG, quantize(tiny_flat(), rules("int4")))
    assert operators(tmp_path / "f") == common | {"FusedMatMul"}
    assert operators(tmp_path / "q") == common | {"MatMulNBits", "GatherBlockQuantized"}
    export_onnx(tmp_path / "w", CONFIG, quantize(tiny_flat(), W8A8))
    rounding = {"Abs", "ReduceMax", "Div", "Max", "Round", "Add"}
    assert operators(tmp_path / "w") == common | rounding | {"MatMulInteger", "MatMulNBits", "GatherBlockQuantized"}


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
