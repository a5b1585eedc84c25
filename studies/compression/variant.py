"""One variant of the study: a model's weights quantized by a recipe of conf/quantize, or of the study itself, and written in
every container.

    python -m studies.compression.variant student-int4-qat

Results: artifacts/studies/compression/variants/NAME.
"""

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from studies.compression.places import VARIANTS, model_folder, plan
from tradewind.compression.calibration import CalibrationConfig, calibration_rows
from tradewind.compression.export import write_variant
from tradewind.compression.kv_cache import kv_scales
from tradewind.compression.quantize import dequantize
from tradewind.compression.recipe import Recipe, quantize_model, read_recipes
from tradewind.compression.variant import Manifest, split_name
from tradewind.config import build, run, stage_params
from tradewind.errors import UserError, within
from tradewind.model.tokenizer import Tokenizer
from tradewind.model.weights import load_hf, to_model

TRAIN = "artifacts/corpus/train.jsonl"


def main() -> None:
    params = stage_params("quantize")
    for name in sys.argv[1:]:
        model, recipe = split_name(name)
        folder = model_folder(model)
        if recipe == "fp32":
            manifest = write_variant(VARIANTS / name, name, *load_hf(folder), Tokenizer.load(folder))
        else:
            recipes = read_recipes(params["recipes"] | plan()["recipes"])
            if recipe not in recipes:
                raise UserError(f"{name}: no recipe {recipe!r} (choices: {', '.join(recipes)})")
            manifest = quantized(name, folder, recipes[recipe], params)
        print(f"variant: {name}, {manifest.bytes / 1e6:.1f} MB of weights, digest {manifest.weights_digest}")


def quantized(name: str, folder: Path, recipe: Recipe, params: Mapping[str, Any]) -> Manifest:
    config, flat = load_hf(folder)
    tokenizer = Tokenizer.load(folder)
    settings = build(CalibrationConfig, params["calibration"], "quantize.calibration")
    batches, named = calibration_rows(TRAIN, tokenizer, settings, params["seed"])
    with within(name):
        tensors = quantize_model(config, flat, recipe, batches)
    scales = kv_scales(to_model(config, dequantize(tensors)), batches)
    return write_variant(VARIANTS / name, name, config, tensors, tokenizer, recipe.told(named), kv_scales=scales)


if __name__ == "__main__":
    run(main)
