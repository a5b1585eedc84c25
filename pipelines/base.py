"""Stage `base`: the pretrained checkpoint as a Hugging Face folder, or a random one for the profile `nano`."""

from pathlib import Path

from tradewind import data
from tradewind.config import build, run, stage_params
from tradewind.errors import UserError
from tradewind.files import read_jsonl
from tradewind.model.base import RandomShape, import_checkpoint, random_checkpoint

BASE, RECORDS = "artifacts/base", "artifacts/corpus/records.jsonl"


def main() -> None:
    params = stage_params("base")
    if params["random"]:
        texts = [record["description"] for record in read_jsonl(RECORDS)]
        config = random_checkpoint(build(RandomShape, params["random"], "base.random"), texts, params["seed"], BASE)
    elif params["source"]:
        if Path(params["source"]).is_relative_to("data"):
            data.verify()
        config = import_checkpoint(params["source"], BASE)
    else:
        raise UserError("base: set `source` (a GGUF file or a Hugging Face folder) or `random` (a shape)")
    print(f"base: {config.num_parameters:,} parameters")


if __name__ == "__main__":
    run(main)
