"""The folder of an encoder: weights, graph, tokenizer, and the manifest that names them; made whole or not at all."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from flax import nnx

from tradewind.compression.export import tensors_digest
from tradewind.compression.variant import LICENCE, MANIFEST, file_digests
from tradewind.config import build
from tradewind.encoder.export_onnx import export_onnx
from tradewind.encoder.model import EncoderConfig, SentenceEncoder, checked, to_flat
from tradewind.encoder.text import FILE, EncoderTokenizer
from tradewind.errors import UserError
from tradewind.files import atomic_path, read_json, sha256_file, write_json
from tradewind.model.weights import WEIGHTS_FILE, Flat, read_safetensors

FORMAT = 1


@dataclass(frozen=True)
class EncoderManifest:
    """bytes: of the weights that ONNX Runtime maps. weights_digest: as they are run. digests: file -> bytes, SHA-256."""

    name: str
    precision: str
    bytes: int
    weights_digest: str
    tokenizer_digest: str
    config: dict[str, Any]
    digests: dict[str, Any]
    licence: str = LICENCE
    format: int = FORMAT

    @property
    def encoder(self) -> EncoderConfig:
        return EncoderConfig(**self.config)


@dataclass(frozen=True)
class RandomEncoder:
    """Shape of an encoder with random weights; its tokenizer knows characters."""

    hidden_size: int
    num_layers: int
    num_heads: int
    mlp_size: int


def read_published(folder: Path) -> tuple[EncoderConfig, Flat, EncoderTokenizer]:
    """A published folder: `config.json`, `model.safetensors`, `tokenizer.json`, how long texts may be, how they are pooled.

    Raises:
        UserError: a file is missing or damaged, or asks for what is not computed here.
    """
    pooling = read_json(folder / "1_Pooling" / "config.json")
    asked = sorted(key for key, value in pooling.items() if key.startswith("pooling_mode_") and value)
    if asked != ["pooling_mode_mean_tokens"]:
        raise UserError(f"{folder}: pooling by {', '.join(asked) or 'nothing'}, only the mean of tokens is supported")
    limit = read_json(folder / "sentence_bert_config.json")["max_seq_length"]
    config = EncoderConfig.from_hf(read_json(folder / "config.json"), limit)
    weights = folder / WEIGHTS_FILE
    return config, checked(config, read_safetensors(weights), weights), EncoderTokenizer.load(folder / FILE)


def random_encoder(shape: RandomEncoder, seed: int) -> tuple[EncoderConfig, Flat, EncoderTokenizer]:
    tokenizer = EncoderTokenizer.of_characters()
    config = EncoderConfig(vocab_size=tokenizer.vocab_size, **asdict(shape))
    return config, to_flat(SentenceEncoder(config, rngs=nnx.Rngs(seed))), tokenizer


def write_folder(
    folder: Path,
    name: str,
    config: EncoderConfig,
    flat: Mapping[str, np.ndarray],
    tokenizer: EncoderTokenizer,
    precision: str,
) -> EncoderManifest:
    """The same input gives the same bytes. Raises UserError."""
    if tokenizer.vocab_size != config.vocab_size:
        raise UserError(f"encoder: {tokenizer.vocab_size} tokens in the tokenizer, {config.vocab_size} in the weights")
    with atomic_path(folder) as made:
        tensors = export_onnx(made, config, flat, precision)
        tokenizer.save(made)
        digests = file_digests(made)
        manifest = EncoderManifest(
            name=name,
            precision=precision,
            bytes=sum(tensor.nbytes for tensor in tensors.values()),
            weights_digest=tensors_digest(tensors),
            tokenizer_digest=tokenizer.digest,
            config=asdict(config),
            digests=digests,
        )
        write_json(made / MANIFEST, asdict(manifest))
    return manifest


def load_folder(folder: Path) -> EncoderManifest:
    """The manifest, once the files are those that it lists. Raises UserError naming the first that is not."""
    stored = read_json(folder / MANIFEST)
    if not isinstance(stored, dict) or stored.get("format") != FORMAT:
        raise UserError(
            f"{folder / MANIFEST}: not an encoder's manifest of format {FORMAT}; run the stage encoder again"
        )
    manifest = build(EncoderManifest, stored, str(folder / MANIFEST))
    for name, expected in manifest.digests.items():
        path = folder / name
        if not path.is_file() or sha256_file(path) != expected["sha256"]:
            raise UserError(f"{path}: missing, or not what the manifest says; run the stage encoder again")
    return manifest
