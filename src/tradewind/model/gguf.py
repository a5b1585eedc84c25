"""GGUF files of Llama-type models: read as a flat checkpoint, written so that llama.cpp loads them.

Names and the order of rotary rows come from the weight table; blocks of Q4_0, Q4_1 and Q8_0 are decoded by the `gguf`
package, and written as they are given. Not covered: k-quants, split files, architectures other than `llama`.
Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import gguf
import numpy as np

from tradewind.errors import UserError
from tradewind.files import atomic_path
from tradewind.model.decoder import DecoderConfig
from tradewind.model.integers import GROUP, Codes
from tradewind.model.tokenizer import Tokenizer
from tradewind.model.weights import Flat, check, permute_rotary, refuse_not_finite, unpermute_rotary, weight_table

Metadata: TypeAlias = dict[str, object]
"""GGUF key -> string, number, boolean or list of these."""

READABLE = ("F32", "F16", "BF16", "Q8_0", "Q4_0", "Q4_1")
BLOCKS = {"Q8_0": 8, "Q4_0": 4}
"""GGML tensor type whose blocks are a scale and GROUP codes -> their bits."""
FILE_TYPES = {"F32": 0, "F16": 1, "Q4_0": 2, "Q4_1": 3, "Q8_0": 7}
"""GGML tensor type -> `general.file_type`, the type of most weights in the file."""

CONFIG_KEYS = {
    "hidden_size": "llama.embedding_length",
    "num_layers": "llama.block_count",
    "num_heads": "llama.attention.head_count",
    "num_kv_heads": "llama.attention.head_count_kv",
    "mlp_size": "llama.feed_forward_length",
    "rope_base": "llama.rope.freq_base",
    "norm_eps": "llama.attention.layer_norm_rms_epsilon",
    "max_position": "llama.context_length",
    "head_dim": "llama.rope.dimension_count",
    "bos_token_id": "tokenizer.ggml.bos_token_id",
    "eos_token_id": "tokenizer.ggml.eos_token_id",
}
"""Field of `DecoderConfig` -> GGUF key."""


@dataclass(frozen=True)
class QuantizedTensor:
    """Blocks ready to be written. data: uint8 [out, bytes per row], rows in Hugging Face's order. shape: (out, in)."""

    data: np.ndarray
    ggml_type: str
    shape: tuple[int, int]


def load_gguf(path: str | Path) -> tuple[DecoderConfig, Flat, Metadata]:
    """Read a GGUF file; weights become float32.

    Raises:
        UserError: damaged or truncated (the tensor's name), a tensor type or architecture that is not read here, or
            tensors that do not fit the shape which the file states (the tensor's name and both shapes).
    """
    reader = _open(Path(path))
    metadata: Metadata = {name: field.contents() for name, field in reader.fields.items()}
    config = _config(path, metadata)
    weights = {weight.gguf: weight for weight in weight_table(config)}
    flat: Flat = {}
    for tensor in reader.tensors:
        if tensor.tensor_type.name not in READABLE:
            raise UserError(f"{path}: tensor {tensor.name!r} is of type {tensor.tensor_type.name}, read are {READABLE}")
        array = gguf.dequantize(tensor.data, tensor.tensor_type).astype(np.float32)
        refuse_not_finite(path, tensor.name, array)
        weight = weights.get(tensor.name)
        flat[weight.hf if weight else tensor.name] = array
    _check_shapes(path, config, flat)
    for weight in weights.values():
        if weight.heads:
            flat[weight.hf] = unpermute_rotary(flat[weight.hf], weight.heads(config))
    return config, flat, metadata


def load_gguf_codes(path: str | Path) -> dict[str, Codes]:
    """The integers of a file's Q4_0 and Q8_0 tensors: Hugging Face name -> codes, rows in Hugging Face's order.

    Raises UserError as `load_gguf` does for the file as a whole.
    """
    reader = _open(Path(path))
    config = _config(path, {name: field.contents() for name, field in reader.fields.items()})
    weights, found = {weight.gguf: weight for weight in weight_table(config)}, {}
    for tensor in reader.tensors:
        weight = weights.get(tensor.name)
        if weight is None or tensor.tensor_type.name not in BLOCKS:
            continue
        codes, scales = _codes(tensor.data, tensor.tensor_type.name)
        if weight.heads:
            codes, scales = (unpermute_rotary(part, weight.heads(config)) for part in (codes, scales))
        found[weight.hf] = Codes(codes, scales, BLOCKS[tensor.tensor_type.name])
    return found


def _codes(data: np.ndarray, kind: str) -> tuple[np.ndarray, np.ndarray]:
    """int8 [out, in] and float16 [out, in / GROUP] of blocks: a float16 scale, then int8, or pairs of nibbles plus 8."""
    rows = data.reshape(len(data), -1, 2 + GROUP * BLOCKS[kind] // 8)
    scales = np.ascontiguousarray(rows[..., :2]).view(np.float16)[..., 0]
    packed = np.ascontiguousarray(rows[..., 2:])
    if kind == "Q8_0":
        codes = packed.view(np.int8)
    else:
        codes = np.concatenate([packed & 15, packed >> 4], axis=-1).astype(np.int8) - np.int8(8)
    return codes.reshape(len(data), -1), scales


def save_gguf(
    path: str | Path,
    config: DecoderConfig,
    tensors: Mapping[str, np.ndarray | QuantizedTensor],
    tokenizer: Tokenizer,
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Write a GGUF file.

    Args:
        tensors: Hugging Face name -> float32 or float16 [out, in], or ready-made blocks. Vectors become float32,
            for llama.cpp takes norms in no other type.
        metadata: further string keys, such as `general.name` and `general.license`.
    """
    check(config, {name: tuple(tensor.shape) for name, tensor in tensors.items()}, path)
    if tokenizer.vocab_size != config.vocab_size:
        raise UserError(f"{path}: the tokenizer has {tokenizer.vocab_size} tokens, the model {config.vocab_size}")
    with atomic_path(path) as temporary:
        writer = gguf.GGUFWriter(temporary, "llama")
        _write_config(writer, config, tensors)
        for key, value in sorted((metadata or {}).items()):
            writer.add_string(key, value)
        _write_tokenizer(writer, tokenizer)
        for weight in weight_table(config):
            data, kind = _payload(tensors[weight.hf])
            data = permute_rotary(data, weight.heads(config)) if weight.heads else data
            writer.add_tensor(weight.gguf, data, raw_dtype=kind)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()


class _Reader(gguf.GGUFReader):
    """The package's reader, which fails on a short file without saying where."""

    def _build_tensors(self, start_offs: int, fields: list[gguf.ReaderField]) -> None:
        for field in fields:
            name = bytes(field.parts[1]).decode()
            dimensions, kind, offset = (
                field.parts[3],
                gguf.GGMLQuantizationType(field.parts[4][0]),
                int(field.parts[5][0]),
            )
            block, size = gguf.GGML_QUANT_SIZES[kind]
            elements = 1
            for dimension in dimensions:
                elements *= int(dimension)
            if start_offs + offset + elements * size // block > len(self.data):
                raise UserError(f"truncated GGUF file, tensor {name!r} is cut off")
        super()._build_tensors(start_offs, fields)


def _open(path: Path) -> gguf.GGUFReader:
    if not path.is_file():
        raise UserError(f"{path}: no such file")
    try:
        return _Reader(path)
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    except (ValueError, IndexError, KeyError, OverflowError, MemoryError) as error:
        raise UserError(f"{path}: damaged or truncated GGUF header ({' '.join(str(error).split())})") from None


def _config(path: str | Path, metadata: Metadata) -> DecoderConfig:
    if metadata.get("general.architecture") != "llama":
        raise UserError(f"{path}: architecture {metadata.get('general.architecture')!r} is not read, only 'llama'")
    if "llama.rope.scaling.type" in metadata and metadata["llama.rope.scaling.type"] != "none":
        raise UserError(f"{path}: rotary scaling {metadata['llama.rope.scaling.type']!r} is not supported")
    values = {ours: metadata[key] for ours, key in CONFIG_KEYS.items() if key in metadata}
    if "llama.attention.key_length" in metadata:
        values["head_dim"] = metadata["llama.attention.key_length"]
    if missing := sorted(CONFIG_KEYS[ours] for ours in CONFIG_KEYS if ours not in values):
        raise UserError(f"{path}: metadata {missing[0]!r} is missing")
    tokens = metadata.get("tokenizer.ggml.tokens")
    if not isinstance(tokens, list):
        raise UserError(f"{path}: metadata 'tokenizer.ggml.tokens' is missing")
    # GGUF keeps the float as 32 bits; 1e-5 must come back as 1e-5
    values["norm_eps"] = float(np.format_float_positional(np.float32(values["norm_eps"]), unique=True))  # type: ignore[arg-type]
    return DecoderConfig(vocab_size=len(tokens), **values)  # type: ignore[arg-type]


def _check_shapes(path: str | Path, config: DecoderConfig, flat: Flat) -> None:
    shapes = {name: array.shape for name, array in flat.items()}
    if "output.weight" in shapes:
        raise UserError(f"{path}: tensor 'output.weight' is there; only a head tied to the embedding is supported")
    check(config, shapes, path)


def _write_config(
    writer: gguf.GGUFWriter, config: DecoderConfig, tensors: Mapping[str, np.ndarray | QuantizedTensor]
) -> None:
    kinds = [_payload(tensor)[1].name for tensor in tensors.values() if len(tensor.shape) > 1]
    writer.add_file_type(FILE_TYPES[max(sorted(set(kinds)), key=kinds.count)])
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    writer.add_block_count(config.num_layers)
    writer.add_context_length(config.max_position)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.mlp_size)
    writer.add_head_count(config.num_heads)
    writer.add_head_count_kv(config.num_kv_heads)
    writer.add_key_length(config.head_dim)
    writer.add_value_length(config.head_dim)
    writer.add_rope_dimension_count(config.head_dim)
    writer.add_rope_freq_base(config.rope_base)
    writer.add_layer_norm_rms_eps(config.norm_eps)
    writer.add_vocab_size(config.vocab_size)


def _write_tokenizer(writer: gguf.GGUFWriter, tokenizer: Tokenizer) -> None:
    kinds = gguf.TokenType
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(tokenizer.tokens)
    special = set(tokenizer.special_ids)
    writer.add_token_types([kinds.CONTROL if i in special else kinds.NORMAL for i in range(tokenizer.vocab_size)])
    writer.add_token_merges([" ".join(pair) for pair in tokenizer.merges])
    writer.add_bos_token_id(tokenizer.bos_token_id)
    writer.add_eos_token_id(tokenizer.eos_token_id)
    writer.add_unk_token_id(tokenizer.unk_token_id)
    writer.add_pad_token_id(tokenizer.pad_token_id)
    writer.add_add_space_prefix(False)
    writer.add_add_bos_token(False)
    writer.add_chat_template(tokenizer.chat_template)


def _payload(tensor: np.ndarray | QuantizedTensor) -> tuple[np.ndarray, gguf.GGMLQuantizationType]:
    if isinstance(tensor, QuantizedTensor):
        return tensor.data, gguf.GGMLQuantizationType[tensor.ggml_type]
    if tensor.ndim == 1 or tensor.dtype != np.float16:
        return tensor.astype(np.float32), gguf.GGMLQuantizationType.F32
    return tensor, gguf.GGMLQuantizationType.F16
