"""What the contract does not say of the `jax` engine: containers, buckets, and the plain decoder as its reference."""

from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from tests.compression.tiny import CONFIG, reference_logits, rules, tiny_flat, tiny_scales, tiny_variant
from tradewind.compression.quantize import dequantize, quantize
from tradewind.compression.variant import MAX_FEED, load_variant, save_manifest
from tradewind.engine import jax as engine_module
from tradewind.engine import load_engine
from tradewind.engine.jax import JaxEngine
from tradewind.engine.ort import OrtEngine
from tradewind.errors import UserError
from tradewind.evaluation.divergence import kl_divergence
from tradewind.evaluation.metrics import log_softmax
from tradewind.model.weights import to_model

CLOSE = 1e-4
"""float32 sums in another order; logits of the tiny model are of size 10."""


@pytest.fixture(scope="module")
def variants(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("variants")
    for precision in ("fp32", "int8"):
        tiny_variant(folder / precision, precision)
    return folder


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_every_container_gives_the_weights_of_the_variant(variants: Path, precision: str) -> None:
    engine = load_engine(variants / precision, "jax", slots=2, max_len=32)
    flat = tiny_flat()
    if precision == "int8":
        flat = dequantize(quantize(flat, rules("int8")))
    tokens = [5, 9, 2, 7, 1, 200]
    made = engine.prefill(tokens, keep_logits=True)
    close = CLOSE if precision == "fp32" else 0.3  # the cache is int8
    np.testing.assert_allclose(made.all_logits, reference_logits(CONFIG, flat, tokens), atol=close)
    assert engine.weights_digest == load_variant(variants / precision).weights_digest


@pytest.mark.parametrize("precision", ["int8", "int4"])
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_integers_are_the_same_numbers(tmp_path: Path, precision: str, dtype: type) -> None:
    tiny_variant(tmp_path / precision, precision)
    sizes = {"slots": 2, "max_len": 32, "dtype": dtype}
    floats, integers = (JaxEngine.load(tmp_path / precision, integers=kept, **sizes) for kept in (False, True))
    for plain, kept in zip(*(engine._model(engine._weights).layers for engine in (floats, integers)), strict=True):
        np.testing.assert_array_equal(plain.mlp.down.kernel[...], kept.mlp.down.matrix())
        np.testing.assert_array_equal(plain.attention.qkv.kernel[...], kept.attention.qkv.matrix())
    made = [engine.prefill([5, 9, 2, 7, 1, 200], keep_logits=True).all_logits for engine in (floats, integers)]
    close = CLOSE if dtype == jnp.float32 else 0.05  # what is fused rounds otherwise in between
    np.testing.assert_allclose(*made, atol=close)
    assert sum(part.nbytes for part in integers._weights) < sum(part.nbytes for part in floats._weights)


def test_a_burst_ends_where_logits_are_not_finite() -> None:
    flat = {name: array.copy() for name, array in tiny_flat().items()}
    flat["model.norm.weight"][0] = np.nan
    engine = JaxEngine(to_model(CONFIG, flat), "digest", slots=2, max_len=32)
    engine.insert(engine.prefill([1, 2, 3]), 0)
    assert engine.greedy({0: 4}, 5) == {0: []}


def test_buckets_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Chunks, feeds, batches and contexts at, below and above each edge give the logits of the plain decoder."""
    monkeypatch.setattr(engine_module, "CHUNKS", (2, 5))
    monkeypatch.setattr(engine_module, "FEEDS", (1, 3))
    monkeypatch.setattr(engine_module, "CONTEXTS", (8, 16))
    model = to_model(CONFIG, tiny_flat())
    engine = JaxEngine(model, "digest", slots=5, max_len=24)
    whole = nnx.jit(lambda tokens: model.logits(model.hidden(tokens, jnp.arange(24)[None])))

    def reference(tokens: list[int]) -> np.ndarray:
        return np.asarray(whole(jnp.asarray([tokens + [0] * (24 - len(tokens))])))[0, : len(tokens)]

    rows = {0: [3], 1: [1, 2, 3, 4, 5, 6, 7], 3: list(range(20, 35)), 4: list(range(40, 56))}
    for slot, tokens in rows.items():
        prefix = engine.prefill(tokens, keep_logits=True)
        np.testing.assert_allclose(prefix.all_logits, reference(tokens), atol=CLOSE)
        engine.insert(prefix, slot)
    for feed in ({1: [9]}, {3: [4, 8], 0: [1, 1, 1]}, {0: [2], 1: [3, 4], 3: [5]}, {4: [6], 3: [7], 1: [8], 0: [9]}):
        lines = engine.step(feed)
        for slot, tokens in feed.items():
            rows[slot] = rows[slot] + tokens
            want = reference(rows[slot])[-len(tokens) :]
            np.testing.assert_allclose(lines[slot], want, atol=CLOSE)
    assert [engine.length(slot) for slot in range(5)] == [len(rows.get(slot, ())) for slot in range(5)]


def test_a_prefix_says_what_it_keeps(variants: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine_module, "CONTEXTS", (64,))
    engine = JaxEngine.load(variants / "fp32", slots=2, max_len=128)
    per_position = 2 * 4 * CONFIG.num_layers * CONFIG.num_kv_heads * CONFIG.head_dim
    assert engine.kv_bytes == 2 * 128 * per_position
    assert engine.prefill([1, 2, 3]).nbytes == 64 * per_position  # the smallest bucket


def test_bfloat16_weights_and_cache(variants: Path) -> None:
    """What an accelerator runs: half the memory of the cache, logits near those of float32."""
    low = JaxEngine.load(variants / "fp32", slots=2, max_len=64, dtype=jnp.bfloat16)
    high = JaxEngine.load(variants / "fp32", slots=2, max_len=64, dtype=jnp.float32)
    assert 2 * low.kv_bytes == high.kv_bytes
    made, want = low.prefill([5, 9, 2]).logits, high.prefill([5, 9, 2]).logits
    assert made is not None
    assert want is not None
    assert made.dtype == np.float32
    assert np.abs(made - want).mean() < 0.05 * np.abs(want).mean()


def test_int8_cache_is_a_quarter_and_holds_the_codes_of_the_float_cache(variants: Path) -> None:
    """Codes are the float cache's keys and values over the scales, rounded, within 127; what lies beyond is clipped."""
    scales = tiny_scales()
    model = to_model(CONFIG, tiny_flat())
    plain = JaxEngine(model, "digest", slots=2, max_len=64)
    low = JaxEngine(model, "digest", slots=2, max_len=64, kv_scales=scales)
    assert 4 * low.kv_bytes == plain.kv_bytes
    tokens = [5, 9, 2, 7, 1, 200]
    codes, floats = low.prefill(tokens), plain.prefill(tokens)
    assert 4 * codes.nbytes == floats.nbytes
    first = [np.asarray(part)[0, : len(tokens)] for part in (*codes.cache[0], *floats.cache[0])]
    assert first[0].dtype == np.int8
    for code, value, scale in zip(first[:2], first[2:], scales[:2], strict=True):  # layer 0 reads no cache before it
        np.testing.assert_allclose(code * scale, np.clip(value, -127 * scale, 127 * scale), atol=0.51 * scale.max())
    divergence = kl_divergence(log_softmax(floats.logits[None]), log_softmax(codes.logits[None]))
    assert 0 < divergence[0] < 0.01


def test_a_quantized_variant_has_an_int8_cache_as_onnx_runtime_has(variants: Path) -> None:
    ours = JaxEngine.load(variants / "int8", slots=2, max_len=64)
    theirs = OrtEngine.load(variants / "int8", slots=2, max_len=64, threads=1)
    assert ours.kv_bytes / 64 == theirs.kv_bytes / (64 + MAX_FEED)  # ORT has room for padding
    assert JaxEngine.load(variants / "fp32", slots=2, max_len=64).kv_bytes == 4 * ours.kv_bytes
    made, want = ours.prefill([5, 9, 2]), theirs.prefill([5, 9, 2])
    keys = np.asarray(made.cache[0][0])[0, :3].transpose(1, 0, 2).astype(int)
    assert np.abs(keys - want.row.kv[0, 0, :, :3]).mean() < 0.6  # ORT's activations are rounded before, too


def test_mistakes(variants: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"max_len in 1\.\.128"):
        JaxEngine.load(variants / "fp32", slots=2, max_len=129)
    with pytest.raises(UserError, match="slots >= 1"):
        JaxEngine.load(variants / "fp32", slots=0, max_len=8)
    manifest = tiny_variant(tmp_path / "other", "fp32")
    manifest.files.pop("jax")
    save_manifest(tmp_path / "other", manifest)
    with pytest.raises(UserError, match="no files for engine jax"):
        JaxEngine.load(tmp_path / "other", slots=2, max_len=8)
