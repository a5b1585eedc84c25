"""The training step of this host: tokens a second, and the share of its arithmetic that they are (model-FLOP utilisation).

The step is that of `tradewind.training.loop`, with all weights trained by cross-entropy on tokens of no meaning; a chain of
large products in the same precision takes turns with it, and the fastest of them is the peak that it is held against.
Model FLOPs are counted as in PaLM (arXiv:2204.02311, appendix B), but for causal attention's half that is not run: 6 a
parameter and token, and 6 x layers x heads x head dim x length; recomputation does not count. Not covered: several devices.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from statistics import median
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from tradewind.evaluation.bootstrap import median_interval
from tradewind.hardware.device import known_chip, load_device
from tradewind.model.config import DecoderConfig
from tradewind.model.decoder import Decoder
from tradewind.model.linear import precision, rounded, times
from tradewind.training.data import Batch
from tradewind.training.loop import OptimizerConfig, build_step, optimizer
from tradewind.training.losses import CrossEntropy, Targets

CHAIN = 8
SQUARE = {"cpu": 1024}
"""Rows and columns of a product that keeps all units of a platform busy; elsewhere LARGE."""
LARGE = 4096


@dataclass(frozen=True)
class TrainingPlan:
    """rows of `length` tokens a step; `steps` counted ones, each beside a chain of products; products in `precision`."""

    rows: int = 1
    length: int = 512
    steps: int = 8
    precision: str = "bfloat16"


def measure(shape: Mapping[str, Any], work: TrainingPlan, seed: int) -> dict[str, Any]:
    """One model's step. To be called in a fresh process. shape: of a variant's manifest."""
    config, platform = DecoderConfig(**shape), jax.default_backend()
    with precision(work.precision if platform == "cpu" else "default"):
        step, chains = _step(config, work, seed), _chains(config, work, platform)
        seen: dict[Any, list[float]] = {"step": [], **{key: [] for key in chains}}
        for number in range(work.steps + 1):
            for key, call in (("step", step), *chains.items()):
                started = time.perf_counter()
                jax.block_until_ready(call())
                if number:  # the first compiles
                    seen[key].append(time.perf_counter() - started)
    tokens, seconds = work.rows * work.length, median(seen["step"])
    done, peak = model_flops(config, work.length) * tokens, max(
        2 * CHAIN * n * k * m / median(seen[n, k, m]) for n, k, m in chains
    )  # fmt: skip
    chip = known_chip(str(jax.devices()[0].device_kind))
    claimed = load_device(chip).peak_tflops.get("bfloat16") if chip else None
    return {
        **asdict(work), "tokens_per_s": tokens / seconds, "n": work.steps,
        "interval": [tokens / bound for bound in reversed(median_interval(seen["step"], seed))],
        "model_flops_per_s": done / seconds, "peak_flops_per_s": peak, "utilization": done / seconds / peak,
        "claimed_utilization": done / seconds / (1e12 * claimed) if claimed else None,
    }  # fmt: skip


def model_flops(config: DecoderConfig, length: int) -> float:
    """Of training, a token of a row of `length`."""
    return 6 * config.num_parameters + 6 * config.num_layers * config.num_heads * config.head_dim * length


def _step(config: DecoderConfig, work: TrainingPlan, seed: int) -> Callable[[], Any]:
    """Each call trains the same weights on. On a CPU `precision` rounds products, elsewhere activations are bfloat16."""
    dtype = jnp.float32 if jax.default_backend() == "cpu" or work.precision == "float32" else jnp.bfloat16
    graph, weights, frozen = nnx.split(Decoder(config, rngs=nnx.Rngs(seed), dtype=dtype), nnx.Param, ...)  # type: ignore[misc]
    transform = optimizer(OptimizerConfig(1e-4), 100)
    moments, step = transform.init(weights), build_step(graph, transform, CrossEntropy(), remat=False)
    shape = (1, work.rows, work.length)
    tokens = np.random.default_rng(seed).integers(0, config.vocab_size, shape, np.int32)
    places = np.broadcast_to(np.arange(work.length, dtype=np.int32), shape)
    ones, weighted = np.ones(shape, np.int32), np.ones(shape, np.float32)
    feed = jax.device_put((Batch(tokens, places, ones, places, tokens, weighted), Targets(tokens, weighted)))

    def run() -> Any:
        nonlocal weights, moments
        weights, moments, metrics = step(weights, moments, frozen, feed, None, None)
        return metrics

    return run


def _chains(config: DecoderConfig, work: TrainingPlan, platform: str) -> dict[tuple[int, int, int], Callable[[], Any]]:
    """CHAIN products [n, k] x [k, m] each, of the model's own sizes and of large squares."""
    size = SQUARE.get(platform, LARGE)
    shapes = [(work.rows * work.length, config.hidden_size, config.mlp_size), (size, size, size)]
    narrow = jnp.float32 if work.precision == "float32" else jnp.bfloat16

    @jax.jit
    def run(a: jax.Array, parts: list[jax.Array]) -> list[jax.Array]:
        return [times(rounded(a).astype(narrow), part.astype(narrow), jnp.float32) for part in parts]

    return {(n, k, m): partial(run, jnp.full((n, k), 0.01), [jnp.full((k, m), 0.01 * i, narrow) for i in range(CHAIN)])
            for n, k, m in shapes}  # fmt: skip
