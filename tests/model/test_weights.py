"""The weight table: round trips are exact, and whatever does not fit is named."""

import json
from pathlib import Path

import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from flax import nnx
from safetensors.numpy import save_file

from tradewind.errors import UserError
from tradewind.model.decoder import Decoder, DecoderConfig
from tradewind.model.weights import (
    Flat,
    load_hf,
    permute_rotary,
    save_hf,
    to_flat,
    to_model,
    unpermute_rotary,
    weight_table,
    weights_digest,
)

Q = "model.layers.1.self_attn.q_proj.weight"


def assert_same(a: Flat, b: Flat) -> None:
    assert a.keys() == b.keys()
    assert all(np.array_equal(a[name], b[name]) and a[name].dtype == b[name].dtype for name in a)


def test_the_table_names_every_weight_once(config: DecoderConfig) -> None:
    paths = nnx.to_flat_state(nnx.state(nnx.eval_shape(lambda: Decoder(config, rngs=nnx.Rngs(0)))))
    table = list(weight_table(config))
    assert sorted(".".join(map(str, path)) for path, _ in paths) == sorted(weight.ours for weight in table)
    for names in ([w.hf for w in table], [w.gguf for w in table]):
        assert len(set(names)) == len(names)
    assert sum(int(np.prod(weight.shape(config))) for weight in table) == config.num_parameters


def test_model_round_trip(config: DecoderConfig, flat: Flat) -> None:
    assert_same(to_flat(to_model(config, flat)), flat)


def test_folder_round_trip(tmp_path: Path, config: DecoderConfig, flat: Flat) -> None:
    save_hf(tmp_path, config, flat)
    read_config, read = load_hf(tmp_path)
    assert read_config == config
    assert_same(read, flat)


def test_the_same_weights_give_the_same_bytes(tmp_path: Path, config: DecoderConfig, flat: Flat) -> None:
    save_hf(tmp_path / "a", config, flat)
    save_hf(tmp_path / "b", config, dict(reversed(flat.items())))
    assert (tmp_path / "a/model.safetensors").read_bytes() == (tmp_path / "b/model.safetensors").read_bytes()


def test_shards_half_precision_and_a_copied_head_are_read(tmp_path: Path, config: DecoderConfig, flat: Flat) -> None:
    save_hf(tmp_path, config, flat)
    (tmp_path / "model.safetensors").unlink()
    names = sorted(flat)
    low = {name: flat[name].astype(ml_dtypes.bfloat16) for name in names}
    save_file({name: low[name] for name in names[:9]}, tmp_path / "model-1.safetensors")
    head = {"lm_head.weight": low["model.embed_tokens.weight"]}
    save_file({name: low[name] for name in names[9:]} | head, tmp_path / "model-2.safetensors")
    _, read = load_hf(tmp_path)
    assert_same(read, {name: low[name].astype(np.float32) for name in names})


def test_low_precision_models_come_back_as_float32(config: DecoderConfig, flat: Flat) -> None:
    read = to_flat(to_model(config, flat, jnp.bfloat16, jnp.bfloat16))
    assert_same(read, {name: array.astype(ml_dtypes.bfloat16).astype(np.float32) for name, array in flat.items()})


def test_wrong_shape_names_tensor_and_both_shapes(config: DecoderConfig, flat: Flat) -> None:
    with pytest.raises(UserError, match=r"q_proj.*\(5, 64\).*\(96, 64\)"):
        to_model(config, flat | {Q: flat[Q][:5]})


def test_missing_and_unused_tensors_are_named(config: DecoderConfig, flat: Flat) -> None:
    with pytest.raises(UserError, match=r"layers.1.self_attn.q_proj.weight' is missing"):
        to_model(config, {name: array for name, array in flat.items() if name != Q})
    with pytest.raises(UserError, match=r"'model.extra' has no place"):
        to_model(config, flat | {"model.extra": flat[Q]})


def test_adapters_must_be_merged_first(config: DecoderConfig, flat: Flat) -> None:
    model = to_model(config, flat)
    model.layers[0].extra = nnx.Param(jnp.zeros(3))
    with pytest.raises(ValueError, match=r"layers.0.extra"):
        to_flat(model)


def test_a_truncated_file_names_the_tensor(tmp_path: Path, config: DecoderConfig, flat: Flat) -> None:
    save_hf(tmp_path, config, flat)
    file = tmp_path / "model.safetensors"
    data = file.read_bytes()
    file.write_bytes(data[:-1])
    with pytest.raises(UserError, match=r"truncated.*tensor 'model"):
        load_hf(tmp_path)
    file.write_bytes(data[:40])
    with pytest.raises(UserError, match="header"):
        load_hf(tmp_path)


def test_a_damaged_file_is_refused(tmp_path: Path, config: DecoderConfig, flat: Flat) -> None:
    broken = flat | {Q: np.full_like(flat[Q], np.nan)}
    save_hf(tmp_path, config, broken)
    with pytest.raises(UserError, match=r"layers.1.self_attn.q_proj.*not finite"):
        load_hf(tmp_path)
    file = tmp_path / "model.safetensors"
    file.write_bytes(file.read_bytes()[:8] + b"x" + file.read_bytes()[9:])
    with pytest.raises(UserError, match="damaged"):
        load_hf(tmp_path)


def test_an_untied_head_is_refused(tmp_path: Path, config: DecoderConfig, flat: Flat) -> None:
    save_hf(tmp_path, config, flat)
    save_file({"lm_head.weight": flat["model.embed_tokens.weight"] + 1}, tmp_path / "more.safetensors")
    with pytest.raises(UserError, match="lm_head"):
        load_hf(tmp_path)


def test_folders_that_are_no_checkpoint(tmp_path: Path, config: DecoderConfig) -> None:
    with pytest.raises(UserError, match=r"config.json"):
        load_hf(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(config.to_hf()))
    with pytest.raises(UserError, match=r"no \.safetensors"):
        load_hf(tmp_path)


def test_rotary_rows_of_gguf() -> None:
    """Halves become pairs: of each head, row i and row i + half stand side by side. And back."""
    rows = np.arange(12).reshape(12, 1) * np.ones((1, 3))
    permuted = permute_rotary(rows, heads=2)
    assert permuted[:, 0].tolist() == [0, 3, 1, 4, 2, 5, 6, 9, 7, 10, 8, 11]
    assert np.array_equal(unpermute_rotary(permuted, heads=2), rows)


def test_digest_names_values_names_and_types(flat: Flat) -> None:
    assert weights_digest(flat) == weights_digest(dict(reversed(flat.items())))
    changed = {name: array.copy() for name, array in flat.items()}
    changed[Q][3, 5] += 1e-3
    renamed = {name.replace("q_proj", "r_proj"): array for name, array in flat.items()}
    halved = {name: array.astype(np.float16) for name, array in flat.items()}
    assert len({weights_digest(x) for x in (flat, changed, renamed, halved)}) == 4
