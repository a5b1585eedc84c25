from dataclasses import replace

import jax.numpy as jnp
import numpy as np
import pytest

from tests.compression import tiny
from tradewind.compression.distill import DistillConfig, distill
from tradewind.compression.qat import fake_quantize, rounding
from tradewind.compression.quantize import dequantize, quantize, quantize_tensor
from tradewind.compression.rules import Rule
from tradewind.compression.teacher_cache import ask_teacher
from tradewind.errors import UserError
from tradewind.model.weights import to_model
from tradewind.training.data import pack
from tradewind.training.loop import OptimizerConfig, run_model
from tradewind.training.losses import combine


@pytest.mark.parametrize("dtype", ["int8", "int4"])
@pytest.mark.parametrize("axis", [0, 1])
def test_what_is_trained_is_what_is_stored(dtype, axis):
    weight = np.random.default_rng(0).standard_normal((96, 128)).astype(np.float32)
    weight[3] = 0.0  # blocks without a scale
    stored = quantize_tensor(weight, dtype).dequantize()
    given, expected = (weight, stored) if axis == 1 else (weight.T, stored.T)
    np.testing.assert_array_equal(fake_quantize(jnp.asarray(given), dtype, axis), expected)


def divergence(flat, cache) -> float:
    batch, targets = cache.take(np.arange(len(cache.packed)))
    return float(combine({"logits": 1.0})(run_model(to_model(tiny.CONFIG, flat), batch), targets)[0])


def test_training_brings_the_rounded_model_back_to_its_float_weights():
    flat, rules = tiny.tiny_flat(), tiny.rules("int4")
    random = np.random.default_rng(1)
    samples = [(random.integers(tiny.VOCABULARY, size=60).tolist(), [1] * 60) for _ in range(24)]
    cache = ask_teacher(to_model(tiny.CONFIG, flat), np.arange(tiny.VOCABULARY), pack(samples, 64), k=64, rows=8)
    choice = DistillConfig(12_000, 4, OptimizerConfig(2e-3), {"logits": 1.0})
    trained, result = distill(tiny.CONFIG, flat, cache, choice, seed=0, seen=rounding(tiny.CONFIG, rules))
    before, after = (divergence(dequantize(quantize(one, rules)), cache) for one in (flat, trained))
    assert after < 0.7 * before
    assert result.log[0]["logits_kl"] > result.log[-1]["logits_kl"]


def test_rules_that_fit_no_tensor_are_refused():
    with pytest.raises(UserError, match="decide no tensor"):
        rounding(tiny.CONFIG, (*tiny.rules("int4"), Rule("lm_head", "int8")))


def test_a_dtype_that_cannot_be_trained_and_a_width_that_cannot_be_divided_are_named():
    with pytest.raises(UserError, match="no grid for 'w8a8'"):
        rounding(tiny.CONFIG, (tiny.NORMS, Rule(".*embed.*", "int8"), Rule(".*", "w8a8")))
    with pytest.raises(UserError, match=r"mlp\.down_proj\.weight .* rule '\.\*'"):
        rounding(replace(tiny.CONFIG, mlp_size=40), tiny.rules("int4"))
