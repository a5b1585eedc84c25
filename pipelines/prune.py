"""Stage `prune`: the teacher with a smaller vocabulary, cut down and refitted -> the initial student.

`python pipelines/prune.py tiny`: the student of that name in the section; without a name, `student`.
"""

import sys
from typing import Any

import numpy as np

from tradewind.compression.calibration import CalibrationConfig
from tradewind.compression.distill import DistillConfig, recovery
from tradewind.compression.on_policy import Scorer
from tradewind.compression.prune import PruneConfig, Recover, prune
from tradewind.compression.prune_magnitude import sparsity
from tradewind.compression.prune_vocabulary import slice_vocabulary, trim_vocabulary
from tradewind.config import build, run, student_params
from tradewind.files import read_jsonl, write_json
from tradewind.model.base import save_checkpoint
from tradewind.model.decoder import DecoderConfig
from tradewind.model.tokenizer import Tokenizer
from tradewind.model.weights import Flat, load_hf, to_model, weights_digest
from tradewind.training.data import draw, pack

TEACHER, TRAIN = "artifacts/teacher", "artifacts/corpus/train.jsonl"
RECOVERY = ("k", "length", "teacher_tokens")
"""Of the section `recovery`, what describes its teacher cache; the rest is a `DistillConfig`."""


def main() -> None:
    name, params = student_params("prune", sys.argv[1:])
    seed, again = params["seed"], params.get("recovery")
    calibration = build(CalibrationConfig, params["calibration"], f"prune.{name}.calibration")
    outside = ("profile", "seed", "calibration", "recovery")
    choice = build(PruneConfig, {key: value for key, value in params.items() if key not in outside}, f"prune.{name}")
    tokenizer = Tokenizer.load(TEACHER)
    conversations = [row["messages"] for row in read_jsonl(TRAIN)]
    whole_config, whole = load_hf(TEACHER)
    texts = (tokenizer.chat_with_mask(messages)[0] for messages in conversations)
    trimmed, teacher_ids = trim_vocabulary(tokenizer, texts, choice.vocabulary)
    config, flat = slice_vocabulary(whole_config, whole, teacher_ids, trimmed)
    packed = calibration.drawn(conversations, trimmed, seed)
    batches = [packed.take([row]) for row in range(len(packed))]
    recover = _recovery(config, flat, conversations, trimmed, again, seed) if again else None
    pruned = prune(config, flat, batches, choice, recover)
    folder = f"artifacts/{name}_init"
    save_checkpoint(folder, pruned.config, pruned.flat, trimmed)
    facts = {"teacher_ids": list(map(int, teacher_ids)), "teacher_digest": weights_digest(whole)}
    write_json(f"{folder}/vocabulary.json", facts)
    print(
        f"prune: {name}: layers {list(pruned.layers)}, {pruned.config.vocab_size} tokens, "
        f"{pruned.config.num_parameters:,} parameters, {sparsity(pruned.flat):.0%} of the matrices zero"
    )


def _recovery(
    config: DecoderConfig, flat: Flat, conversations: list[Any], tokenizer: Tokenizer, given: dict[str, Any], seed: int
) -> Recover:
    """The teacher with the student's vocabulary answers for rows of its own."""
    length, choice = given["length"], {key: value for key, value in given.items() if key not in RECOVERY}
    packed = pack(draw(conversations, tokenizer, given["teacher_tokens"], length, seed), length)
    scorer = Scorer(to_model(config, flat), np.arange(config.vocab_size), given["k"], rows=4)
    return recovery(scorer, packed, build(DistillConfig, choice | {"tokens": 1}, "prune.recovery"), seed)


if __name__ == "__main__":
    run(main)
