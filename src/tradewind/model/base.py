"""The base checkpoint as a Hugging Face folder: imported from GGUF or another such folder, or made of random weights.

It does not know where the source comes from; tests of parity hold the import against an independent implementation.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import jax.numpy as jnp
from flax import nnx

from tradewind.errors import UserError
from tradewind.files import atomic_path
from tradewind.model.decoder import Decoder, DecoderConfig
from tradewind.model.gguf import load_gguf
from tradewind.model.tokenizer import Tokenizer
from tradewind.model.weights import Flat, load_hf, save_hf, to_flat


@dataclass(frozen=True)
class RandomShape:
    """Shape of a base with random weights; its tokenizer is trained on the corpus."""

    vocab_size: int
    hidden_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    mlp_size: int
    max_position: int = 2048


def import_checkpoint(source: str | Path, folder: str | Path) -> DecoderConfig:
    """Write the checkpoint `source` (a GGUF file, or a Hugging Face folder of Llama type) to `folder`.

    Raises:
        UserError: nothing there, or a damaged or foreign checkpoint, with the tensor's name.
    """
    source = Path(source)
    if source.is_dir():
        config, flat = load_hf(source)
        return save_checkpoint(folder, config, flat, Tokenizer.load(source))
    return import_gguf(source, folder)


def import_gguf(source: str | Path, folder: str | Path) -> DecoderConfig:
    """Write a GGUF file's weights (dequantized to float32), tokenizer and chat template to `folder`."""
    if not Path(source).is_file():
        raise UserError(f"{source}: no such checkpoint (`make data` fetches the default one)")
    config, flat, metadata = load_gguf(source)
    return save_checkpoint(folder, config, flat, Tokenizer.from_gguf(metadata, source))


def random_checkpoint(shape: RandomShape, texts: Iterable[str], seed: int, folder: str | Path) -> DecoderConfig:
    """Write a checkpoint of seeded random weights with a byte-level BPE tokenizer trained on `texts`."""
    tokenizer = Tokenizer.train(texts, shape.vocab_size)
    config = DecoderConfig(
        vocab_size=tokenizer.vocab_size,
        hidden_size=shape.hidden_size,
        num_layers=shape.num_layers,
        num_heads=shape.num_heads,
        num_kv_heads=shape.num_kv_heads,
        head_dim=shape.head_dim,
        mlp_size=shape.mlp_size,
        rope_base=10_000.0,
        norm_eps=1e-5,
        max_position=shape.max_position,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    model = Decoder(config, rngs=nnx.Rngs(seed), dtype=jnp.float32)
    return save_checkpoint(folder, config, to_flat(model), tokenizer)


def save_checkpoint(folder: str | Path, config: DecoderConfig, flat: Flat, tokenizer: Tokenizer) -> DecoderConfig:
    """Weights, configuration, tokenizer and generation defaults, complete or not at all."""
    with atomic_path(folder) as made:
        made.mkdir()
        save_hf(made, config, flat)
        tokenizer.save(made)
    return config
