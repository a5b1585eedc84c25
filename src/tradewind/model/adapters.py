"""LoRA adapters as folders of Hugging Face's PEFT: `adapter_config.json` and `adapter_model.safetensors`.

An adapter is a pair A [rank, in], B [rank, out] for some linear layers: W x + scale B^T A x (arXiv:2106.09685). PEFT's
files hold `base_model.model.model.layers.N.self_attn.q_proj.lora_A.weight` [rank, in] and `lora_B` [out, rank]; here the
scale (alpha / rank, or alpha / sqrt(rank) with `use_rslora`) is folded into B as it is read.

`save_adapter` notes the digest of the weights that it was trained on in the safetensors header, which other readers
ignore; adapters of others have none, and only their shapes are checked.
Not covered: DoRA, biases, modules saved whole, ranks that differ by layer, vocabularies of their own. Nothing here knows
engines; only what makes or saves a model's own adapters needs JAX.
"""

import hashlib
import math
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from tradewind.errors import UserError
from tradewind.files import atomic_path, read_json, write_json

if TYPE_CHECKING:
    from tradewind.model.decoder import Decoder, DecoderConfig

CONFIG_FILE, WEIGHTS_FILE = "adapter_config.json", "adapter_model.safetensors"
PARTS = {
    "q": "self_attn.q_proj",
    "k": "self_attn.k_proj",
    "v": "self_attn.v_proj",
    "o": "self_attn.o_proj",
    "gate": "mlp.gate_proj",
    "up": "mlp.up_proj",
    "down": "mlp.down_proj",
}
"""Our name of a linear layer -> Hugging Face's."""
PREFIX = "base_model.model."
BASE = "base_digest"
"""Key of the safetensors header."""
UNSUPPORTED: dict[str, tuple[Any, ...]] = {
    "peft_type": ("LORA",),
    "bias": ("none", None),
    "use_dora": (False, None),
    "fan_in_fan_out": (False, None),
    "modules_to_save": (None, []),
    "rank_pattern": (None, {}),
    "alpha_pattern": (None, {}),
    "trainable_token_indices": (None, []),
    "lora_bias": (False, None),
}
"""Keys of the configuration -> the values that say what is computed here."""

Matrix = NDArray[np.float32]
Pairs = dict[tuple[int, str], tuple[Matrix, Matrix]]
"""(decoder layer, part) -> A [rank, in], B [rank, out] with the scale in it."""


@dataclass(frozen=True, eq=False)
class Adapter:
    """digest: 16 hexadecimal digits over all that answers depend on. base: of the weights it was trained on, if known."""

    rank: int
    pairs: Pairs
    digest: str
    base: str | None = None


def read_adapter(folder: str | Path, config: "DecoderConfig", bases: Collection[str] = ()) -> Adapter:
    """An adapter of a decoder of this shape. bases: digests of weights that it may have been trained on; none: any.

    Raises:
        UserError: no adapter there, a damaged one, one of a kind that is not computed here, or one that does not fit,
            naming the key or the tensor.
    """
    folder = Path(folder)
    rank, scale = _settings(folder / CONFIG_FILE)
    tensors, base = _tensors(folder / WEIGHTS_FILE)
    if base is not None and bases and base not in bases:
        known = " or ".join(sorted(bases))
        raise UserError(f"{folder}: the adapter was trained on weights {base}, the model's are {known}")
    pairs = {
        key: (a, np.ascontiguousarray(b.T * np.float32(scale)))
        for key, (a, b) in sorted(_pairs(folder, tensors).items())
    }
    for key, pair in pairs.items():
        _check_shapes(folder, key, pair, rank, config)
    return Adapter(rank, pairs, digest_of(pairs), base)


def digest_of(pairs: Pairs) -> str:
    sha = hashlib.sha256()
    for (layer, part), pair in sorted(pairs.items()):
        for array in pair:
            sha.update(f"{layer} {part} {array.shape}\n".encode())
            sha.update(np.ascontiguousarray(array).data)
    return sha.hexdigest()[:16]


def sizes(config: "DecoderConfig") -> dict[str, tuple[int, int]]:
    """Inputs and outputs of each part."""
    width, mlp = config.hidden_size, config.mlp_size
    heads, kv_heads = config.num_heads * config.head_dim, config.num_kv_heads * config.head_dim
    into = {"q": heads, "k": kv_heads, "v": kv_heads, "gate": mlp, "up": mlp}
    return {part: (width, out) for part, out in into.items()} | {"o": (heads, width), "down": (mlp, width)}


def stacked(
    adapters: Sequence[Adapter], layer: int, parts: Sequence[str], config: "DecoderConfig", room: int = 0
) -> tuple[Matrix, Matrix]:
    """The adapters of one linear layer, one below the other, for a product of x with all of them.

    Where the layer joins several parts of k, an adapter of rank r takes k r lines of A [k R, in], a part's below the other's,
    and B [k R, sum of outs] is zero outside a part's own columns. R: the sum of ranks, and `room` lines of zeros.
    """
    shapes, count = sizes(config), len(parts)
    ranks = sum(adapter.rank for adapter in adapters) + room
    a = np.zeros((count * ranks, shapes[parts[0]][0]), np.float32)
    b = np.zeros((count * ranks, sum(shapes[part][1] for part in parts)), np.float32)
    line = 0
    for adapter in adapters:
        column = 0
        for part in parts:
            out = shapes[part][1]
            if (layer, part) in adapter.pairs:
                a[line : line + adapter.rank], b[line : line + adapter.rank, column : column + out] = adapter.pairs[
                    layer, part
                ]
            line, column = line + adapter.rank, column + out
    return a, b


def save_adapter(model: "Decoder", folder: str | Path, base: str | None = None, name: str = "") -> None:
    """The adapters of an adapted model (`tradewind.model.lora`), not yet merged; complete or not at all.

    base: digest of the weights below them (`weights_digest`). name: of the base, for PEFT's `base_model_name_or_path`.
    Raises UserError where the model has none, or of several ranks or scales.
    """
    from tradewind.model.lora import adapted_layers

    layers = adapted_layers(model)
    kinds = {(module.a.shape[0], module.scale) for module in layers.values()}
    if len(kinds) != 1:
        raise UserError(f"{folder}: {len(layers)} adapters of {len(kinds)} kinds of rank and scale, one kind is needed")
    ((rank, scale),) = kinds
    tensors = {}
    for (layer, part), module in layers.items():
        name_of = f"{PREFIX}model.layers.{layer}.{PARTS[part]}"
        tensors[f"{name_of}.lora_A.weight"] = np.ascontiguousarray(np.asarray(module.a[...], np.float32))
        tensors[f"{name_of}.lora_B.weight"] = np.ascontiguousarray(np.asarray(module.b[...], np.float32).T)
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": name,
        "r": rank,
        "lora_alpha": scale * rank,
        "lora_dropout": 0.0,
        "bias": "none",
        "inference_mode": True,
        "target_modules": sorted({PARTS[part].rpartition(".")[2] for _, part in layers}),
        "layers_to_transform": sorted({layer for layer, _ in layers}),
        "layers_pattern": "layers",
    }
    with atomic_path(folder) as made:
        made.mkdir(parents=True)
        save_file({key: tensors[key] for key in sorted(tensors)}, made / WEIGHTS_FILE,
                  metadata={"format": "pt"} | ({} if base is None else {BASE: base}))  # fmt: skip
        write_json(made / CONFIG_FILE, config)


def _settings(path: Path) -> tuple[int, float]:
    """Rank and scale. Raises UserError."""
    held = read_json(path)
    if not isinstance(held, dict):
        raise UserError(f"{path}: not a JSON object")
    for key, values in UNSUPPORTED.items():
        if held.get(key) not in values:
            raise UserError(f"{path}: {key} is {held.get(key)!r}, only {values[0]!r} is supported")
    rank, alpha = held.get("r"), held.get("lora_alpha")
    if not isinstance(rank, int) or isinstance(rank, bool) or rank < 1:
        raise UserError(f"{path}: r is {rank!r}, not a rank from 1")
    if not isinstance(alpha, int | float) or isinstance(alpha, bool) or not math.isfinite(alpha):
        raise UserError(f"{path}: lora_alpha is {alpha!r}, not a number")
    return rank, alpha / (math.sqrt(rank) if held.get("use_rslora") else rank)


def _tensors(path: Path) -> tuple[dict[str, Matrix], str | None]:
    """All tensors as float32, and the base's digest where it is noted."""
    if not path.is_file():
        raise UserError(f"{path}: no such file")
    found: dict[str, Matrix] = {}
    try:
        with safe_open(path, framework="numpy") as file:
            base = (file.metadata() or {}).get(BASE)
            for name in file.keys():  # noqa: SIM118 - not a mapping
                found[name] = np.asarray(file.get_tensor(name)).astype(np.float32)
    except (SafetensorError, TypeError, ValueError) as error:
        raise UserError(f"{path}: damaged, or of a type that NumPy does not know ({error})") from None
    for name, array in found.items():
        if not np.isfinite(array).all():
            raise UserError(f"{path}: tensor {name!r} holds values that are not finite")
    return found, base


def _pairs(folder: Path, tensors: Mapping[str, Matrix]) -> Pairs:
    """(layer, part) -> `lora_A` and `lora_B` as they are in the file."""
    paths = {path: part for part, path in PARTS.items()}
    pattern = re.compile(r"(?:base_model\.model\.)?model\.layers\.(\d+)\.([\w.]+)\.lora_([AB])(?:\.default)?\.weight")
    halves: dict[str, dict[tuple[int, str], Matrix]] = {"A": {}, "B": {}}
    for name, array in tensors.items():
        match = pattern.fullmatch(name)
        if match is None or match[2] not in paths:
            places = ", ".join(path.rpartition(".")[2] for path in paths)
            raise UserError(f"{folder}: tensor {name!r} has no place in the model (adapters of {places})")
        halves[match[3]][int(match[1]), paths[match[2]]] = array
    if alone := sorted(set(halves["A"]) ^ set(halves["B"])):
        raise UserError(f"{folder}: layer {alone[0][0]} {PARTS[alone[0][1]]} has one of lora_A and lora_B, not both")
    if not halves["A"]:
        raise UserError(f"{folder}: no adapter in {WEIGHTS_FILE}")
    return {key: (a, halves["B"][key]) for key, a in halves["A"].items()}


def _check_shapes(
    folder: Path, key: tuple[int, str], pair: tuple[Matrix, Matrix], rank: int, config: "DecoderConfig"
) -> None:
    layer, part = key
    if layer >= config.num_layers:
        raise UserError(f"{folder}: an adapter for layer {layer}, the model has {config.num_layers} layers")
    inputs, outputs = sizes(config)[part]
    for half, array, want in zip("AB", pair, ((rank, inputs), (rank, outputs)), strict=True):
        if array.shape != want:
            shapes = [array.shape, want] if half == "A" else [array.shape[::-1], want[::-1]]
            raise UserError(f"{folder}: layer {layer} {PARTS[part]}.lora_{half} has shape {shapes[0]}, the model and rank "
                            f"{rank} need {shapes[1]}")  # fmt: skip
