"""Stage `quantize`: teacher and student as the integer codes that every container holds, made by the recipes
of the variants wanted, and the scales of an int8 key-value cache, from training conversations."""

from pathlib import Path

from tradewind.compression.calibration import CalibrationConfig, calibration_rows
from tradewind.compression.kv_cache import SCALES_FILE, kv_scales, save_scales
from tradewind.compression.quantize import dequantize, errors, save_tensors
from tradewind.compression.recipe import quantize_model, read_recipes
from tradewind.compression.variant import split_name
from tradewind.config import build, run, stage_params
from tradewind.errors import UserError, within
from tradewind.files import atomic_path, write_json
from tradewind.model.tokenizer import Tokenizer
from tradewind.model.weights import load_hf, to_model

MODELS = ("teacher", "student")
QUANTIZED, TRAIN = Path("artifacts/quantized"), "artifacts/corpus/train.jsonl"


def main() -> None:
    params = stage_params("quantize")
    recipes = read_recipes(params["recipes"])
    settings = build(CalibrationConfig, params["calibration"], "quantize.calibration")
    wanted: dict[str, list[str]] = {}
    for name in params["variants"]:
        model, recipe = split_name(name)
        if recipe not in recipes:
            raise UserError(f"quantize.variants: {name}: no recipe {recipe!r} (choices: {', '.join(recipes)})")
        if model not in MODELS:
            raise UserError(f"quantize.variants: {name}: no model {model!r} (choices: {', '.join(MODELS)})")
        wanted.setdefault(model, []).append(recipe)
    with atomic_path(QUANTIZED) as made:
        for model, chosen in wanted.items():
            config, flat = load_hf(f"artifacts/{model}")
            tokenizer = Tokenizer.load(f"artifacts/{model}")
            batches, named = calibration_rows(TRAIN, tokenizer, settings, params["seed"])
            for recipe in chosen:
                with within(f"{model}-{recipe}"):
                    tensors = quantize_model(config, flat, recipes[recipe], batches)
                scales = kv_scales(to_model(config, dequantize(tensors)), batches)
                folder = made / f"{model}-{recipe}"
                save_tensors(folder / "model.safetensors", tensors)
                save_scales(folder / SCALES_FILE, scales)
                write_json(folder / "config.json", config.to_hf())
                write_json(folder / "quantize.json", recipes[recipe].told(named) | {"errors": errors(flat, tensors)})
                print(f"quantize: {folder.name}, {sum(t.nbytes for t in tensors.values()) / 1e6:.1f} MB")


if __name__ == "__main__":
    run(main)
