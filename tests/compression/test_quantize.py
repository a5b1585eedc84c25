"""Codes, scales and rules: against GGUF's own quantizer, against the rounding bounds, and to disk and back."""

import gguf
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from tests.compression.tiny import NORMS, rules, tiny_flat
from tradewind.compression.export_gguf import gguf_blocks
from tradewind.compression.quantize import (
    BLOCK,
    Blocks,
    dequantize,
    errors,
    load_tensors,
    pack4,
    quantize,
    quantize_tensor,
    save_tensors,
    stack_rows,
    unpack4,
)
from tradewind.compression.rules import Rule, assign, read_rules
from tradewind.errors import UserError

GGML = {"int8": gguf.GGMLQuantizationType.Q8_0, "int4": gguf.GGMLQuantizationType.Q4_0}
# Values whose scales are normal float16 numbers; below those a scale keeps fewer bits.
VALUES = st.floats(-1000, 1000, width=32).map(lambda x: 0.0 if abs(x) < 1e-2 else x)
MATRICES = st.tuples(st.integers(1, 4), st.integers(1, 3)).flatmap(
    lambda shape: arrays(np.float32, (shape[0], shape[1] * BLOCK), elements=VALUES)
)


def blocks(weight: np.ndarray, dtype: str) -> Blocks:
    made = quantize_tensor(weight, dtype)
    assert isinstance(made, Blocks)
    return made


@pytest.mark.parametrize("dtype", ["int8", "int4"])
@settings(max_examples=60, deadline=None)
@given(weight=MATRICES)
def test_bytes_are_those_of_ggufs_own_quantizer(dtype, weight):
    assert np.array_equal(gguf_blocks(blocks(weight, dtype)).data, gguf.quantize(weight, GGML[dtype]))


@pytest.mark.parametrize("dtype", ["int8", "int4"])
@settings(max_examples=60, deadline=None)
@given(weight=MATRICES)
def test_error_is_at_most_half_a_step(dtype, weight):
    """Half a step, plus what float16 takes from the scale (2^-11) times the code; int4 also clips +8 to +7: a step."""
    made = blocks(weight, dtype)
    step = np.repeat(np.abs(made.scales.astype(np.float64)), BLOCK, axis=1)
    allowed = (0.5 if dtype == "int8" else 1.0) + np.abs(made.codes.astype(np.float64)) * 2.0**-10 + 1e-3
    assert (np.abs(weight - made.dequantize()) <= allowed * step).all()


def test_relative_error_of_normal_weights():
    """Uniform noise of a step's rounding. The largest of 32 normal values is near 2.1 to 2.2 standard deviations: steps of
    2.15 / 127 and 2.15 / 8, whose rounding errors (step / sqrt 12) are 0.5 % and 7.8 %. Clipping at int4 and wide blocks
    add to the latter. The largest of a row of 576 is near 3.1: 0.7 %."""
    weight = np.random.default_rng(0).standard_normal((512, 576), dtype=np.float32)
    for dtype, expected, tolerance in (("int8", 0.0052, 0.0006), ("int4", 0.083, 0.008), ("w8a8", 0.0070, 0.0007)):
        found = errors({"w": weight}, {"w": blocks(weight, dtype)})["w"]
        assert found["relative_rms"] == pytest.approx(expected, abs=tolerance), dtype
        assert found["max"] <= float(np.abs(weight).max()) / (8 if dtype == "int4" else 127) * 1.01


def test_codes_and_ties_by_hand():
    weight = np.zeros((1, BLOCK), np.float32)
    weight[0, :5] = [127, 2.5, -2.5, 0.5, 0.49999997]
    made = blocks(weight, "int8")
    assert made.scales[0, 0] == 1
    assert made.codes[0, :5].tolist() == [127, 3, -3, 1, 0]  # ties away from zero
    weight[0, :5] = [-8, 7.9, 2.5, -2.5, 0.5]
    made = blocks(weight, "int4")
    assert made.scales[0, 0] == 1
    assert made.codes[0, :5].tolist() == [-8, 7, 3, -2, 1]  # ties upward, clipped at 7
    made = blocks(-weight, "int4")
    assert made.scales[0, 0] == -1  # the largest takes code -8 whatever its sign
    assert made.codes[0, :2].tolist() == [-8, 7]


@pytest.mark.parametrize("dtype", ["int8", "int4"])
@pytest.mark.parametrize("value", [0.0, 1e-30, -1e-30, 1e-44])
def test_blocks_without_a_scale_are_zeros(dtype, value):
    made = blocks(np.full((2, BLOCK), value, np.float32), dtype)
    assert not made.dequantize().any()
    assert not made.codes.any()


@settings(max_examples=30, deadline=None)
@given(codes=arrays(np.int8, (3, 8), elements=st.integers(-8, 7)))
def test_packing_is_undone(codes):
    packed = pack4(codes)
    assert packed.shape == (3, 4)
    assert np.array_equal(unpack4(packed), codes)
    assert packed[0, 0] & 15 == codes[0, 0] + 8


@pytest.mark.parametrize("dtype", ["int8", "int4", "w8a8"])
def test_saved_tensors_come_back(tmp_path, dtype):
    tensors = quantize(tiny_flat(), rules(dtype))
    save_tensors(tmp_path / "a.safetensors", tensors)
    save_tensors(tmp_path / "b.safetensors", load_tensors(tmp_path / "a.safetensors"))
    assert (tmp_path / "a.safetensors").read_bytes() == (tmp_path / "b.safetensors").read_bytes()
    again = dequantize(load_tensors(tmp_path / "a.safetensors"))
    for name, weight in dequantize(tensors).items():
        assert np.array_equal(again[name], weight), name


def test_damaged_files_are_named(tmp_path):
    path = tmp_path / "model.safetensors"
    with pytest.raises(UserError, match="no such file"):
        load_tensors(path)
    save_tensors(path, quantize(tiny_flat(), rules("int8")))
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match=r"model\.safetensors"):
        load_tensors(path)


def test_stacked_rows_are_the_same_numbers():
    one, two = (blocks(np.random.default_rng(i).standard_normal((2, 64), dtype=np.float32), "int4") for i in range(2))
    stacked = stack_rows([one, two])
    assert isinstance(stacked, Blocks)
    assert np.array_equal(stacked.dequantize(), np.concatenate([one.dequantize(), two.dequantize()]))
    with pytest.raises(UserError, match="of one dtype"):
        stack_rows([one, blocks(np.ones((1, 64), np.float32), "int8")])
    with pytest.raises(UserError, match="of one dtype"):
        stack_rows([one, np.ones((1, 64), np.float32)])


def test_first_matching_rule_wins_and_the_whole_name_counts():
    table = assign((Rule("a", "int8"), Rule("a.*", "int4"), NORMS), ["a", "ab", "x.norm.weight"])
    assert table == {"a": "int8", "ab": "int4", "x.norm.weight": "float32"}


@pytest.mark.parametrize(
    ("made", "names", "message"),
    [
        ((Rule("a", "int8"),), ["a", "b"], "no quantization rule matches b"),
        ((Rule("a", "int8"), Rule("c", "int4")), ["a"], "decide no tensor: c"),
        ((Rule(".*", "int8"), Rule("a", "int4")), ["a"], "decide no tensor: a"),
    ],
)
def test_rules_that_do_not_fit(made, names, message):
    with pytest.raises(UserError, match=message):
        assign(made, names)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"tensors": "a", "dtype": "int3"}, "unknown dtype 'int3'.*int8"),
        ({"tensors": "(", "dtype": "int8"}, "not a regular expression"),
        ({"tensor": "a", "dtype": "int8"}, "keys must be"),
    ],
)
def test_bad_rules(row, message):
    with pytest.raises(UserError, match=message):
        read_rules([row])


@pytest.mark.parametrize(
    ("weight", "message"),
    [
        (np.ones((2, 48), np.float32), r"w of shape \(2, 48\)"),
        (np.ones(64, np.float32), r"w of shape \(64,\)"),
        (np.full((1, 32), np.nan, np.float32), "w holds values that are not finite"),
        (np.full((1, 32), 1e8, np.float32), "w holds values too large"),
    ],
)
def test_weights_that_cannot_be_quantized(weight, message):
    with pytest.raises(UserError, match=message):
        quantize_tensor(weight, "int8", "w")
