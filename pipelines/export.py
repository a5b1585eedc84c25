"""Stage `export`: one variant in the containers that run it: `python pipelines/export.py teacher-int8`."""

import sys
from pathlib import Path

from tradewind.compression.export import write_variant
from tradewind.compression.kv_cache import SCALES_FILE, load_scales
from tradewind.compression.quantize import load_tensors
from tradewind.compression.variant import split_name
from tradewind.config import run, stage_params
from tradewind.files import read_json
from tradewind.model.tokenizer import Tokenizer
from tradewind.model.weights import load_hf

QUANTIZED, VARIANTS = Path("artifacts/quantized"), Path("artifacts/variants")


def main() -> None:
    level = stage_params("export")["accuracy_level"]
    for name in sys.argv[1:]:
        model, recipe = split_name(name)
        tokenizer = Tokenizer.load(f"artifacts/{model}")
        config, flat = load_hf(f"artifacts/{model}")
        if recipe == "fp32":
            manifest = write_variant(VARIANTS / name, name, config, flat, tokenizer)
        else:
            quantized = QUANTIZED / name
            tensors, scales = load_tensors(quantized / "model.safetensors"), load_scales(quantized / SCALES_FILE)
            about = read_json(quantized / "quantize.json")
            told = {key: value for key, value in about.items() if key != "errors"}
            manifest = write_variant(VARIANTS / name, name, config, tensors, tokenizer, told, level, scales)
        print(f"export: {name}, {manifest.bytes / 1e6:.1f} MB of weights, digest {manifest.weights_digest}")


if __name__ == "__main__":
    run(main)
