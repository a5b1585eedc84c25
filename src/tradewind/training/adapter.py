"""Train a LoRA adapter: `python -m tradewind.training.adapter --model artifacts/student --data chats.jsonl --out FOLDER`.

Each line of the data has `messages`, as a call of the chat API has them; the loss is that of the assistant's. FOLDER can
then be served by its own name, beside others, over any variant of that model:
`python -m tradewind.serving --model student-int8 --adapter NAME=FOLDER`.
"""

import argparse
import json
import math
from pathlib import Path
from typing import Any

from tradewind.config import run
from tradewind.errors import UserError
from tradewind.files import read_jsonl
from tradewind.model.lora import MODULES, LoRAConfig
from tradewind.model.tokenizer import Tokenizer
from tradewind.model.weights import load_hf
from tradewind.training.finetune import Conversation, FinetuneConfig, finetune
from tradewind.training.loop import OptimizerConfig


def main(argv: list[str] | None = None) -> None:
    given = arguments(argv)
    if given.out.exists():
        raise UserError(f"{given.out}: is there already")
    if not 0 < given.learning_rate < math.inf:
        raise UserError(f"--learning-rate must be a number above 0, not {given.learning_rate}")
    choice = FinetuneConfig(
        "lora",
        given.length,
        given.tokens,
        given.rows,
        OptimizerConfig(given.learning_rate),
        LoRAConfig(given.rank, given.alpha or 2 * given.rank, tuple(given.modules), given.layers),
        epochs=given.epochs,
    )
    config, flat = load_hf(given.model)
    tuned = finetune(
        config, flat, Tokenizer.load(given.model), conversations(given.data), (), choice, given.seed, adapter=given.out
    )
    first, last = tuned.result.log[0], tuned.result.log[-1]
    facts = {"steps": len(tuned.result.log), "loss_first": first["loss"], "loss_last": last["loss"], **tuned.facts}
    print(f"{given.out}: {json.dumps(facts)}")


def arguments(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tradewind.training.adapter", description=(__doc__ or "").split(":")[0]
    )
    parser.add_argument("--model", type=Path, required=True, help="a checkpoint folder, such as artifacts/student")
    parser.add_argument("--data", type=Path, required=True, help="JSON lines with `messages`")
    parser.add_argument("--out", type=Path, required=True, help="the folder to make")
    parser.add_argument(
        "--tokens",
        type=int,
        default=20_000,
        help="to train on, all in all: data with fewer come again (default: %(default)s)",
    )
    parser.add_argument(
        "--epochs",
        type=float,
        default=1.0,
        help="within these, of the same samples; fewer data than that come again anyway (default: %(default)s)",
    )
    parser.add_argument("--length", type=int, default=256, help="tokens of a row (default: %(default)s)")
    parser.add_argument("--rows", type=int, default=2, help="a step (default: %(default)s)")
    parser.add_argument("--rank", type=int, default=8, help="(default: %(default)s)")
    parser.add_argument("--alpha", type=float, help="(default: twice the rank)")
    parser.add_argument("--modules", nargs="+", default=MODULES, choices=MODULES, help="(default: all)")
    parser.add_argument("--layers", type=int, default=0, help="of the top ones, 0: all (default: %(default)s)")
    parser.add_argument("--learning-rate", type=float, default=1e-3, help="(default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="(default: %(default)s)")
    return parser.parse_args(argv)


def conversations(path: Path) -> list[Conversation]:
    """Raises UserError naming the line."""
    rows: list[dict[str, Any]] = read_jsonl(path)
    for number, row in enumerate(rows, 1):
        messages = row.get("messages") if isinstance(row, dict) else None
        if not isinstance(messages, list) or not messages or not all(_is_message(one) for one in messages):
            raise UserError(f"{path}: line {number} has no `messages` of role and content")
    if not rows:
        raise UserError(f"{path}: no conversation in it")
    if not any(one["role"] == "assistant" and one["content"].strip() for row in rows for one in row["messages"]):
        raise UserError(f"{path}: no answer to learn: no message of the role assistant")
    return [row["messages"] for row in rows]


def _is_message(one: object) -> bool:
    return isinstance(one, dict) and isinstance(one.get("role"), str) and isinstance(one.get("content"), str)


if __name__ == "__main__":
    run(main)
