"""Stage `teacher_cache`: what the teacher says at every answer position, on the student's tokenization.

`python pipelines/teacher_cache.py FOLDER TOKENS`: another one, of so many tokens, else as the section says.
"""

import sys

import numpy as np

from tradewind.compression.teacher_cache import ask_teacher, data_digest, save_cache
from tradewind.config import run, stage_params
from tradewind.files import read_json, read_jsonl
from tradewind.model.linear import check_precision, precision
from tradewind.model.tokenizer import Tokenizer
from tradewind.model.weights import load_hf, to_model, weights_digest
from tradewind.training.data import draw, pack
from tradewind.training.finetune import DTYPES
from tradewind.training.taps import Taps

TEACHER, STUDENT = "artifacts/teacher", "artifacts/student_init"
TRAIN, CACHE = "artifacts/corpus/train.jsonl", "artifacts/teacher_cache"


def main() -> None:
    params = stage_params("teacher_cache")
    folder, tokens = sys.argv[1:] or (CACHE, params["tokens"])
    tokenizer = Tokenizer.load(STUDENT)
    teacher_ids = np.asarray(read_json(f"{STUDENT}/vocabulary.json")["teacher_ids"], np.int32)
    conversations = [row["messages"] for row in read_jsonl(TRAIN)]
    packed = pack(draw(conversations, tokenizer, int(tokens), params["length"], params["seed"]), params["length"])
    config, flat = load_hf(TEACHER)
    teacher = to_model(config, flat, dtype=DTYPES[params["dtype"]])
    taps = Taps(tuple(params.get("streams", ())), params.get("relation_heads", 0))
    check_precision("teacher_cache", params["matmul_precision"])
    with precision(params["matmul_precision"]):
        cache = ask_teacher(teacher, teacher_ids, packed, params["k"], params["rows"], taps)
    digests = {"teacher": weights_digest(flat), "tokenizer": tokenizer.digest, "data": data_digest(packed)}
    save_cache(folder, cache, digests | {"matmul_precision": params["matmul_precision"]})
    print(f"teacher_cache: {packed.tokens} tokens, {packed.targets} answer positions, top {params['k']}")


if __name__ == "__main__":
    run(main)
