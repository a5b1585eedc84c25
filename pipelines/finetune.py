"""Stage `finetune`: the base tuned on the training conversations -> the teacher."""

from tradewind.config import build, run, stage_params
from tradewind.files import read_jsonl, write_json
from tradewind.model.base import save_checkpoint
from tradewind.model.tokenizer import Tokenizer
from tradewind.model.weights import load_hf
from tradewind.tracking import Measurement, record_run
from tradewind.training.checkpoint import Checkpoints, run_folder
from tradewind.training.finetune import FinetuneConfig, finetune

BASE, TEACHER, CORPUS = "artifacts/base", "artifacts/teacher", "artifacts/corpus"
INPUTS = [f"{BASE}/model.safetensors", f"{BASE}/tokenizer.json", f"{CORPUS}/train.jsonl"]


def main() -> None:
    params = stage_params("finetune")
    context = {key: params.pop(key) for key in ("profile", "seed")}
    choice, seed = build(FinetuneConfig, params, "finetune"), context["seed"]
    tokenizer = Tokenizer.load(BASE)
    train, held_out = (
        [row["messages"] for row in read_jsonl(f"{CORPUS}/{name}.jsonl")] for name in ("train", "validation")
    )
    checkpoints = Checkpoints(run_folder("finetune", params | context, [*INPUTS]))
    with record_run(stage="finetune", question="compression", variant="teacher", params=params | context,
                    path="reports/runs/finetune.json") as record:  # fmt: skip
        tuned = finetune(*load_hf(BASE), tokenizer, train, held_out, choice, seed, checkpoints)
        formula = "tokens of the rows, prompts and answers alike, padding left out, over seconds after the first step"
        record.log(
            Measurement(
                "trained_tokens_per_s",
                tuned.result.tokens_per_s,
                "tokens/s",
                tuned.result.timed_tokens,
                formula=formula,
            )
        )
        if (loss := tuned.facts.get("validation_loss")) is not None:
            record.log(Measurement("validation_loss", loss, "nats", tuned.facts["validation_answer_tokens"],
                                   formula="mean negative log-likelihood per held-out answer token"))  # fmt: skip
    config, _ = load_hf(BASE)
    save_checkpoint(TEACHER, config, tuned.flat, tokenizer)
    write_json(f"{TEACHER}/training.json", {"facts": tuned.facts, "log": tuned.result.log})
    checkpoints.clear()
    print(f"finetune: {tuned.result.tokens_per_s:.0f} tokens/s, {tuned.facts}")


if __name__ == "__main__":
    run(main)
