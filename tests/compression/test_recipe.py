"""Recipes as data: those of the configuration fit the model, and what does not fit is named."""

import numpy as np
import onnx_ir as ir
import pytest
import yaml

from tests.compression.tiny import CONFIG, rules, tiny_batch, tiny_flat
from tradewind.compression.export_gguf import gguf_blocks
from tradewind.compression.onnx_graph import GraphBuilder
from tradewind.compression.onnx_linear import Linears
from tradewind.compression.qat import QatConfig
from tradewind.compression.quantize import Blocks
from tradewind.compression.recipe import Recipe, quantize_model, read_recipe, read_recipes
from tradewind.compression.rules import Rule
from tradewind.compression.variant import split_name
from tradewind.config import read_params
from tradewind.errors import UserError
from tradewind.training.loop import OptimizerConfig

ROWS = [{"tensors": ".*", "dtype": "int8"}]
TRAINING = {"tokens": 100, "optimizer": {"learning_rate": 1e-3}}


def recipe(method: str, rules: tuple[Rule, ...]) -> Recipe:
    return Recipe(method, rules, QatConfig(100, OptimizerConfig(1e-3)) if method == "qat" else None)


def test_every_recipe_of_the_configuration_fits_the_decoder(root):
    settings = read_params(root / "params.yaml")["quantize"]
    recipes = read_recipes(settings["recipes"])
    assert {split_name(name)[1] for name in settings["variants"]} <= set(recipes)
    stages = yaml.safe_load((root / "dvc.yaml").read_text())["vars"][0]["variants"]
    assert {name for name in stages if not name.endswith("-fp32")} == set(settings["variants"])
    for name, one in recipes.items():
        made = quantize_model(CONFIG, tiny_flat(), Recipe("rtn", one.rules))
        norms = {name for name, tensor in made.items() if isinstance(tensor, np.ndarray)}
        assert norms == {name for name in tiny_flat() if name.endswith("norm.weight")}, name


def test_the_mixed_recipe_keeps_the_sensitive_matrices_in_int8(root):
    mixed = read_recipe(read_params(root / "params.yaml")["quantize"]["recipes"]["mixed"])
    bits = {name: t.bits for name, t in quantize_model(CONFIG, tiny_flat(), mixed).items() if isinstance(t, Blocks)}
    for name, found in bits.items():
        sensitive = any(part in name for part in ("embed", "down", "o_proj", "v_proj"))
        assert found == (8 if sensitive else 4), name


@pytest.mark.parametrize(
    ("mapping", "message"),
    [
        ({"method": "sparse", "rules": ROWS}, "unknown quantization method 'sparse'.*rtn"),
        ({"rules": ROWS}, "keys are method and rules .*, not rules"),
        ({"method": "rtn", "rules": ROWS, "training": TRAINING}, "method rtn: `training` is for qat"),
        ({"method": "qat", "rules": ROWS}, "method qat: `training` is for qat, which needs it"),
        ({"method": "qat", "rules": ROWS, "training": TRAINING | {"rate": 1}}, "rate"),
        ({"method": "rtn", "rules": [{"tensors": ".*", "dtype": "int3"}]}, "unknown dtype 'int3'"),
    ],
)
def test_bad_recipes(mapping, message):
    with pytest.raises(UserError, match=message):
        read_recipe(mapping)


def test_names_begin_with_a_precision():
    with pytest.raises(UserError, match="recipe 'gptq-int4'"):
        read_recipes({"gptq-int4": {"method": "rtn", "rules": ROWS}})


def test_a_faulty_recipe_is_named():
    with pytest.raises(UserError, match="recipe int4-gtpq: unknown quantization method 'gtpq'"):
        read_recipes({"int4-gtpq": {"method": "gtpq", "rules": ROWS}})


@pytest.mark.parametrize("method", ["rtn", "gptq", "awq", "qat"])
def test_layers_that_do_not_fit_are_named_with_their_rule(method):
    flat = tiny_flat() | {"model.layers.0.mlp.down_proj.weight": np.ones((64, 48), np.float32)}
    with pytest.raises(UserError, match=r"layers\.0\.mlp\.down_proj\.weight of.*as rule '\.\*' has it.*multiple of 32"):
        quantize_model(CONFIG, flat, recipe(method, rules("int4")), [tiny_batch()])


@pytest.mark.parametrize("method", ["rtn", "gptq", "awq", "qat"])
def test_rules_that_match_nothing_are_named(method):
    with pytest.raises(UserError, match="decide no tensor: lm_head"):
        quantize_model(CONFIG, tiny_flat(), recipe(method, (Rule("lm_head", "int8"), *rules("int4"))), [tiny_batch()])


def test_codes_that_a_container_lacks_are_refused():
    odd = Blocks(2, np.zeros((64, 64), np.int8), np.ones((64, 2), np.float16))
    with pytest.raises(UserError, match="GGUF has no type for codes of 2 bits"):
        gguf_blocks(odd)
    with pytest.raises(UserError, match="MatMulNBits runs codes of 4 or 8 bits"):
        Linears(GraphBuilder(), 4)(ir.Value(name="x"), odd, "down")
