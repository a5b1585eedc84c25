"""Adapters' files: PEFT's layout, written and read, and what does not fit refused by name."""

import json
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from tests.compression.tiny import CONFIG, tiny_flat
from tests.engine.adapters import merged, tiny_adapter
from tradewind.errors import UserError
from tradewind.model.adapters import CONFIG_FILE, WEIGHTS_FILE, read_adapter, save_adapter, stacked
from tradewind.model.lora import LoRAConfig, adapt, adapted_layers
from tradewind.model.weights import to_model

Q = "base_model.model.model.layers.1.self_attn.q_proj"


def test_the_files_are_those_of_peft(tmp_path: Path) -> None:
    """By PEFT's documented names and shapes: `lora_A` [r, in], `lora_B` [out, r], delta W = alpha / r B A."""
    folder = tiny_adapter(tmp_path / "a", 1, rank=4, modules=("q", "down"), base="0123")
    tensors, config = load_file(folder / WEIGHTS_FILE), json.loads((folder / CONFIG_FILE).read_text())
    assert {name.split(".")[-3] for name in tensors} == {"q_proj", "down_proj"}
    assert tensors[f"{Q}.lora_A.weight"].shape == (4, 64)
    assert tensors[f"{Q}.lora_B.weight"].shape == (64, 4)
    assert (config["peft_type"], config["r"], config["lora_alpha"]) == ("LORA", 4, 8.0)
    assert config["target_modules"] == ["down_proj", "q_proj"]
    with safe_open(folder / WEIGHTS_FILE, "numpy") as file:
        assert file.metadata() == {"format": "pt", "base_digest": "0123"}
    delta = 2 * tensors[f"{Q}.lora_B.weight"] @ tensors[f"{Q}.lora_A.weight"]
    name = "model.layers.1.self_attn.q_proj.weight"
    np.testing.assert_allclose(merged(folder)[name] - tiny_flat()[name], delta, atol=1e-5)


def test_reading_is_the_inverse_of_writing(tmp_path: Path) -> None:
    model = to_model(CONFIG, tiny_flat())
    adapt(model, LoRAConfig(3, 1.5), nnx.Rngs(0))
    for module in adapted_layers(model).values():
        module.b[...] = jnp.ones(module.b.shape)
    save_adapter(model, tmp_path / "a")
    read = read_adapter(tmp_path / "a", CONFIG)
    assert (read.rank, read.base, set(read.pairs)) == (3, None, set(adapted_layers(model)))
    for key, module in adapted_layers(model).items():
        np.testing.assert_array_equal(read.pairs[key][0], module.a[...])
        np.testing.assert_array_equal(read.pairs[key][1], np.full(module.b.shape, 0.5, np.float32))


def test_rank_stabilized_scale(tmp_path: Path) -> None:
    """rsLoRA (arXiv:2312.03732): alpha / sqrt(rank)."""
    folder = tiny_adapter(tmp_path / "a", 1, rank=4)
    plain = read_adapter(folder, CONFIG).pairs[0, "q"][1]
    edit(folder, use_rslora=True)
    np.testing.assert_allclose(read_adapter(folder, CONFIG).pairs[0, "q"][1], 2 * plain)


def test_content_decides_the_digest(tmp_path: Path) -> None:
    one, same, other = (tiny_adapter(tmp_path / str(place), seed) for place, seed in enumerate((1, 1, 2)))
    before = read_adapter(one, CONFIG).digest
    assert before == read_adapter(same, CONFIG).digest != read_adapter(other, CONFIG).digest
    edit(one, lora_alpha=3.0)
    assert read_adapter(one, CONFIG).digest != before


def test_a_stack_is_the_sum_of_its_products(tmp_path: Path) -> None:
    """For joined parts: x A^T B over one adapter's lines is what each part's own product gives, side by side."""
    adapters = [read_adapter(tiny_adapter(tmp_path / str(seed), seed, rank), CONFIG) for seed, rank in ((1, 2), (2, 3))]
    a, b = stacked(adapters, 1, ("q", "k", "v"), CONFIG, room=2)
    assert (a.shape, b.shape) == ((21, 64), (21, 128))
    x = np.random.default_rng(0).standard_normal((5, 64)).astype(np.float32)
    for adapter, lines in ((adapters[0], slice(0, 6)), (adapters[1], slice(6, 15))):
        pairs = [adapter.pairs[1, part] for part in "qkv"]
        want = np.concatenate([x @ one.T @ two for one, two in pairs], axis=1)
        np.testing.assert_allclose(x @ a[lines].T @ b[lines], want, rtol=1e-4, atol=1e-4)
    assert not a[15:].any()


def edit(folder: Path, **keys: object) -> None:
    path = folder / CONFIG_FILE
    path.write_text(json.dumps(json.loads(path.read_text()) | keys))


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"peft_type": "IA3"}, "peft_type is 'IA3'"),
        ({"use_dora": True}, "use_dora is True"),
        ({"bias": "all"}, "bias is 'all'"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save"),
        ({"rank_pattern": {"q_proj": 2}}, "rank_pattern"),
        ({"r": 0}, "r is 0"),
        ({"r": 8}, r"layer 0 mlp.down_proj.lora_A has shape \(4, 96\), the model and rank 8 need \(8, 96\)"),
        ({"lora_alpha": None}, "lora_alpha is None"),
    ],
)
def test_configurations_that_do_not_fit(tmp_path: Path, keys: dict[str, object], said: str) -> None:
    folder = tiny_adapter(tmp_path / "a", 1)
    edit(folder, **keys)
    with pytest.raises(UserError, match=said):
        read_adapter(folder, CONFIG)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({f"{Q}.lora_A.weight": None}, "q_proj has one of lora_A and lora_B"),
        ({f"{Q}.lora_B.weight": np.zeros((65, 4), np.float32)}, r"lora_B has shape \(65, 4\)"),
        ({f"{Q}.lora_B.weight": np.full((64, 4), np.nan, np.float32)}, "not finite"),
        ({f"{Q.replace('.1.', '.9.')}.lora_{half}.weight": np.zeros((4, 64), np.float32) for half in "AB"}, "layer 9"),
        ({"base_model.model.lm_head.lora_A.weight": np.zeros((4, 64), np.float32)}, "lm_head.*no place in the model"),
    ],
)
def test_tensors_that_do_not_fit(tmp_path: Path, change: dict[str, np.ndarray | None], said: str) -> None:
    folder = tiny_adapter(tmp_path / "a", 1)
    tensors = {**load_file(folder / WEIGHTS_FILE), **change}
    save_file({name: array for name, array in tensors.items() if array is not None}, folder / WEIGHTS_FILE)
    with pytest.raises(UserError, match=said):
        read_adapter(folder, CONFIG)


def test_folders_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such file"):
        read_adapter(tmp_path, CONFIG)
    folder = tiny_adapter(tmp_path / "a", 1)
    (folder / WEIGHTS_FILE).write_bytes(b"not this")
    with pytest.raises(UserError, match="damaged"):
        read_adapter(folder, CONFIG)
    with pytest.raises(UserError, match="0 adapters"):
        save_adapter(to_model(CONFIG, tiny_flat()), tmp_path / "b")
