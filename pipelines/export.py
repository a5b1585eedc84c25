"""Stage `export`: one variant in the containers that run it: `python pipelines/export.py teacher-int8`."""

import sys
from pathlib import Path

from tradewind.compression.export import write_variant
from tradewind.compression.quantize import load_tensors
from tradewind.compression.variant import split_name
from tradewind.config import run, stage_params
from tradewind.files import read_json
from tradewind.model.tokenizer import Tokenizer
from tradewind.model.weights import load_hf

VARIANTS = Path("artifacts/variants")


def main() -> None:
    level = stage_params("export")["accuracy_level"]
    for name in sys.argv[1:]:
        model, precision = split_name(name)
        config, flat = load_hf(f"artifacts/{model}")
        quantized = Path("artifacts/quantized") / name
        tensors = flat if precision == "fp32" else load_tensors(quantized / "model.safetensors")
        rules = {} if precision == "fp32" else {"rules": read_json(quantized / "quantize.json")["rules"]}
        manifest = write_variant(
            VARIANTS / name, name, config, tensors, Tokenizer.load(f"artifacts/{model}"), rules, level
        )
        print(f"export: {name}, {manifest.bytes / 1e6:.1f} MB of weights, digest {manifest.weights_digest}")


if __name__ == "__main__":
    run(main)
