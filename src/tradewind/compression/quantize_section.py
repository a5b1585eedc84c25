"""The section `quantize` of params.yaml, read and checked: by the stage, and before a run that reaches it much later."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from tradewind.compression.calibration import CalibrationConfig
from tradewind.compression.recipe import Recipe, read_recipes
from tradewind.compression.variant import split_name
from tradewind.config import build
from tradewind.errors import UserError

MODELS = ("teacher", "student")


@dataclass(frozen=True)
class QuantizeSection:
    """recipes: by name. wanted: model -> names of its recipes. calibration: see `CalibrationConfig`."""

    recipes: dict[str, Recipe]
    wanted: dict[str, list[str]]
    calibration: CalibrationConfig


def read_section(section: Mapping[str, Any], known: Collection[str] | None = None) -> QuantizeSection:
    """known: names of variants that later stages are about; None: whichever are wanted.

    Raises:
        UserError: naming the recipe, rule, variant or key that is wrong.
    """
    recipes = read_recipes(section["recipes"])
    for name, recipe in recipes.items():
        if not recipe.rules:
            raise UserError(f"recipe {name}: no rules")
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
