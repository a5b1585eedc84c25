"""GGUF in and out: exact round trips, blocks kept as given, damage named."""

from pathlib import Path

import gguf
import numpy as np
import pytest

from tradewind.errors import UserError
from tradewind.model.decoder import DecoderConfig
from tradewind.model.gguf import QuantizedTensor, load_gguf, save_gguf
from tradewind.model.tokenizer import Tokenizer
from tradewind.model.weights import Flat

Q = "model.layers.1.self_attn.q_proj.weight"


@pytest.fixture(scope="module")
def sized(flat: Flat, config: DecoderConfig, tokenizer: Tokenizer) -> Flat:
    """Weights for the tokenizer's vocabulary, which a GGUF file must share."""
    assert tokenizer.vocab_size == config.vocab_size
    return flat


def quantized(flat: Flat, kind: str) -> dict[str, np.ndarray | QuantizedTensor]:
    def one(array: np.ndarray) -> np.ndarray | QuantizedTensor:
        if array.ndim == 1:
            return array
        blocks = gguf.quantize(array, gguf.GGMLQuantizationType[kind])
        return QuantizedTensor(blocks, kind, array.shape)  # type: ignore[arg-type]

    return {name: one(array) for name, array in flat.items()}


def test_float32_round_trip(tmp_path: Path, config: DecoderConfig, sized: Flat, tokenizer: Tokenizer) -> None:
    save_gguf(tmp_path / "m.gguf", config, sized, tokenizer, {"general.name": "tiny"})
    read_config, flat, metadata = load_gguf(tmp_path / "m.gguf")
    assert read_config == config
    assert metadata["general.name"] == "tiny"
    assert flat.keys() == sized.keys()
    assert all(np.array_equal(flat[name], sized[name]) for name in sized)


@pytest.mark.parametrize("kind", ["Q8_0", "Q4_0", "Q4_1", "F16"])
def test_blocks_round_trip(tmp_path: Path, config: DecoderConfig, sized: Flat, tokenizer: Tokenizer, kind: str) -> None:
    """Blocks come back as the gguf package decodes them, rows of q and k in Hugging Face's order."""
    half = {name: array.astype(np.float16) for name, array in sized.items()}
    tensors = half if kind == "F16" else quantized(sized, kind)
    save_gguf(tmp_path / "m.gguf", config, tensors, tokenizer)
    _, flat, metadata = load_gguf(tmp_path / "m.gguf")
    for name, tensor in tensors.items():
        if isinstance(tensor, QuantizedTensor):
            want = gguf.dequantize(tensor.data, gguf.GGMLQuantizationType[kind])
        else:
            want = tensor.astype(np.float32)
        assert np.array_equal(flat[name], want), name
    assert metadata["general.file_type"] == {"F16": 1, "Q4_0": 2, "Q4_1": 3, "Q8_0": 7}[kind]


def test_names_and_rows_are_those_of_llama_cpp(
    tmp_path: Path, config: DecoderConfig, sized: Flat, tokenizer: Tokenizer
) -> None:
    """Against the gguf package's own table of names, and the permutation of llama.cpp's converter."""
    save_gguf(tmp_path / "m.gguf", config, sized, tokenizer)
    tensors = {tensor.name: tensor.data for tensor in gguf.GGUFReader(tmp_path / "m.gguf").tensors}
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, config.num_layers)
    for name, array in sized.items():
        stored = tensors.pop(names.get_name(name, try_suffixes=(".weight",)))
        if "q_proj" in name or "k_proj" in name:
            heads = config.num_heads if "q_proj" in name else config.num_kv_heads
            array = array.reshape(heads, 2, 8, 64).swapaxes(1, 2).reshape(array.shape)
        assert np.array_equal(stored, array), name
    assert not tensors


def test_tokenizer_round_trip(tmp_path: Path, config: DecoderConfig, sized: Flat, tokenizer: Tokenizer) -> None:
    save_gguf(tmp_path / "m.gguf", config, sized, tokenizer)
    read = Tokenizer.from_gguf(load_gguf(tmp_path / "m.gguf")[2])
    assert read.tokens == tokenizer.tokens
    assert read.merges == tokenizer.merges
    assert read.special_ids == tokenizer.special_ids
    assert read.chat_template == tokenizer.chat_template
    assert read.roles == tokenizer.roles
    text = "the array, 12 values\n<|im_end|> \u00e9\U0001f642"
    assert read.encode(text) == tokenizer.encode(text)


def test_the_same_weights_give_the_same_bytes(
    tmp_path: Path, config: DecoderConfig, sized: Flat, tokenizer: Tokenizer
) -> None:
    for name in ("a", "b"):
        save_gguf(tmp_path / name, config, sized, tokenizer)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_a_truncated_file_names_the_tensor(
    tmp_path: Path, config: DecoderConfig, sized: Flat, tokenizer: Tokenizer
) -> None:
    path = tmp_path / "m.gguf"
    save_gguf(path, config, sized, tokenizer)
    data = path.read_bytes()
    path.write_bytes(data[: len(data) - 5000])
    with pytest.raises(UserError, match=r"truncated.*'blk.2.ffn_(down|up|gate).weight'"):
        load_gguf(path)
    for size in (0, 3, 100, 3000):
        path.write_bytes(data[:size])
        with pytest.raises(UserError, match="GGUF header"):
            load_gguf(path)
    assert not list(tmp_path.glob(".*"))


def test_other_damage_is_named(tmp_path: Path, config: DecoderConfig, sized: Flat, tokenizer: Tokenizer) -> None:
    path = tmp_path / "m.gguf"
    broken = sized | {Q: np.full_like(sized[Q], np.inf)}
    save_gguf(path, config, broken, tokenizer)
    with pytest.raises(UserError, match=r"'blk.1.attn_q.weight'.*not finite"):
        load_gguf(path)
    path.write_bytes(b"PK" + path.read_bytes()[2:])
    with pytest.raises(UserError, match="GGUF header"):
        load_gguf(path)
    with pytest.raises(UserError, match="no such file"):
        load_gguf(tmp_path / "none.gguf")


def test_shapes_are_held_against_the_metadata(
    tmp_path: Path, config: DecoderConfig, sized: Flat, tokenizer: Tokenizer
) -> None:
    with pytest.raises(UserError, match=r"q_proj.*\(95, 64\).*\(96, 64\)"):
        save_gguf(tmp_path / "m.gguf", config, sized | {Q: sized[Q][:95]}, tokenizer)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("architecture", "keys", "words"),
    [("gpt2", {}, "architecture 'gpt2'"), ("llama", {}, r"'llama.embedding_length' is missing|llama\..* is missing")],
)
def test_foreign_files_are_refused(tmp_path: Path, architecture: str, keys: dict[str, int], words: str) -> None:
    writer = gguf.GGUFWriter(tmp_path / "m.gguf", architecture)
    writer.add_tensor("x", np.zeros(4, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with pytest.raises(UserError, match=words):
        load_gguf(tmp_path / "m.gguf")
