from dataclasses import replace

import jax.numpy as jnp
import numpy as np
import pytest

from tests.compression import tiny
from tradewind.compression.gptq import quantize_gptq
from tradewind.compression.qat import QatConfig, every_token, fake_quantize, quantize_qat, rounding
from tradewind.compression.quantize import quantize, quantize_tensor
from tradewind.compression.rules import Rule
from tradewind.compression.sensitivity import divergence
from tradewind.errors import UserError
from tradewind.training.data import pack
from tradewind.training.loop import OptimizerConfig


@pytest.mark.parametrize("dtype", ["int8", "int4"])
@pytest.mark.parametrize("axis", [0, 1])
def test_what_is_trained_is_what_is_stored(dtype, axis):
    weight = np.random.default_rng(0).standard_normal((96, 128)).astype(np.float32)
    weight[3] = 0.0  # blocks without a scale
    stored = quantize_tensor(weight, dtype).dequantize()
    given, expected = (weight, stored) if axis == 1 else (weight.T, stored.T)
    np.testing.assert_array_equal(fake_quantize(jnp.asarray(given), dtype, axis), expected)


def test_every_token_that_follows_another_of_its_sample_is_a_target():
    packed = pack([([5, 6, 7, 8], [0, 0, 0, 1]), ([9, 10], [0, 1])], 8)
    every = every_token([packed.take([0])])
    batch = every.take([0])
    used = batch.weights[0] > 0
    pairs = set(zip(batch.tokens[0][batch.where[0][used]], batch.targets[0][used], strict=True))
    assert pairs == {(5, 6), (6, 7), (7, 8), (9, 10)}
    assert every.targets == 4


def test_training_ends_nearer_to_the_float_weights_than_gptq():
    """On other text than it was trained on."""
    flat, rules = tiny.tiny_flat(), tiny.rules("int4")
    text, unseen = ([tiny.tiny_batch(seed=seed) for seed in seeds] for seeds in (range(2, 98), range(500, 504)))
    made = quantize_qat(tiny.CONFIG, flat, rules, text, QatConfig(16_000, OptimizerConfig(1e-3)))
    kl = {name: divergence(tiny.CONFIG, flat, one, unseen).kl_all for name, one in (
        ("rtn", quantize(flat, rules)), ("gptq", quantize_gptq(tiny.CONFIG, flat, rules, text)), ("qat", made))}  # fmt: skip
    assert kl["qat"] < 0.93 * kl["gptq"]
    assert kl["gptq"] < kl["rtn"]


def test_rules_that_fit_no_tensor_are_refused():
    with pytest.raises(UserError, match="decide no tensor"):
        rounding(tiny.CONFIG, (*tiny.rules("int4"), Rule("lm_head", "int8")))


def test_a_dtype_that_cannot_be_trained_and_a_width_that_cannot_be_divided_are_named():
    with pytest.raises(UserError, match="no grid for 'w8a8'"):
        rounding(tiny.CONFIG, (tiny.NORMS, Rule(".*embed.*", "int8"), Rule(".*", "w8a8")))
    with pytest.raises(UserError, match=r"mlp\.down_proj\.weight .* rule '\.\*'"):
        rounding(replace(tiny.CONFIG, mlp_size=40), tiny.rules("int4"))
