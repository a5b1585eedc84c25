"""Compiles one program for chips that are not here, in a process of its own: a JSON request on standard input, one answer
on standard output. `tradewind.hardware.compiled` starts it with the environment that the platform needs.

The programs are the real ones: the training step of `tradewind.training.loop`, the prefill chunk and the decode step of
`tradewind.engine.jax`, over a mesh of `tradewind.training.mesh`. Weights exist as shapes alone.
"""

import json
import re
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.experimental import topologies
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from tradewind.model.config import DecoderConfig
from tradewind.model.decoder import Decoder, init_cache
from tradewind.model.integers import GROUP, Codes, keep_integers
from tradewind.model.packed import PackedDecoder
from tradewind.model.weights import weight_table
from tradewind.training.data import Batch
from tradewind.training.loop import OptimizerConfig, build_step, optimizer
from tradewind.training.losses import CrossEntropy, Targets
from tradewind.training.mesh import MeshConfig, like_shardings, mesh_over, row_sharding, weight_shardings

COLLECTIVES = ("all-reduce", "all-gather", "reduce-scatter", "collective-permute", "all-to-all")


@dataclass(frozen=True)
class Request:
    """platform, topology, target: of JAX's `get_topology_desc`; target: a GPU's description as text. program: a key of
    PROGRAMS. rows: of all chips together. length: of a training row, of a prompt's chunk, or of the context that a decode
    step sees. bits: of weights; 16 for floats of `dtype`."""

    platform: str
    topology: str
    target: str | None
    mesh: dict[str, int]
    program: str
    model: dict[str, Any]
    rows: int
    length: int
    dtype: str = "bfloat16"
    remat: bool = False
    bits: int = 16


def main() -> None:
    request = Request(**json.load(sys.stdin))
    json.dump(answer(request), sys.stdout)


def answer(request: Request) -> dict[str, Any]:
    """What the compiler says: `fits` with memory (bytes a chip) and collectives, or not, with its words."""
    mesh = mesh_over(chips(request), MeshConfig(**request.mesh))
    lowered = PROGRAMS[request.program](request, mesh)
    started = time.perf_counter()
    try:
        compiled = lowered.compile()
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        return {"fits": False, "needs": " ".join(str(error).split())[:400]}
    return {
        "fits": True,
        "compile_s": time.perf_counter() - started,
        "device_kind": mesh.devices.flat[0].device_kind,
        "memory": memory(compiled),
        "collectives": collectives(compiled.as_text()),
        "cost": cost(compiled),
    }


def chips(request: Request) -> list[Any]:
    options = {"platform": request.platform, "topology_name": request.topology}
    if request.target is not None:
        options = {
            "platform": "cuda",
            "topology_name": "GPUs",
            "target_config": request.target,
            "topology": request.topology,
        }
    return list(topologies.get_topology_desc(**options).devices)


def memory(compiled: Any) -> dict[str, int]:
    """Bytes a chip: what goes in, comes out, is both (donated), is needed in between, and the program itself."""
    said = compiled.memory_analysis()
    parts = {
        name: getattr(said, f"{name}_size_in_bytes")
        for name in ("argument", "output", "alias", "temp", "generated_code")
    }
    return parts | {
        "peak": parts["argument"] + parts["output"] - parts["alias"] + parts["temp"] + parts["generated_code"]
    }


def collectives(hlo: str) -> dict[str, int]:
    """How often each is started in the compiled program (a loop's body counts once)."""
    pattern = rf"= \S.* ({'|'.join(COLLECTIVES)})(?:-start)?\("
    return dict(Counter(re.findall(pattern, hlo)))


def cost(compiled: Any) -> dict[str, float]:
    """The compiler's own count, where it is sane: operations count padding, and a time that is not positive is dropped."""
    said = compiled.cost_analysis() or {}
    found = {ours: said.get(theirs, 0.0) for ours, theirs in (("flops", "flops"), ("seconds", "optimal_seconds"))}
    return {name: value for name, value in found.items() if value and value > 0}


def train(request: Request, mesh: Mesh) -> Any:
    """One step of full training by cross-entropy: float32 weights and moments, products in `dtype`."""
    graph, weights, frozen = _split(request, request.dtype, jnp.float32)
    transform = optimizer(OptimizerConfig(1e-4), 100)
    lies = weight_shardings(weights, mesh)
    moments = jax.eval_shape(transform.init, weights)
    targets = max(1, request.length // 8)  # about what rows of the corpus hold
    row, place = (1, request.rows, request.length), (1, request.rows, targets)
    ints = partial(_shape, dtype=jnp.int32, sharding=row_sharding(mesh))
    weighted = _shape(place, jnp.float32, row_sharding(mesh))
    batch = Batch(ints(row), ints(row), ints(row), ints(place), ints(place), weighted)  # type: ignore[arg-type]
    feed = (batch, Targets(ints(place), weighted))  # type: ignore[arg-type]
    placed = jax.tree.map(_placed, moments, like_shardings(moments, lies, mesh))
    step: Any = build_step(graph, transform, CrossEntropy(), request.remat)
    return step.lower(jax.tree.map(_placed, weights, lies), placed, frozen, feed, None, None)


def prefill(request: Request, mesh: Mesh) -> Any:
    """A chunk of `length` tokens for each row, over an empty cache of as many, as the engine's; logits of the last token."""

    def run(weights: nnx.State, ids: jax.Array, positions: jax.Array, cache: Any) -> tuple[jax.Array, Any]:
        hidden, cache = nnx.merge(graph, weights, rest).advance(ids, positions, cache, request.length)
        return nnx.merge(graph, weights, rest).logits(hidden[:, -1]), cache

    graph, weights, rest = _split(request, request.dtype, request.dtype)
    return _lower(run, request, mesh, weights, request.length, request.length)


def decode(request: Request, mesh: Mesh) -> Any:
    """One token for each row, which sees `length` of the cache."""

    def run(weights: nnx.State, ids: jax.Array, positions: jax.Array, cache: Any) -> tuple[jax.Array, Any]:
        made: tuple[jax.Array, Any] = nnx.merge(graph, weights, rest).decode(ids, positions, cache, request.length)
        return made

    graph, weights, rest = _split(request, request.dtype, request.dtype)
    return _lower(run, request, mesh, weights, 1, request.length)


PROGRAMS: dict[str, Callable[[Request, Mesh], Any]] = {"train": train, "prefill": prefill, "decode": decode}


def _lower(run: Any, request: Request, mesh: Mesh, weights: nnx.State, tokens: int, context: int) -> Any:
    """Rows over data and fsdp, KV heads over tensor where it divides them, weights as in training."""
    config, whole = DecoderConfig(**request.model), NamedSharding(mesh, PartitionSpec())
    lies = weight_shardings(weights, mesh) if request.bits == 16 else jax.tree.map(lambda _: whole, weights)
    heads = "tensor" if config.num_kv_heads % mesh.shape["tensor"] == 0 else None
    cached = NamedSharding(mesh, PartitionSpec(("data", "fsdp"), None, heads))
    ids = _shape((request.rows, tokens), jnp.int32, NamedSharding(mesh, PartitionSpec(("data", "fsdp"))))
    empty = jax.eval_shape(partial(init_cache, config, request.rows, context, request.dtype))
    cache = jax.tree.map(lambda part: _shape(part.shape, part.dtype, cached), empty)
    return jax.jit(run, donate_argnums=3).lower(jax.tree.map(_placed, weights, lies), ids, ids, cache)


def _split(request: Request, dtype: Any, param_dtype: Any) -> tuple[Any, Any, Any]:
    config = DecoderConfig(**request.model)

    def make() -> Decoder:
        model = Decoder(config, rngs=nnx.Rngs(0), dtype=jnp.dtype(dtype), param_dtype=param_dtype)
        if request.bits == 16:
            return model
        packed = PackedDecoder(model)
        keep_integers(packed, blank_codes(config, request.bits), dtype)
        return packed

    return nnx.split(nnx.eval_shape(make), nnx.Param, ...)  # type: ignore[return-value]


def blank_codes(config: DecoderConfig, bits: int) -> dict[str, Codes]:
    """Zeros in the place of every matrix of the decoder."""
    shapes = {weight.hf: weight.shape(config) for weight in weight_table(config)}
    matrices = {name: shape for name, shape in shapes.items() if len(shape) == 2}
    return {
        name: Codes(np.zeros((rows, columns), np.int8), np.zeros((rows, columns // GROUP), np.float16), bits)
        for name, (rows, columns) in matrices.items()
    }


def _placed(leaf: Any, sharding: NamedSharding) -> Any:
    return _shape(leaf.shape, leaf.dtype, sharding)


def _shape(shape: tuple[int, ...], dtype: Any, sharding: NamedSharding) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape, np.dtype(dtype), sharding=sharding)


if __name__ == "__main__":
    main()
