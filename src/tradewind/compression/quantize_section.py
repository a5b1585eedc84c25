"""The section `quantize` of params.yaml, read and checked: by the stage, and before a run that reaches it much later."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tradewind.compression.calibration import CalibrationConfig
from tradewind.compression.recipe import Recipe, read_recipes
from tradewind.compression.rules import Rule, deciding
from tradewind.compression.variant import split_name
from tradewind.config import build
from tradewind.errors import UserError, within
from tradewind.model.weights import LAYER_TABLE, TABLE

MODELS = ("teacher", "student")
MOST_LAYERS = 64
"""Of any model that a rule could be meant for."""


@dataclass(frozen=True)
class QuantizeSection:
    """recipes: by name. wanted: model -> names of its recipes. calibration: see `CalibrationConfig`."""

    recipes: dict[str, Recipe]
    wanted: dict[str, list[str]]
    calibration: CalibrationConfig


def _check_names(rules: Sequence[Rule]) -> None:
    """Raises UserError for a tensor of a decoder's first layer that no rule decides, and for a rule that decides none of any
    layer: the models, which have fewer layers, are made much later."""
    first = [one.hf for one in (*TABLE, *(weight.at(0) for weight in LAYER_TABLE))]
    if unmatched := [name for name in first if deciding(rules, name) is None]:
        raise UserError(f"no quantization rule matches {unmatched[0]}")
    names = first + [weight.at(layer).hf for layer in range(1, MOST_LAYERS) for weight in LAYER_TABLE]
    used = {deciding(rules, name) for name in names}
    if unused := [rule.tensors for rule in rules if rule not in used]:
        raise UserError(f"quantization rule that decides no tensor: {unused[0]}")


def read_section(section: Mapping[str, Any], known: Collection[str] | None = None) -> QuantizeSection:
    """known: names of variants that later stages are about; None: whichever are wanted.

    Raises:
        UserError: naming the recipe, rule, variant or key that is wrong.
    """
    recipes = read_recipes(section["recipes"])
    for name, recipe in recipes.items():
        if not recipe.rules:
            raise UserError(f"recipe {name}: no rules")
        with within(f"recipe {name}"):
            _check_names(recipe.rules)
        if recipe.training is not None and recipe.training.tokens < 1:
            raise UserError(f"recipe {name}: training.tokens must be at least 1, not {recipe.training.tokens}")
    wanted: dict[str, list[str]] = {}
    for name in section["variants"]:
        model, recipe_name = split_name(name)
        if recipe_name not in recipes:
            raise UserError(f"quantize.variants: {name}: no recipe {recipe_name!r} (choices: {', '.join(recipes)})")
        if model not in MODELS:
            raise UserError(f"quantize.variants: {name}: no model {model!r} (choices: {', '.join(MODELS)})")
        if recipe_name in wanted.setdefault(model, []):
            raise UserError(f"quantize.variants: {name} stands there twice")
        wanted[model].append(recipe_name)
    if known is not None and set(known) != set(section["variants"]):
        raise UserError(
            f"quantize.variants must be those of dvc.yaml's `vars` ({', '.join(known)}); a change goes into both"
        )
    return QuantizeSection(recipes, wanted, build(CalibrationConfig, section["calibration"], "quantize.calibration"))
