"""The base stage's work: from GGUF, from a Hugging Face folder, and from nothing."""

from pathlib import Path

import numpy as np
import pytest

from tradewind.errors import UserError
from tradewind.files import sha256_file
from tradewind.model.base import RandomShape, import_checkpoint, random_checkpoint, save_checkpoint
from tradewind.model.decoder import DecoderConfig
from tradewind.model.gguf import save_gguf
from tradewind.model.tokenizer import Tokenizer
from tradewind.model.weights import Flat, load_hf

SHAPE = RandomShape(vocab_size=300, hidden_size=32, num_layers=2, num_heads=4, num_kv_heads=2, head_dim=8, mlp_size=48)


def contents(folder: Path) -> dict[str, str]:
    return {path.name: sha256_file(path) for path in folder.iterdir()}


def test_gguf_and_folder_give_the_same(tmp_path: Path, config: DecoderConfig, flat: Flat, tokenizer: Tokenizer) -> None:
    save_gguf(tmp_path / "m.gguf", config, flat, tokenizer)
    assert import_checkpoint(tmp_path / "m.gguf", tmp_path / "a") == config
    assert import_checkpoint(tmp_path / "a", tmp_path / "b") == config
    assert contents(tmp_path / "a") == contents(tmp_path / "b")
    read = load_hf(tmp_path / "a")[1]
    assert all(np.array_equal(read[name], flat[name]) for name in flat)


def test_random_weights_are_seeded(tmp_path: Path) -> None:
    texts = ["the array is returned", "a copy of the array"] * 9
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        random_checkpoint(SHAPE, texts, seed, tmp_path / name)
    a, b, c = (contents(tmp_path / name) for name in "abc")
    assert a == b
    assert a["tokenizer.json"] == c["tokenizer.json"]
    assert a["model.safetensors"] != c["model.safetensors"]
    config, _ = load_hf(tmp_path / "a")
    assert config.vocab_size == Tokenizer.load(tmp_path / "a").vocab_size


def test_transformers_reads_the_configuration(tmp_path: Path) -> None:
    from transformers import AutoConfig

    random_checkpoint(SHAPE, ["x"], 0, tmp_path / "a")
    theirs = AutoConfig.from_pretrained(tmp_path / "a")
    assert (theirs.model_type, theirs.num_key_value_heads, theirs.head_dim) == ("llama", 2, 8)
    assert theirs.rope_parameters["rope_theta"] == 10_000.0


def test_what_is_missing_or_does_not_fit(
    tmp_path: Path, config: DecoderConfig, flat: Flat, tokenizer: Tokenizer
) -> None:
    with pytest.raises(UserError, match=r"none.gguf"):
        import_checkpoint(tmp_path / "none.gguf", tmp_path / "a")
    short = {name: array for name, array in flat.items() if "norm" not in name}
    with pytest.raises(UserError, match="is missing"):
        save_checkpoint(tmp_path / "a", config, short, tokenizer)
    assert not (tmp_path / "a").exists()
