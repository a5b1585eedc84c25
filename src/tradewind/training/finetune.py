"""Fine-tuning of a checkpoint on conversations: LoRA or all parameters, loss on answers, and the loss on held-out ones.

It returns the tuned weights and the log, and writes an adapter where one is asked for.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from tradewind.errors import UserError
from tradewind.model.adapters import save_adapter
from tradewind.model.decoder import Decoder, DecoderConfig
from tradewind.model.linear import check_precision
from tradewind.model.lora import LoRAConfig, adapt, merge
from tradewind.model.weights import Flat, to_flat, to_model, weights_digest
from tradewind.training.checkpoint import Checkpoints
from tradewind.training.data import Batch, ChatTokenizer, Packed, draw, pack
from tradewind.training.loop import OptimizerConfig, PackedExamples, TrainConfig, TrainResult, train
from tradewind.training.losses import CrossEntropy, Targets
from tradewind.training.mesh import MeshConfig
from tradewind.training.taps import run_model

METHODS: dict[str, type[nnx.Variable[Any]]] = {"lora": nnx.LoRAParam, "full": nnx.Param}
DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}
Conversation = Sequence[dict[str, str]]


@dataclass(frozen=True)
class FinetuneConfig:
    """Section `finetune` of the parameters.

    Args:
        length: tokens of a row. tokens: budget of trained tokens. epochs: how often the same samples are seen in it.
        rows, accumulate, remat, checkpoint_every, optimizer, mesh, matmul_precision: see `TrainConfig`.
        dtype: what is computed in; weights stay float32. validation_rows: held-out rows to take the loss of (0: none).
    """

    method: str
    length: int
    tokens: int
    rows: int
    optimizer: OptimizerConfig
    lora: LoRAConfig
    epochs: float = 1.0
    accumulate: int = 1
    remat: bool = False
    dtype: str = "float32"
    checkpoint_every: int = 0
    matmul_precision: str = "default"
    validation_rows: int = 0
    mesh: MeshConfig = field(default_factory=MeshConfig)

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise UserError(f"finetune.method: unknown method {self.method!r} (choices: {', '.join(METHODS)})")
        check_dtype("finetune", self.dtype)
        check_precision("finetune", self.matmul_precision)

    def train(self, seed: int) -> TrainConfig:
        shared = (self.accumulate, self.remat, self.checkpoint_every)
        return TrainConfig(self.tokens, self.rows, self.optimizer, *shared, seed, self.mesh, self.matmul_precision)


class Finetuned(NamedTuple):
    """The tuned weights, how training went, and facts about the data and the held-out loss."""

    flat: Flat
    result: TrainResult
    facts: dict[str, Any]


def finetune(
    config: DecoderConfig,
    flat: Flat,
    tokenizer: ChatTokenizer,
    conversations: Sequence[Conversation],
    held_out: Sequence[Conversation],
    choice: FinetuneConfig,
    seed: int,
    checkpoints: Checkpoints | None = None,
    adapter: Path | None = None,
) -> Finetuned:
    """Tune a checkpoint. `facts`: rows, samples, tokens, dropped samples, mean loss per held-out answer token.

    adapter: a folder for LoRA's own weights, which can then be served beside others (`tradewind.model.adapters`).
    """
    budget = round(choice.tokens / choice.epochs)
    packed = pack(draw(conversations, tokenizer, budget, choice.length, seed), choice.length)
    model = to_model(config, flat, dtype=DTYPES[choice.dtype])
    if choice.method == "lora":
        adapt(model, choice.lora, nnx.Rngs(seed))
    run = choice.train(seed)
    result = train(
        model,
        PackedExamples(packed),
        CrossEntropy(),
        run,
        trainable=METHODS[choice.method],
        checkpoints=checkpoints,
        title="finetune",
    )
    if choice.method == "lora":
        if adapter is not None:
            save_adapter(model, adapter, weights_digest(flat))
        merge(model)
    return Finetuned(to_flat(model), result, _facts(packed) | _held_out(model, tokenizer, held_out, choice, seed))


def check_dtype(section: str, dtype: str) -> None:
    if dtype not in DTYPES:
        raise UserError(f"{section}.dtype: unknown type {dtype!r} (choices: {', '.join(DTYPES)})")


def mean_loss(model: Decoder, packed: Packed, rows: int) -> float:
    """Mean negative log-likelihood (nats) per target token over all rows, `rows` at a time."""
    graph, state = nnx.split(model)

    @jax.jit
    def summed(state: nnx.State, batch: Batch) -> jax.Array:
        outputs = run_model(nnx.merge(graph, state), batch)
        return CrossEntropy()(outputs, Targets(batch.targets, batch.weights))[0] * batch.weights.sum()

    total = 0.0
    for start in range(0, len(packed), rows):
        index = np.arange(start, start + rows)
        batch = packed.take(index % len(packed))
        unseen = (index < len(packed)).astype(np.float32)[:, None]  # the last batch is filled up with rows of no weight
        total += float(summed(state, batch._replace(weights=batch.weights * unseen)))
    return total / packed.targets


def _facts(packed: Packed) -> dict[str, Any]:
    length = packed.rows.tokens.shape[1]
    fill = packed.tokens / (len(packed) * length)
    return {
        "rows": len(packed),
        "samples": packed.samples,
        "samples_dropped": packed.dropped,
        "unique_tokens": packed.tokens,
        "unique_answer_tokens": packed.targets,
        "row_fill": round(fill, 4),
    }


def _held_out(
    model: Decoder, tokenizer: ChatTokenizer, held_out: Sequence[Conversation], choice: FinetuneConfig, seed: int
) -> dict[str, Any]:
    if not choice.validation_rows:
        return {}
    packed = pack(draw(held_out, tokenizer, choice.validation_rows * choice.length, choice.length, seed), choice.length)
    packed = packed.head(choice.validation_rows)
    return {
        "validation_loss": round(mean_loss(model, packed, choice.rows), 6),
        "validation_answer_tokens": packed.targets,
    }
