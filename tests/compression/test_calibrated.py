"""GPTQ and AWQ: against exhaustive search and identities where those exist, and against rounding to nearest on activations
of which a few channels are far larger than the rest, as a decoder's are."""

from itertools import product

import numpy as np
import pytest

from tests.compression.tiny import CONFIG, NORMS, reference_logits, rules, tiny_batch, tiny_flat
from tradewind.compression.awq import best_factor, scaled
from tradewind.compression.calibration import hessian, output_error
from tradewind.compression.gptq import Factor, gptq
from tradewind.compression.quantize import Blocks, dequantize, errors, quantize_tensor
from tradewind.compression.recipe import Recipe, quantize_model
from tradewind.compression.rules import Rule
from tradewind.errors import UserError

TOKENS = np.random.default_rng(3).integers(0, CONFIG.vocab_size, 40).tolist()


def outlier_case(width: int = 96, tokens: int = 2000) -> tuple[np.ndarray, np.ndarray]:
    """A matrix [48, width], and activations [tokens, width] that are correlated and have three large channels."""
    random = np.random.default_rng(0)
    weight = random.standard_normal((48, width), dtype=np.float32)
    x = random.standard_normal((tokens, 16)) @ random.standard_normal((16, width)) / 4
    x += 0.3 * random.standard_normal((tokens, width))
    x[:, [5, 40, 77]] *= 12
    return weight, x.astype(np.float32)


def error(weight: np.ndarray, restored: np.ndarray, x: np.ndarray) -> float:
    """Relative RMS of the outputs, from the outputs themselves."""
    return float(np.linalg.norm(x @ (weight - restored).T) / np.linalg.norm(x @ weight.T))


def test_the_output_error_is_that_of_the_outputs():
    weight, x = outlier_case()
    restored = quantize_tensor(weight, "int4").dequantize()
    exact = np.square(x.astype(np.float64) @ (weight - restored).T.astype(np.float64)).sum(axis=1).mean()
    assert output_error(weight, restored, hessian([x[:500], x[500:]])) == pytest.approx(exact, rel=1e-3)


@pytest.mark.parametrize(("dtype", "share"), [("int4", 0.6), ("int8", 0.6)])
def test_gptqs_output_error_is_below_that_of_rounding_to_nearest(dtype, share):
    weight, x = outlier_case()
    rounded = error(weight, quantize_tensor(weight, dtype).dequantize(), x)
    assert error(weight, gptq(weight, dtype, Factor(hessian([x]))).dequantize(), x) < share * rounded


@pytest.mark.parametrize("dtype", ["int4", "int8"])
def test_without_correlations_gptq_rounds_to_nearest(dtype):
    """Nothing is to be made up for, so codes differ only where float16 moves the scale across a tie."""
    weight, _ = outlier_case()
    plain, made = quantize_tensor(weight, dtype), gptq(weight, dtype, Factor(np.diag(np.arange(1.0, 97.0))))
    assert isinstance(plain, Blocks)
    assert np.array_equal(plain.scales, made.scales)
    assert (plain.codes != made.codes).mean() < 0.03


def test_the_last_two_columns_are_rounded_as_well_as_can_be():
    """With all but two inputs silent, the best of all codes near the weights is known; GPTQ is within a tenth of it."""
    random = np.random.default_rng(4)
    weight = np.zeros((64, 32), np.float32)
    weight[:, 0] = -8  # fixes the scale at 1
    weight[:, 30:] = random.uniform(-6, 6, (64, 2))
    x = np.zeros((400, 32), np.float32)
    x[:, 30:] = random.multivariate_normal([0, 0], [[1, 0.9], [0.9, 1]], 400)
    about = hessian([x])
    made = gptq(weight, "int4", Factor(about, damping=1e-6)).dequantize()
    best = 0.0
    for row in weight:
        tries = []
        for steps in product((-2, -1, 0, 1, 2), repeat=2):
            changed = row.copy()
            changed[30:] = np.round(row[30:]) + steps
            tries.append(output_error(row[None], changed[None], about))
        best += min(tries)
    plain = output_error(weight, np.round(weight), about)
    assert best <= output_error(weight, made, about) < best + 0.1 * (plain - best)


def test_inputs_that_are_always_zero_do_no_harm():
    weight, x = outlier_case()
    x[:, 10:20] = 0
    made = gptq(weight, "int4", Factor(hessian([x])))
    assert np.isfinite(made.dequantize()).all()
    assert error(weight, made.dequantize(), x) < error(weight, quantize_tensor(weight, "int4").dequantize(), x)


def test_awqs_output_error_is_below_that_of_rounding_to_nearest():
    weight, x = outlier_case()
    factor = best_factor([(weight, "int4")], np.abs(x).mean(axis=0), hessian([x]))
    restored = quantize_tensor(weight * factor, "int4").dequantize() / factor
    assert error(weight, restored, x) < 0.8 * error(weight, quantize_tensor(weight, "int4").dequantize(), x)
    assert factor[[5, 40, 77]].min() > 1.5 * np.median(factor)


def outlier_flat() -> dict[str, np.ndarray]:
    """A decoder whose norms make two channels large."""
    flat = tiny_flat()
    for name, array in flat.items():
        if name.endswith("layernorm.weight"):
            array[[3, 50]] *= 10
    return flat


def test_scaled_weights_compute_the_same():
    flat = outlier_flat()
    made = scaled(CONFIG, flat, rules("int4"), [tiny_batch(rows=4)])
    assert any(not np.allclose(made[name], flat[name], rtol=0.2) for name in flat)
    assert np.array_equal(made["model.embed_tokens.weight"], flat["model.embed_tokens.weight"])
    before, after = (reference_logits(CONFIG, one, TOKENS) for one in (flat, made))
    np.testing.assert_allclose(after, before, atol=2e-3)


@pytest.mark.parametrize("method", ["gptq", "awq"])
def test_a_calibrated_model_is_nearer_to_its_float_weights(method):
    """On other tokens than those it was calibrated on."""
    flat, batches = outlier_flat(), [tiny_batch(rows=16), tiny_batch(rows=16, seed=2)]
    exact = reference_logits(CONFIG, flat, TOKENS)

    def distance(method: str) -> float:
        made = quantize_model(CONFIG, flat, Recipe(method, rules("int4")), batches)
        return float(np.linalg.norm(reference_logits(CONFIG, dequantize(made), TOKENS) - exact))

    assert distance(method) < 0.95 * distance("rtn")


def test_gptq_rounds_further_from_the_weights_but_on_the_same_grid():
    """Within a step and a half of uniform noise: 7 to 15 % of a normal matrix at int4."""
    flat, batches = tiny_flat(), [tiny_batch(rows=16)]
    made = quantize_model(CONFIG, flat, Recipe("gptq", rules("int4")), batches)
    found = {name: row["relative_rms"] for name, row in errors(flat, made).items()}
    assert all(0.07 < found[name] < 0.16 for name in found), found
    table = made["model.embed_tokens.weight"]
    assert isinstance(table, Blocks)
    assert np.array_equal(table.dequantize(), quantize_tensor(flat["model.embed_tokens.weight"], "int4").dequantize())


@pytest.mark.parametrize("method", ["gptq", "awq"])
def test_the_same_text_gives_the_same_codes(method):
    made = [quantize_model(CONFIG, tiny_flat(), Recipe(method, rules("int4")), [tiny_batch(rows=4)]) for _ in range(2)]
    for name, weight in dequantize(made[0]).items():
        assert np.array_equal(weight, dequantize(made[1])[name]), name


@pytest.mark.parametrize("method", ["gptq", "awq"])
def test_matrices_of_other_dtypes_stay_as_their_rules_say(method):
    made_of = (NORMS, Rule(r".*\.gate_proj\.weight", "float32"), Rule(r".*embed.*|.*\.down_proj\.weight", "int8"),
               Rule(".*", "int4"))  # fmt: skip
    made = quantize_model(CONFIG, tiny_flat(), Recipe(method, made_of), [tiny_batch(rows=4)])
    down, gate = (made[f"model.layers.1.mlp.{part}_proj.weight"] for part in ("down", "gate"))
    assert isinstance(down, Blocks) and down.bits == 8
    assert isinstance(gate, np.ndarray)


@pytest.mark.parametrize("method", ["gptq", "awq"])
def test_too_little_text_is_refused(method):
    recipe = Recipe(method, rules("int4"))
    with pytest.raises(UserError, match=f"method {method} needs calibration text"):
        quantize_model(CONFIG, tiny_flat(), recipe)
    with pytest.raises(UserError, match="calibration text of 24 tokens is shorter than a block of 32"):
        quantize_model(CONFIG, tiny_flat(), recipe, [tiny_batch(length=32)])
