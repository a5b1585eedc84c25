"""One variant of the study: a model's weights quantized by a recipe and written in every container.

    python -m studies.compression.variant tiny-int4-qat

Recipes are those of conf/quantize. `-qat` weights come from the stage `qat`, all others from the model itself.
"""

import sys
from pathlib import Path

from studies.compression.places import MADE, VARIANTS, model_folder
from tradewind.compression.export import write_variant
from tradewind.compression.kv_cache import kv_scales
from tradewind.compression.quantize import quantize_model
from tradewind.compression.recipe import read_recipes
from tradewind.compression.variant import split_name
from tradewind.config import run, stage_params
from tradewind.model.tokenizer import Tokenizer
from tradewind.model.weights import load_hf, to_model

TRAIN = "artifacts/corpus/train.jsonl"


def main() -> None:
    params = stage_params("quantize")
    recipes = read_recipes(params["recipes"])
    for name in sys.argv[1:]:
        model, chosen = split_name(name)
        folder = MADE / "qat" / name.removesuffix("-qat") if chosen.endswith("-qat") else model_folder(model)
        config, flat = load_hf(folder)
        tokenizer = Tokenizer.load(folder)
        ...
        print(f"variant: {name}, {manifest.bytes / 1e6:.1f} MB of weights, digest {manifest.weights_digest}")


if __name__ == "__main__":
    run(main)
