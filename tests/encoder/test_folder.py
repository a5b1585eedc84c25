import json
import shutil

import pytest

from tests.encoder.conftest import SHAPE
from tradewind.encoder import load_encoder
from tradewind.encoder.folder import random_encoder, read_published, write_folder
from tradewind.errors import UserError
from tradewind.files import sha256_file, write_json
from tradewind.model.weights import write_safetensors


def test_the_same_input_gives_the_same_bytes(folders, tmp_path) -> None:
    for precision, first in folders.items():
        write_folder(tmp_path / precision, "tiny", *random_encoder(SHAPE, seed=0), precision)
        second = {path.name: sha256_file(path) for path in (tmp_path / precision).iterdir()}
        assert second == {path.name: sha256_file(path) for path in first.iterdir()}


def test_a_damaged_folder_is_refused_by_name(folders, tmp_path) -> None:
    folder = tmp_path / "encoder"
    shutil.copytree(folders["int8"], folder)
    data = bytearray((folder / "model.onnx.data").read_bytes())
    data[100] ^= 1
    (folder / "model.onnx.data").write_bytes(data)
    with pytest.raises(UserError, match=r"model\.onnx\.data: missing, or not what the manifest says"):
        load_encoder(folder)
    with pytest.raises(UserError, match=r"manifest\.json: no such file"):
        load_encoder(tmp_path / "nothing")


@pytest.mark.parametrize("change", [{"format": 2}, {"more": 1}])
def test_a_manifest_of_another_kind_is_refused(folders, tmp_path, change) -> None:
    folder = tmp_path / "encoder"
    shutil.copytree(folders["int8"], folder)
    stored = json.loads((folder / "manifest.json").read_text())
    write_json(folder / "manifest.json", {**stored, **change})
    with pytest.raises(UserError, match=r"manifest\.json"):
        load_encoder(folder)


def test_a_published_folder_is_read_whole_or_refused(tmp_path) -> None:
    config, flat, tokenizer = random_encoder(SHAPE, seed=3)
    hf = {
        "model_type": "bert", "hidden_act": "gelu", "vocab_size": config.vocab_size, "hidden_size": 64,
        "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 128, "max_position_embeddings": 512,
        "type_vocab_size": 2, "layer_norm_eps": 1e-12,
    }  # fmt: skip
    write_json(tmp_path / "config.json", hf)
    write_json(tmp_path / "sentence_bert_config.json", {"max_seq_length": 256})
    write_json(tmp_path / "1_Pooling" / "config.json", {"pooling_mode_mean_tokens": True})
    write_safetensors(tmp_path / "model.safetensors", flat | {"pooler.dense.bias": flat["embeddings.LayerNorm.bias"]})
    tokenizer.save(tmp_path)
    read, weights, _ = read_published(tmp_path)
    assert read == config and weights.keys() == flat.keys()
    write_json(tmp_path / "1_Pooling" / "config.json", {"pooling_mode_cls_token": True})
    with pytest.raises(UserError, match="pooling by pooling_mode_cls_token, only the mean"):
        read_published(tmp_path)


def test_an_unknown_precision_is_named(tmp_path) -> None:
    with pytest.raises(UserError, match=r"unknown precision 'int4'.*fp32, int8"):
        write_folder(tmp_path / "x", "tiny", *random_encoder(SHAPE, seed=0), "int4")
    assert not (tmp_path / "x").exists()
