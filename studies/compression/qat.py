"""A model trained while it computes with its rounded weights, on all tokens of training conversations.

    python -m studies.compression.qat student int4

Its own float weights are the teacher (a variant is judged by its distance from them), its top tokens cached once. The rules
are those of the recipe. Results: artifacts/studies/compression/qat/MODEL-RECIPE, as a checkpoint.
"""

import sys

from studies.compression.places import MADE, model_folder, plan
from tradewind.compression.distill import DistillConfig, distill
from tradewind.compression.qat import rounding, self_cache
from tradewind.compression.recipe import read_recipes
from tradewind.config import build, run, stage_params
from tradewind.files import read_jsonl, write_json
from tradewind.model.base import save_checkpoint
from tradewind.model.tokenizer import Tokenizer
from tradewind.model.weights import load_hf

TRAIN = "artifacts/corpus/train.jsonl"


def main() -> None:
    model, recipe = sys.argv[1:]
    seed, choice = stage_params("quantize")["seed"], dict(plan()["qat"])
    rows = {key: choice.pop(key) for key in ("length", "k")}
    rules = read_recipes(stage_params("quantize")["recipes"])[recipe].rules
    folder = model_folder(model)
    config, flat = load_hf(folder)
    tokenizer = Tokenizer.load(folder)
    conversations = [row["messages"] for row in read_jsonl(TRAIN)]
    cache = self_cache(config, flat, tokenizer, conversations, choice["tokens"], **rows, seed=seed)
    seen = rounding(config, rules)
    trained, result = distill(config, flat, cache, build(DistillConfig, choice, "qat"), seed, seen=seen)
    made = MADE / "qat" / f"{model}-{recipe}"
    save_checkpoint(made, config, trained, tokenizer)
    write_json(made / "training.json", {"log": result.log})
    first, last = (result.log[place]["loss"] for place in (0, -1))
    print(f"qat: {made.name}, {result.tokens_per_s:.0f} tokens/s, loss {first:.4f} -> {last:.4f}")


if __name__ == "__main__":
    run(main)
