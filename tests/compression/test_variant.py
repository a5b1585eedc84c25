"""A variant folder is complete, says what it is, and is refused where a file is not what the manifest says."""

from dataclasses import asdict, replace
from pathlib import Path

import pytest

from tests.compression.tiny import CONFIG, tiny_flat, tiny_scales, tiny_tokenizer, tiny_variant
from tradewind.compression.export import tensors_digest
from tradewind.compression.variant import load_variant, split_name, trained_on
from tradewind.errors import UserError
from tradewind.files import read_json, write_json
from tradewind.model.tokenizer import Tokenizer
from tradewind.model.weights import weights_digest


@pytest.fixture
def folder(tmp_path) -> Path:
    tiny_variant(tmp_path / "base-int8", "int8")
    return tmp_path / "base-int8"


def test_manifest_says_what_the_files_are(folder):
    manifest = load_variant(folder)
    assert (manifest.name, manifest.model, manifest.precision) == ("base-int8", "base", "int8")
    assert manifest.parent == "base-fp32"
    assert manifest.decoder == CONFIG
    assert manifest.parameters == sum(array.size for array in tiny_flat().values())
    assert manifest.bytes == (folder / "model.onnx.data").stat().st_size
    assert manifest.files == {
        "ort": ["model.onnx", "model.onnx.data"],
        "gguf": ["model.gguf"],
        "jax": ["model.gguf", "kv_scales.safetensors"],
    }
    assert manifest.tokenizer_digest == Tokenizer.load(folder).digest == tiny_tokenizer().digest
    assert manifest.eos_token_ids == tiny_tokenizer().eos_token_ids
    assert set(manifest.digests) | {"manifest.json"} == {path.name for path in folder.iterdir()}


def test_an_adapter_may_come_from_the_float_weights_but_not_where_awq_moved_scales(tmp_path):
    parent, own = tiny_variant(tmp_path / "base-fp32", "fp32"), tiny_variant(tmp_path / "base-int8", "int8")
    assert trained_on(tmp_path / "base-int8", own) == {own.weights_digest, parent.weights_digest}
    moved = replace(own, rules={"method": "awq"})
    assert trained_on(tmp_path / "base-int8", moved) == {own.weights_digest}


def test_float_variants_have_no_parent_and_no_gguf(tmp_path):
    manifest = tiny_variant(tmp_path / "v", "fp32")
    assert manifest.parent is None
    assert manifest.files == {
        "ort": ["model.onnx", "model.safetensors"],
        "jax": ["model.safetensors"],
    }
    assert manifest.weights_digest == weights_digest(tiny_flat())


def test_digests_tell_weights_apart(tmp_path):
    digests = {tiny_variant(tmp_path / p, p).weights_digest for p in ("fp32", "int8", "int4")}
    digests.add(tiny_variant(tmp_path / "other", "int8", seed=1).weights_digest)
    assert len(digests) == 4
    assert tensors_digest(tiny_flat(), tiny_scales()) != tensors_digest(tiny_flat(), tiny_scales(seed=1))
    assert tensors_digest(tiny_flat()) == tensors_digest(dict(reversed(tiny_flat().items())))


def test_two_exports_are_the_same_to_the_byte(folder, tmp_path):
    tiny_variant(tmp_path / "again", "int8")
    assert read_json(folder / "manifest.json") == read_json(tmp_path / "again" / "manifest.json")


@pytest.mark.parametrize(
    "name", ["model.onnx.data", "model.onnx", "model.gguf", "tokenizer.json", "chat_template.jinja"]
)
def test_missing_short_and_altered_files_are_named(folder, name):
    whole = (folder / name).read_bytes()
    altered = bytes([whole[0] ^ 1]) + whole[1:]
    (folder / name).unlink()
    with pytest.raises(UserError, match=f"{name}: missing"):
        load_variant(folder)
    (folder / name).write_bytes(whole[:-1])
    with pytest.raises(UserError, match=f"{name}: {len(whole) - 1} bytes where the manifest says {len(whole)}"):
        load_variant(folder)
    (folder / name).write_bytes(altered)
    with pytest.raises(UserError, match=f"{name}: its content"):
        load_variant(folder)
    load_variant(folder, verify=False)


def test_manifests_that_are_none(folder, tmp_path):
    with pytest.raises(UserError, match=r"manifest\.json: no such file"):
        load_variant(tmp_path / "nowhere")
    stored = asdict(load_variant(folder))
    for change, message in (
        ({"format": 2}, "not a manifest of format 1"),
        ({"colour": "blue"}, "unknown key 'colour'"),
    ):
        write_json(folder / "manifest.json", stored | change)
        with pytest.raises(UserError, match=message):
            load_variant(folder)
    del stored["bytes"]
    write_json(folder / "manifest.json", stored)
    with pytest.raises(UserError, match="missing key 'bytes'"):
        load_variant(folder)


@pytest.mark.parametrize("name", ["", "teacher", "teacher-int3", "Teacher-int8", "teacher-int8-", "teacher-qat"])
def test_unknown_names_give_the_choices(name):
    with pytest.raises(UserError, match="precisions: fp32, int8, w8a8, mixed, int4"):
        split_name(name)


def test_a_name_is_a_model_and_a_recipe():
    assert split_name("student-int8") == ("student", "int8")
    assert split_name("wide_half-int4-qat") == ("wide_half", "int4-qat")
