"""Stage `distill`: the initial student trained to say what the cached teacher said -> the student."""

import shutil

from tradewind.compression.distill import DistillConfig, distill
from tradewind.compression.teacher_cache import load_cache
from tradewind.config import build, run, stage_params
from tradewind.files import read_json, write_json
from tradewind.model.base import save_checkpoint
from tradewind.model.tokenizer import Tokenizer
from tradewind.model.weights import load_hf
from tradewind.tracking import Measurement, record_run
from tradewind.training.checkpoint import Checkpoints, run_folder

INITIAL, CACHE, STUDENT = "artifacts/student_init", "artifacts/teacher_cache", "artifacts/student"


def main() -> None:
    params = stage_params("distill")
    context = {key: params.pop(key) for key in ("profile", "seed")}
    choice = build(DistillConfig, params, "distill")
    tokenizer = Tokenizer.load(INITIAL)
    config, flat = load_hf(INITIAL)
    teacher = read_json(f"{INITIAL}/vocabulary.json")["teacher_digest"]
    cache = load_cache(CACHE, {"tokenizer": tokenizer.digest, "teacher": teacher})
    checkpoints = Checkpoints(
        run_folder("distill", params | context, [f"{INITIAL}/model.safetensors", f"{CACHE}/header.json"])
    )
    with record_run(stage="distill", question="compression", variant="student", params=params | context,
                    path="reports/runs/distill.json") as record:  # fmt: skip
        trained, result = distill(config, flat, cache, choice, context["seed"], checkpoints)
        formula = "tokens of the rows, prompts and answers alike, padding left out, over seconds after the first step"
        record.log(
            Measurement("trained_tokens_per_s", result.tokens_per_s, "tokens/s", result.timed_tokens, formula=formula)
        )
    save_checkpoint(STUDENT, config, trained, tokenizer)
    shutil.copyfile(f"{INITIAL}/vocabulary.json", f"{STUDENT}/vocabulary.json")
    write_json(f"{STUDENT}/training.json", {"log": result.log})
    checkpoints.clear()
    print(f"distill: {config.num_parameters:,} parameters, {result.tokens_per_s:.0f} tokens/s, last {result.log[-1]}")


if __name__ == "__main__":
    run(main)
