"""Stage `quantize`: teacher and student rounded to the integer codes that every container holds."""

from pathlib import Path

from tradewind.compression.quantize import errors, quantize, save_tensors
from tradewind.compression.rules import read_rules, rules_as_rows
from tradewind.config import run, stage_params
from tradewind.files import atomic_path, write_json
from tradewind.model.weights import load_hf

QUANTIZED = Path("artifacts/quantized")


def main() -> None:
    params = stage_params("quantize")
    with atomic_path(QUANTIZED) as made:
        for model in params["models"]:
            config, flat = load_hf(f"artifacts/{model}")
            for precision, rows in params["rules"].items():
                rules = read_rules(rows)
                tensors = quantize(flat, rules)
                folder = made / f"{model}-{precision}"
                save_tensors(folder / "model.safetensors", tensors)
                write_json(folder / "config.json", config.to_hf())
                error = errors(flat, tensors)
                write_json(folder / "quantize.json", {"rules": rules_as_rows(rules), "errors": error})
                worst = max(error.items(), key=lambda item: item[1]["relative_rms"])
                print(
                    f"quantize: {folder.name}, largest relative RMS error {worst[1]['relative_rms']:.4f} ({worst[0]})"
                )


if __name__ == "__main__":
    run(main)
