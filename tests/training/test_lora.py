import jax
import numpy as np
import pytest
from flax import nnx

from tests.training.conftest import TINY
from tradewind.errors import UserError
from tradewind.model.decoder import Decoder
from tradewind.model.linear import precision
from tradewind.model.lora import MODULES, AdaptedLinear, LoRAConfig, adapt, adapted, adapted_layers, merge
from tradewind.model.weights import to_flat
from tradewind.training.finetune import FinetuneConfig
from tradewind.training.loop import OptimizerConfig, PackedExamples, TrainConfig, train
from tradewind.training.losses import CrossEntropy
from tradewind.training.taps import run_model


def outputs(model, packed):
    return np.asarray(run_model(model, packed.take(range(len(packed)))).logits)


def trained(packed, config):
    model = Decoder(TINY, rngs=nnx.Rngs(0))
    adapt(model, config, nnx.Rngs(1))
    run = TrainConfig(tokens=300, rows=2, optimizer=OptimizerConfig(5e-2))
    train(model, PackedExamples(packed), CrossEntropy(), run, trainable=nnx.LoRAParam)
    return model


def test_fresh_adapters_change_nothing(model, packed):
    before = outputs(model, packed)
    adapt(model, LoRAConfig(4, 8.0), nnx.Rngs(1))
    np.testing.assert_allclose(outputs(model, packed), before, atol=1e-6)


@pytest.mark.parametrize("config", [LoRAConfig(4, 8.0), LoRAConfig(2, 2.0, ("q", "down"), layers=1)])
def test_merged_equals_unmerged_after_training(packed, config):
    model = trained(packed, config)
    adapted_outputs = outputs(model, packed)
    assert np.abs(adapted_outputs - outputs(Decoder(TINY, rngs=nnx.Rngs(0)), packed)).max() > 1e-2
    merge(model)
    np.testing.assert_allclose(outputs(model, packed), adapted_outputs, atol=2e-5)


def test_training_changes_only_the_chosen_layers_and_modules(packed):
    model = trained(packed, LoRAConfig(2, 4.0, ("v", "up"), layers=2))
    merge(model)
    before, after = to_flat(Decoder(TINY, rngs=nnx.Rngs(0))), to_flat(model)
    changed = {name for name in before if not np.array_equal(before[name], after[name])}
    assert changed == {
        f"model.layers.{i}.{part}.weight" for i in (1, 2) for part in ("self_attn.v_proj", "mlp.up_proj")
    }


def test_written_gradients_are_those_of_the_plain_formula():
    keys = jax.random.split(jax.random.key(0), 5)
    shapes = ((7, 6), (6, 5), (2, 6), (2, 5), (7, 5))
    x, kernel, a, b, g = (jax.random.normal(key, shape) for key, shape in zip(keys, shapes, strict=True))

    def plain(x, a, b):
        return ((x @ kernel + x @ a.T @ b) * g).sum()

    def ours(x, a, b):
        return (adapted(x, kernel, a, b) * g).sum()

    for one, two in zip(jax.grad(plain, (0, 1, 2))(x, a, b), jax.grad(ours, (0, 1, 2))(x, a, b), strict=True):
        np.testing.assert_allclose(one, two, atol=1e-5)


def test_layers_are_counted_from_the_top_and_0_means_all():
    for layers, expected in ((0, [True] * 3), (2, [False, True, True])):
        model = Decoder(TINY, rngs=nnx.Rngs(0))
        adapt(model, LoRAConfig(2, 4.0, layers=layers), nnx.Rngs(1))
        assert [isinstance(layer.mlp.up, AdaptedLinear) for layer in model.layers] == expected


def test_unusable_choices_are_user_errors(model):
    with pytest.raises(UserError, match=f"unknown module 'w' .choices: {', '.join(MODULES)}"):
        LoRAConfig(2, 4.0, ("q", "w"))
    with pytest.raises(UserError, match="4 asked for, the model has 3"):
        adapt(model, LoRAConfig(2, 4.0, layers=4), nnx.Rngs(0))


@pytest.mark.parametrize("rank", [1, 4])
def test_in_bfloat16_adapters_have_the_gradients_of_rounded_operands(rank):
    keys = jax.random.split(jax.random.key(0), 5)
    shapes = ((96, 64), (64, 160), (rank, 64), (rank, 160), (96, 160))
    x, kernel, a, b, g = (jax.random.normal(key, shape) for key, shape in zip(keys, shapes, strict=True))

    @jax.jit
    def run(*inputs):
        out, back = jax.vjp(adapted, *inputs)
        down, _, of_a, of_b = back(g)
        return out, down, of_a, of_b

    exact = run(x, kernel, a, b)
    with precision("bfloat16"):
        near = run(x, kernel, a, b)
    for one, other in zip(near, exact, strict=True):
        assert one.dtype == other.dtype
        assert 0 < np.abs(one - other).max() < 0.03 * np.abs(other).max()


def test_in_bfloat16_the_frozen_weights_come_back_as_they_were(packed):
    model = Decoder(TINY, rngs=nnx.Rngs(0))
    adapt(model, LoRAConfig(4, 8.0), nnx.Rngs(1))
    run = TrainConfig(tokens=300, rows=2, optimizer=OptimizerConfig(5e-2), matmul_precision="bfloat16")
    log = train(model, PackedExamples(packed), CrossEntropy(), run, trainable=nnx.LoRAParam).log
    assert log[-1]["loss"] < log[0]["loss"]
    for module in adapted_layers(model).values():
        assert np.abs(module.b[...]).max() > 0
        module.b[...] = jax.numpy.zeros_like(module.b[...])
    merge(model)
    before, after = to_flat(Decoder(TINY, rngs=nnx.Rngs(0))), to_flat(model)
    assert all(np.array_equal(before[name], after[name]) for name in before)


def test_the_precision_reaches_the_loop_and_an_unknown_one_is_named():
    given = {
        "method": "lora",
        "length": 8,
        "tokens": 8,
        "rows": 1,
        "optimizer": OptimizerConfig(1e-2),
        "lora": LoRAConfig(1, 1.0),
    }
    assert FinetuneConfig(**given, matmul_precision="bfloat16").train(0).matmul_precision == "bfloat16"
    with pytest.raises(UserError, match=r"^finetune\.matmul_precision: unknown precision 'fp8' .choices: default"):
        FinetuneConfig(**given, matmul_precision="fp8")
