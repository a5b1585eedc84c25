"""Stage `distill`: the initial student trained to say what the teacher says -> the student.

`python pipelines/distill.py tiny [CACHE]`: the student of that name in the section; without a name, `student`. Students
with the same tokenizer can share a teacher cache: CACHE, else that of the main job.
"""

import shutil
import sys

import numpy as np

from tradewind.compression.distill import DistillConfig, distill
from tradewind.compression.on_policy import Scorer
from tradewind.compression.teacher_cache import load_cache
from tradewind.config import build, run, student_params
from tradewind.files import read_json, write_json
from tradewind.model.base import save_checkpoint
from tradewind.model.tokenizer import Tokenizer
from tradewind.model.weights import load_hf, to_model
from tradewind.tracking import Measurement, record_run
from tradewind.training.checkpoint import Checkpoints, run_folder

TEACHER = "artifacts/teacher"


def main() -> None:
    name, params = student_params("distill", sys.argv[1:])
    folder = sys.argv[2] if len(sys.argv) > 2 else "artifacts/teacher_cache"
    context = {key: params.pop(key) for key in ("profile", "seed")}
    initial, student = f"artifacts/{name}_init", f"artifacts/{name}"
    choice = build(DistillConfig, params, f"distill.{name}")
    tokenizer = Tokenizer.load(initial)
    config, flat = load_hf(initial)
    vocabulary = read_json(f"{initial}/vocabulary.json")
    cache = load_cache(folder, {"tokenizer": tokenizer.digest, "teacher": vocabulary["teacher_digest"]})
    checkpoints = Checkpoints(
        run_folder("distill", params | context, [f"{initial}/model.safetensors", f"{folder}/header.json"])
    )
    scorer = None
    if choice.on_policy.share:
        scorer = Scorer(to_model(*load_hf(TEACHER)), np.asarray(vocabulary["teacher_ids"]), cache.top_ids.shape[-1], 4)
    report = "reports/runs/distill.json" if name == "student" else f"reports/runs/distill-{name}.json"
    with record_run(stage="distill", question="compression", variant=name, params=params | context,
                    path=report) as record:  # fmt: skip
        trained, result = distill(config, flat, cache, choice, context["seed"], checkpoints, scorer)
        formula = "tokens of the rows, prompts and answers alike, padding left out, over seconds after the first step"
        record.log(
            Measurement("trained_tokens_per_s", result.tokens_per_s, "tokens/s", result.timed_tokens, formula=formula)
        )
    save_checkpoint(student, config, trained, tokenizer)
    shutil.copyfile(f"{initial}/vocabulary.json", f"{student}/vocabulary.json")
    write_json(f"{student}/training.json", {"log": result.log})
    checkpoints.clear()
    print(f"distill: {config.num_parameters:,} parameters, {result.tokens_per_s:.0f} tokens/s, last {result.log[-1]}")


if __name__ == "__main__":
    run(main)
