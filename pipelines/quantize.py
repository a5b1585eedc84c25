"""Stage `quantize`: teacher and student as the integer codes that every container holds, made by the recipes
of the variants wanted, and the scales of an int8 key-value cache, from training conversations."""

from pathlib import Path

from tradewind.compression.calibration import calibration_rows
from tradewind.compression.kv_cache import SCALES_FILE, kv_scales, save_scales
from tradewind.compression.quantize import dequantize, errors, save_tensors
from tradewind.compression.quantize_section import read_section
from tradewind.compression.recipe import quantize_model
from tradewind.config import run, stage_params
from tradewind.errors import within
from tradewind.files import atomic_path, write_json
from tradewind.model.tokenizer import Tokenizer
from tradewind.model.weights import load_hf, to_model

QUANTIZED, TRAIN = Path("artifacts/quantized"), "artifacts/corpus/train.jsonl"


def main() -> None:
    params = stage_params("quantize")
    section = read_section(params)
    with atomic_path(QUANTIZED) as made:
        for model, chosen in section.wanted.items():
            config, flat = load_hf(f"artifacts/{model}")
            tokenizer = Tokenizer.load(f"artifacts/{model}")
            batches, named = calibration_rows(TRAIN, tokenizer, section.calibration, params["seed"])
            for recipe in chosen:
                with within(f"{model}-{recipe}"):
                    tensors = quantize_model(config, flat, section.recipes[recipe], batches)
                scales = kv_scales(to_model(config, dequantize(tensors)), batches)
                folder = made / f"{model}-{recipe}"
                save_tensors(folder / "model.safetensors", tensors)
                save_scales(folder / SCALES_FILE, scales)
                write_json(folder / "config.json", config.to_hf())
                write_json(
                    folder / "quantize.json", section.recipes[recipe].told(named) | {"errors": errors(flat, tensors)}
                )
                print(f"quantize: {folder.name}, {sum(t.nbytes for t in tensors.values()) / 1e6:.1f} MB")


if __name__ == "__main__":
    run(main)
