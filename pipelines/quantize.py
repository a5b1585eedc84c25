"""Stage `quantize`: teacher and student as the integer codes that every container holds, made by the recipes that are
served, and the scales of an int8 key-value cache, from training conversations."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax.numpy as jnp

from tradewind.compression.kv_cache import SCALES_FILE, kv_scales, save_scales
from tradewind.compression.quantize import Tensor, errors, save_tensors
from tradewind.compression.recipe import Recipe, quantize_model, read_recipes
from tradewind.compression.rules import rules_as_rows
from tradewind.config import run, stage_params
from tradewind.errors import UserError
from tradewind.files import atomic_path, read_jsonl, write_json
from tradewind.model.tokenizer import Tokenizer
from tradewind.model.weights import Flat, load_hf, to_model
from tradewind.training.data import Batch, draw, pack

QUANTIZED, TRAIN = Path("artifacts/quantized"), "artifacts/corpus/train.jsonl"


def main() -> None:
    params = stage_params("quantize")
    recipes = read_recipes(params["recipes"])
    if unknown := [name for name in params["serve"] if name not in recipes]:
        raise UserError(f"quantize.serve: no recipe {unknown[0]!r} (choices: {', '.join(recipes)})")
    with atomic_path(QUANTIZED) as made:
        for model in params["models"]:
            config, flat = load_hf(f"artifacts/{model}")
            batches = calibration(model, params["kv_cache"], params["seed"])
            scales = kv_scales(to_model(config, flat, jnp.float32, jnp.float32), batches)
            for name in params["serve"]:
                tensors = quantize_model(config, flat, recipes[name], batches)
                folder = made / f"{model}-{name}"
                save_tensors(folder / "model.safetensors", tensors)
                save_scales(folder / SCALES_FILE, scales)
                write_json(folder / "config.json", config.to_hf())
                write_json(folder / "quantize.json", about(recipes[name], params["kv_cache"], flat, tensors))
                print(f"quantize: {folder.name}, {sum(t.nbytes for t in tensors.values()) / 1e6:.1f} MB")


def about(recipe: Recipe, kv_cache: Mapping[str, Any], flat: Flat, tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    """What was quantized how, and how far each tensor is from what it was."""
    made = {"method": recipe.method, "rules": rules_as_rows(recipe.rules), "kv_cache": dict(kv_cache)}
    return made | {"errors": errors(flat, tensors)}


def calibration(model: str, settings: Mapping[str, Any], seed: int) -> list[Batch]:
    """`tokens` tokens of training conversations in rows of `length`, one row a batch."""
    conversations = [row["messages"] for row in read_jsonl(TRAIN)]
    samples = draw(conversations, Tokenizer.load(f"artifacts/{model}"), settings["tokens"], settings["length"], seed)
    packed = pack(samples, settings["length"])
    return [packed.take([row]) for row in range(len(packed))]


if __name__ == "__main__":
    run(main)
