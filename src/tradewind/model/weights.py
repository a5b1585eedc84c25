"""One table that names every weight in our decoder, in Hugging Face checkpoints and in GGUF; the moves between them.

A checkpoint in memory is a flat dict: Hugging Face name -> array in Hugging Face's layout (linear: [out, in]).
Here: that dict to and from a `Decoder`, and to and from a folder of safetensors. GGUF files are read in gguf.py.
It does not know quantization, tokenizers or training. Untied output heads are not covered.
"""

import hashlib
import json
import struct
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.typing import DTypeLike
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from tradewind.errors import UserError
from tradewind.files import atomic_path, read_json, write_json
from tradewind.model.decoder import Decoder, DecoderConfig

WEIGHTS_FILE = "model.safetensors"
Flat: TypeAlias = dict[str, np.ndarray]
"""Hugging Face name -> array in Hugging Face's layout."""


@dataclass(frozen=True)
class Weight:
    """One row of the table; `{i}` stands for the layer number.

    ours: dotted path in `Decoder`. hf, gguf: names in the containers. shape: Hugging Face's layout.
    transposed: ours is [in, out] where Hugging Face has [out, in].
    heads: for rows that GGUF stores with rotary pairs side by side, the number of heads they fall into.
    """

    ours: str
    hf: str
    gguf: str
    shape: Callable[[DecoderConfig], tuple[int, ...]]
    transposed: bool = False
    heads: Callable[[DecoderConfig], int] | None = None

    def at(self, layer: int) -> "Weight":
        names = {key: getattr(self, key).format(i=layer) for key in ("ours", "hf", "gguf")}
        return replace(self, **names)


TABLE: tuple[Weight, ...] = (
    Weight(
        "embed.embedding", "model.embed_tokens.weight", "token_embd.weight", lambda c: (c.vocab_size, c.hidden_size)
    ),
    Weight("norm.scale", "model.norm.weight", "output_norm.weight", lambda c: (c.hidden_size,)),
)

LAYER_TABLE: tuple[Weight, ...] = (
    Weight(
        "layers.{i}.attention_norm.scale",
        "model.layers.{i}.input_layernorm.weight",
        "blk.{i}.attn_norm.weight",
        lambda c: (c.hidden_size,),
    ),
    Weight(
        "layers.{i}.attention.q.kernel",
        "model.layers.{i}.self_attn.q_proj.weight",
        "blk.{i}.attn_q.weight",
        lambda c: (c.num_heads * c.head_dim, c.hidden_size),
        transposed=True,
        heads=lambda c: c.num_heads,
    ),
    Weight(
        "layers.{i}.attention.k.kernel",
        "model.layers.{i}.self_attn.k_proj.weight",
        "blk.{i}.attn_k.weight",
        lambda c: (c.num_kv_heads * c.head_dim, c.hidden_size),
        transposed=True,
        heads=lambda c: c.num_kv_heads,
    ),
    Weight(
        "layers.{i}.attention.v.kernel",
        "model.layers.{i}.self_attn.v_proj.weight",
        "blk.{i}.attn_v.weight",
        lambda c: (c.num_kv_heads * c.head_dim, c.hidden_size),
        transposed=True,
    ),
    Weight(
        "layers.{i}.attention.o.kernel",
        "model.layers.{i}.self_attn.o_proj.weight",
        "blk.{i}.attn_output.weight",
        lambda c: (c.hidden_size, c.num_heads * c.head_dim),
        transposed=True,
    ),
    Weight(
        "layers.{i}.mlp_norm.scale",
        "model.layers.{i}.post_attention_layernorm.weight",
        "blk.{i}.ffn_norm.weight",
        lambda c: (c.hidden_size,),
    ),
    Weight(
        "layers.{i}.mlp.gate.kernel",
        "model.layers.{i}.mlp.gate_proj.weight",
        "blk.{i}.ffn_gate.weight",
        lambda c: (c.mlp_size, c.hidden_size),
        transposed=True,
    ),
    Weight(
        "layers.{i}.mlp.up.kernel",
        "model.layers.{i}.mlp.up_proj.weight",
        "blk.{i}.ffn_up.weight",
        lambda c: (c.mlp_size, c.hidden_size),
        transposed=True,
    ),
    Weight(
        "layers.{i}.mlp.down.kernel",
        "model.layers.{i}.mlp.down_proj.weight",
        "blk.{i}.ffn_down.weight",
        lambda c: (c.hidden_size, c.mlp_size),
        transposed=True,
    ),
)


def weight_table(config: DecoderConfig) -> Iterator[Weight]:
    """Every weight of a decoder of this shape, once."""
    yield from TABLE
    for layer in range(config.num_layers):
        yield from (weight.at(layer) for weight in LAYER_TABLE)


def check(config: DecoderConfig, shapes: Mapping[str, tuple[int, ...]], source: str | Path = "checkpoint") -> None:
    """Hold names and shapes of a flat checkpoint against the table.

    Raises:
        UserError: a tensor is missing, not in the table, or of another shape (its name and both shapes are given).
    """
    expected = {weight.hf: weight.shape(config) for weight in weight_table(config)}
    if missing := [name for name in expected if name not in shapes]:
        raise UserError(f"{source}: tensor {missing[0]!r} is missing{_and_more(missing)}")
    if unused := sorted(name for name in shapes if name not in expected):
        raise UserError(f"{source}: tensor {unused[0]!r} has no place in the model{_and_more(unused)}")
    for name, shape in expected.items():
        if tuple(shapes[name]) != shape:
            raise UserError(f"{source}: tensor {name!r} has shape {tuple(shapes[name])}, the model needs {shape}")


def load_hf(folder: str | Path) -> tuple[DecoderConfig, Flat]:
    """Read a Hugging Face folder (one or several safetensors files) as float32.

    Raises:
        UserError: no checkpoint there, damaged, not finite, or a tensor too many, too few or of a wrong shape.
    """
    folder = Path(folder)
    config = DecoderConfig.from_hf(read_json(folder / "config.json"))
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise UserError(f"{folder}: no .safetensors file")
    flat: Flat = {}
    for file in files:
        flat |= read_safetensors(file)
    _drop_tied_head(flat, folder)
    check(config, {name: array.shape for name, array in flat.items()}, folder)
    return config, flat


def save_hf(folder: str | Path, config: DecoderConfig, flat: Mapping[str, np.ndarray]) -> None:
    """Write `model.safetensors` (as given, names sorted) and `config.json` into a folder, made if it is not there."""
    check(config, {name: array.shape for name, array in flat.items()})
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    write_safetensors(folder / WEIGHTS_FILE, flat)
    write_json(folder / "config.json", config.to_hf())


def write_safetensors(path: Path, flat: Mapping[str, np.ndarray]) -> None:
    """The tensors in order of name: the same ones always give the same bytes."""
    arrays = {name: np.ascontiguousarray(flat[name]) for name in sorted(flat)}
    with atomic_path(path) as temporary:
        save_file(arrays, temporary, metadata={"format": "pt"})  # the value that other readers expect


def to_model(
    config: DecoderConfig,
    flat: Mapping[str, np.ndarray],
    dtype: DTypeLike = jnp.float32,
    param_dtype: DTypeLike = jnp.float32,
) -> Decoder:
    """A decoder with these weights. Raises UserError where tensors and shape of the model disagree."""
    check(config, {name: array.shape for name, array in flat.items()})
    abstract = nnx.eval_shape(lambda: Decoder(config, rngs=nnx.Rngs(0), dtype=dtype, param_dtype=param_dtype))
    graph, state = nnx.split(abstract)
    weights = {weight.ours: weight for weight in weight_table(config)}
    filled = []
    for path, variable in nnx.to_flat_state(state):
        weight = weights.pop(".".join(map(str, path)))
        array = flat[weight.hf].T if weight.transposed else flat[weight.hf]
        filled.append((path, variable.replace(jnp.asarray(array, param_dtype))))
    if weights:
        raise AssertionError(f"the weight table names what the decoder does not have: {sorted(weights)}")
    return nnx.merge(graph, nnx.from_flat_state(filled))


def to_flat(decoder: Decoder) -> Flat:
    """The weights of a decoder as a flat checkpoint (float32 whatever they are stored in).

    Raises:
        ValueError: the decoder holds parameters that the table does not know (adapters not merged, for example).
    """
    ours = {".".join(map(str, path)): v for path, v in nnx.to_flat_state(nnx.state(decoder, nnx.Param))}
    flat: Flat = {}
    for weight in weight_table(decoder.config):
        array = np.asarray(jax.device_get(ours.pop(weight.ours)[...]), np.float32)
        flat[weight.hf] = np.ascontiguousarray(array.T) if weight.transposed else array
    if ours:
        raise ValueError(f"parameters outside the weight table: {', '.join(sorted(ours))}")
    return flat


def weights_digest(tensors: Mapping[str, np.ndarray]) -> str:
    """16 hexadecimal digits that name these weights: SHA-256 over names, types, shapes and bytes, in order of name."""
    sha = hashlib.sha256()
    for name in sorted(tensors):
        array = np.ascontiguousarray(tensors[name])
        sha.update(f"{name} {array.dtype.str} {array.shape}\n".encode())
        sha.update(array.data if array.size else b"")
    return sha.hexdigest()[:16]


def permute_rotary(rows: np.ndarray, heads: int) -> np.ndarray:
    """Rows of q or k from Hugging Face's order (halves) to GGUF's (pairs). rows: [out, ...], values or blocks."""
    split = rows.reshape(heads, 2, rows.shape[0] // heads // 2, *rows.shape[1:])
    return np.ascontiguousarray(split.swapaxes(1, 2)).reshape(rows.shape)


def unpermute_rotary(rows: np.ndarray, heads: int) -> np.ndarray:
    """The inverse of `permute_rotary`."""
    split = rows.reshape(heads, rows.shape[0] // heads // 2, 2, *rows.shape[1:])
    return np.ascontiguousarray(split.swapaxes(1, 2)).reshape(rows.shape)


def read_safetensors(path: Path) -> Flat:
    """All tensors of a file as float32. Raises UserError naming the tensor that is cut off, damaged or not finite."""
    _refuse_truncated(path)
    flat: Flat = {}
    try:
        with safe_open(path, framework="flax") as file:  # this reader knows bfloat16, NumPy's does not
            for name in file.keys():  # noqa: SIM118 - not a mapping
                flat[name] = np.asarray(file.get_tensor(name), np.float32)
                refuse_not_finite(path, name, flat[name])
    except SafetensorError as error:
        raise UserError(f"{path}: damaged safetensors file ({error})") from None
    return flat


def refuse_not_finite(path: str | Path, name: str, array: np.ndarray) -> None:
    if not np.isfinite(array).all():
        raise UserError(f"{path}: tensor {name!r} holds values that are not finite; the file is damaged")


def _refuse_truncated(path: Path) -> None:
    """Name the first tensor that the file is too short for; the library only says that the file is invalid."""
    size = path.stat().st_size
    with path.open("rb") as file:
        start = file.read(8)
        length = struct.unpack("<Q", start)[0] if len(start) == 8 else size
        if 8 + length > size:
            raise UserError(f"{path}: truncated safetensors file, its header is incomplete")
        try:
            header = json.loads(file.read(length))
            ends = {name: entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"}
        except (ValueError, TypeError, KeyError, IndexError, AttributeError):
            raise UserError(f"{path}: damaged safetensors file, its header is not readable") from None
    cut = sorted((end, name) for name, end in ends.items() if 8 + length + end > size)
    if cut:
        raise UserError(f"{path}: truncated safetensors file, tensor {cut[0][1]!r} is cut off")


def _drop_tied_head(flat: Flat, source: Path) -> None:
    """Some checkpoints store a tied head as a copy of the embedding."""
    head = flat.pop("lm_head.weight", None)
    if head is not None and not np.array_equal(head, flat.get("model.embed_tokens.weight", np.empty(0))):
        raise UserError(f"{source}: tensor 'lm_head.weight' differs from the embedding; only a tied head is supported")


def _and_more(names: list[str]) -> str:
    return f" (and {len(names) - 1} more)" if len(names) > 1 else ""
