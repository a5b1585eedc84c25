"""A `.tflite` decode step that holds the variant's own integers: JAX -> StableHLO -> `litert_converter` -> flatbuffer.

1. The step (one token, caches in and out) is lowered with the weights as arguments: a small text, converted in seconds.
2. In the converted graph every weight argument becomes a constant: int8 or int4 codes [blocks, 32] with a scale for each
   block (per-channel quantization, axis 0), a DEQUANTIZE and a RESHAPE. TFLite dequantizes constants once, in float32, so
   products are float32 with exactly the weights of every other runtime; negative scales of `Q4_0` included.

The bindings are undocumented and want an environment of their own: `make litert`; steps 2 and running are
`export_litert_worker`, by that environment's Python. The price of exactness: TFLite wants a float32 scale and an int64
zero point for each block (3 bits a weight more), and weights lie in memory as floats. XNNPACK's own blockwise int4 would be
smaller, but refuses negative scales. Not covered: prefill of several tokens, int8 caches, GPU delegates.
"""

import json
import os
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from tradewind.compression.compare_integers import from_gguf
from tradewind.compression.quantize import BLOCK, Blocks, Tensor, pack4
from tradewind.compression.variant import load_variant
from tradewind.errors import UserError
from tradewind.files import atomic_path, make_folder, write_json
from tradewind.model.decoder import DecoderConfig, attend, rotary, rotate
from tradewind.model.gguf import load_gguf
from tradewind.model.weights import weight_table

WORKER = Path(__file__).with_name("export_litert_worker.py")
GET_IT = "no LiteRT here: `make litert` gets it (470 MB), or pass --litert with a Python that has it"
PYTHON = Path(".venv-litert/bin/python")
"""Of the environment that `make litert` makes."""
WORKER_S = 3600


def export_litert(folder: Path, out: Path, length: int, python: Path) -> None:
    """Write `out`, the decode step of a quantized variant over caches of `length` positions.

    Raises:
        UserError: no LiteRT environment, a variant without a GGUF, or an operator that the converter lacks.
    """
    manifest = load_variant(folder)
    if "gguf" not in manifest.files:
        raise UserError(f"{folder}: LiteRT export takes quantized variants with a GGUF file; {manifest.name} has none")
    if length > manifest.max_position:
        raise UserError(f"--length {length} is beyond the context of {manifest.name}, {manifest.max_position}")
    config, flat, _ = load_gguf(folder / manifest.files["gguf"][0])
    tensors: dict[str, Tensor] = {**flat, **from_gguf(folder, manifest)}
    make_folder(out.parent)
    with TemporaryDirectory() as work:
        (Path(work) / "step.mlir").write_text(lowered(config, length))
        arrays, facts = _handed_over(config, tensors)
        np.savez(Path(work) / "weights.npz", **arrays)  # type: ignore[arg-type]
        write_json(Path(work) / "weights.json", facts)
        worker(python, "build", work, f"{work}/{out.name}")
        if not Path(work, out.name).is_file():
            raise UserError(f"{python} is no Python with LiteRT: `make litert` makes one")
        with atomic_path(out) as path:
            shutil.move(f"{work}/{out.name}", path)


def lowered(config: DecoderConfig, length: int) -> str:
    """StableHLO of the step. Arguments: the weights in the order of the weight table, token [], position [], caches."""
    names = [weight.hf for weight in weight_table(config)]
    weights = [jax.ShapeDtypeStruct(weight.shape(config), jnp.float32) for weight in weight_table(config)]
    scalar = jax.ShapeDtypeStruct((), jnp.int32)
    cache = jax.ShapeDtypeStruct((1, length, config.num_kv_heads, config.head_dim), jnp.float32)

    def run(*inputs: jax.Array) -> tuple[jax.Array, ...]:
        return step(config, dict(zip(names, inputs, strict=False)), *inputs[len(names) :])

    return jax.jit(run, keep_unused=True).lower(*weights, scalar, scalar, *[cache] * (2 * config.num_layers)).as_text()


def step(
    config: DecoderConfig, weights: Mapping[str, jax.Array], token: jax.Array, position: jax.Array, *cache: jax.Array
) -> tuple[jax.Array, ...]:
    """Logits [1,1,V] after one token, then keys and values of each layer [1,S,K,F]. Weights in Hugging Face's layout,
    whose products with [out, in] LiteRT has an operator for."""

    def linear(x: jax.Array, name: str) -> jax.Array:
        return jax.lax.dot_general(x, weights[f"{name}.weight"], (((x.ndim - 1,), (1,)), ((), ())))

    def norm(x: jax.Array, name: str) -> jax.Array:
        return x * jax.lax.rsqrt(jnp.mean(x * x, -1, keepdims=True) + config.norm_eps) * weights[f"{name}.weight"]

    places = jnp.full((1, 1), position)
    rotation = rotary(places, config.head_dim, config.rope_base)
    mask = places[:, :, None] >= jnp.arange(cache[0].shape[1])[None, None, :]
    x, updated = weights["model.embed_tokens.weight"][token][None, None], []
    for layer in range(config.num_layers):
        name = f"model.layers.{layer}"
        normed = norm(x, f"{name}.input_layernorm")
        parts = (linear(normed, f"{name}.self_attn.{part}_proj") for part in "qkv")
        q, k, v = (part.reshape(1, 1, -1, config.head_dim) for part in parts)
        keys = jax.lax.dynamic_update_slice(cache[2 * layer], rotate(k, rotation), (0, position, 0, 0))
        values = jax.lax.dynamic_update_slice(cache[2 * layer + 1], v, (0, position, 0, 0))
        updated += [keys, values]
        mixed = attend(rotate(q, rotation), keys, values, mask).reshape(1, 1, -1)
        x = x + linear(mixed, f"{name}.self_attn.o_proj")
        normed = norm(x, f"{name}.post_attention_layernorm")
        gated = jax.nn.silu(linear(normed, f"{name}.mlp.gate_proj")) * linear(normed, f"{name}.mlp.up_proj")
        x = x + linear(gated, f"{name}.mlp.down_proj")
    return linear(norm(x, "model.norm"), "model.embed_tokens"), *updated


def integers(model: Path, python: Path) -> dict[str, Blocks]:
    """Codes and scales read back from a `.tflite` through its schema."""
    with TemporaryDirectory() as work:
        worker(python, "integers", str(model), f"{work}/found.npz")
        with np.load(f"{work}/found.npz") as found:
            names = [key.removesuffix(".codes") for key in found if key.endswith(".codes")]
            return {n: Blocks(int(found[n + ".bits"]), found[n + ".codes"], found[n + ".scales"]) for n in names}


def logits(model: Path, texts: Sequence[tuple[Sequence[int], int]], threads: int, python: Path) -> list[np.ndarray]:
    """Of texts (tokens, where the answer starts): logits before each token of the answer, [answer tokens, V]."""
    with TemporaryDirectory() as work:
        write_json(Path(work) / "texts.json", [[list(tokens), start] for tokens, start in texts])
        worker(python, "logits", str(model), f"{work}/texts.json", f"{work}/out.npz", str(threads))
        with np.load(f"{work}/out.npz") as found:
            return [found[str(index)] for index in range(len(texts))]


def benchmark(model: Path, tokens: int, threads: int, python: Path) -> dict[str, Any]:
    """load_s (the first step included, which widens the weights), decode_tokens_per_s, peak_rss_bytes, bytes of the file."""
    found: dict[str, Any] = json.loads(worker(python, "bench", str(model), str(tokens), str(threads)).splitlines()[-1])
    return found


def require(python: Path = PYTHON) -> None:
    """Raises UserError where there is no such Python."""
    if not os.access(python, os.X_OK):
        raise UserError(GET_IT)


def worker(python: Path, *words: str) -> str:
    """Run a command of the worker; what it printed. Raises UserError with its last words."""
    require(python)
    kept = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
    words = (str(python), str(WORKER), *words)
    ended = subprocess.run(words, capture_output=True, text=True, check=False, timeout=WORKER_S, env=kept)
    if ended.returncode:
        raise UserError(f"LiteRT: {_fault(ended.stderr) or f'exit code {ended.returncode}'}")
    return ended.stdout


def _fault(said: str) -> str:
    """The compiler's first error, which names the operator that LiteRT lacks (notes follow it), else the last line."""
    lines = said.strip().splitlines() or [""]
    errors = [line for line in lines if "error: " in line]
    return (errors[0].partition("error: ")[2] if errors else lines[-1])[:300]


def _handed_over(
    config: DecoderConfig, tensors: Mapping[str, Tensor]
) -> tuple[dict[str, np.ndarray], list[dict[str, Any]]]:
    """Arrays for the worker, and for each argument its name, shape and bits (0: float32)."""
    arrays: dict[str, np.ndarray] = {}
    facts = []
    for index, weight in enumerate(weight_table(config)):
        tensor = tensors[weight.hf]
        bits = tensor.bits if isinstance(tensor, Blocks) else 0
        facts.append({"name": weight.hf, "shape": list(tensor.shape), "bits": bits})
        if isinstance(tensor, Blocks):
            codes = tensor.codes.reshape(-1, BLOCK)
            # TFLite's int4 is two's complement, low half first; pack4 adds 8, which flips the top bit of each half
            arrays[f"{index}.codes"] = codes if bits == 8 else pack4(codes) ^ np.uint8(0x88)
            arrays[f"{index}.scales"] = tensor.scales.astype(np.float32).reshape(-1)
        else:
            arrays[f"{index}.floats"] = tensor
    return arrays, facts
