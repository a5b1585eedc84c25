"""Stage `quantize`: teacher and student rounded to the integer codes that every container holds, and the scales of an
int8 key-value cache from training conversations."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax.numpy as jnp

from tradewind.compression.kv_cache import SCALES_FILE, Scales, kv_scales, save_scales
from tradewind.compression.quantize import errors, quantize, save_tensors
from tradewind.compression.rules import read_rules, rules_as_rows
from tradewind.config import run, stage_params
from tradewind.files import atomic_path, read_jsonl, write_json
from tradewind.model.decoder import DecoderConfig
from tradewind.model.tokenizer import Tokenizer
from tradewind.model.weights import Flat, load_hf, to_model
from tradewind.training.data import draw, pack

QUANTIZED, TRAIN = Path("artifacts/quantized"), "artifacts/corpus/train.jsonl"


def main() -> None:
    params = stage_params("quantize")
    with atomic_path(QUANTIZED) as made:
        for model in params["models"]:
            config, flat = load_hf(f"artifacts/{model}")
            scales = calibrate(model, config, flat, params["kv_cache"], params["seed"])
            for precision, rows in params["rules"].items():
                rules = read_rules(rows)
                tensors = quantize(flat, rules)
                folder = made / f"{model}-{precision}"
                save_tensors(folder / "model.safetensors", tensors)
                save_scales(folder / SCALES_FILE, scales)
                write_json(folder / "config.json", config.to_hf())
                error = errors(flat, tensors)
                about = {"rules": rules_as_rows(rules), "kv_cache": params["kv_cache"], "errors": error}
                write_json(folder / "quantize.json", about)
                worst = max(error.items(), key=lambda item: item[1]["relative_rms"])
                print(
                    f"quantize: {folder.name}, largest relative RMS error {worst[1]['relative_rms']:.4f} ({worst[0]})"
                )


def calibrate(model: str, config: DecoderConfig, flat: Flat, settings: Mapping[str, Any], seed: int) -> Scales:
    """From the unquantized model over `tokens` tokens of training conversations in rows of `length`."""
    conversations = [row["messages"] for row in read_jsonl(TRAIN)]
    samples = draw(conversations, Tokenizer.load(f"artifacts/{model}"), settings["tokens"], settings["length"], seed)
    packed = pack(samples, settings["length"])
    decoder = to_model(config, flat, jnp.float32, jnp.float32)
    return kv_scales(decoder, (packed.take([row]) for row in range(len(packed))))


if __name__ == "__main__":
    run(main)
