"""Stage `prune`: the teacher with a smaller vocabulary, fewer layers and refitted MLPs -> the initial student."""

from tradewind.compression.prune import PruneConfig, prune, slice_vocabulary, trim_vocabulary
from tradewind.config import build, run, stage_params
from tradewind.files import read_jsonl, write_json
from tradewind.model.base import save_checkpoint
from tradewind.model.tokenizer import Tokenizer
from tradewind.model.weights import load_hf, weights_digest
from tradewind.training.data import draw, pack

TEACHER, STUDENT, TRAIN = "artifacts/teacher", "artifacts/student_init", "artifacts/corpus/train.jsonl"


def main() -> None:
    params = stage_params("prune")
    seed = params["seed"]
    choice = build(
        PruneConfig, {key: value for key, value in params.items() if key not in ("profile", "seed", "calibration")}
    )
    calibration = params["calibration"]
    tokenizer = Tokenizer.load(TEACHER)
    conversations = [row["messages"] for row in read_jsonl(TRAIN)]
    samples = draw(conversations, tokenizer, calibration["tokens"], calibration["length"], seed)
    packed = pack(samples, calibration["length"])
    batches = [packed.take([row]) for row in range(len(packed))]
    teacher_config, teacher_flat = load_hf(TEACHER)
    teacher = weights_digest(teacher_flat)
    pruned = prune(teacher_config, teacher_flat, batches, choice)
    texts = (tokenizer.chat_with_mask(messages)[0] for messages in conversations)
    trimmed, teacher_ids = trim_vocabulary(tokenizer, texts, choice.vocabulary)
    config, flat = slice_vocabulary(pruned, teacher_ids, trimmed)
    save_checkpoint(STUDENT, config, flat, trimmed)
    write_json(f"{STUDENT}/vocabulary.json", {"teacher_ids": list(map(int, teacher_ids)), "teacher_digest": teacher})
    print(f"prune: layers {list(pruned.layers)}, {config.vocab_size} tokens, {config.num_parameters:,} parameters")


if __name__ == "__main__":
    run(main)
