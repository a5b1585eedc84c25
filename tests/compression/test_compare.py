"""The agreement of runtimes: equal integers agree, altered ones are found, differences are those of a hand-made case."""

import os
from dataclasses import replace

import numpy as np
import pytest

from tests.compression.tiny import tiny_variant
from tradewind.compression import compare as module
from tradewind.compression.compare import Comparison, agreement, as_tokens, compare, read_prompts, table
from tradewind.compression.compare_integers import differing, from_gguf, from_onnx
from tradewind.compression.compare_runtimes import (
    LLAMA,
    Missing,
    Setup,
    Text,
    find_llama,
    jax_float32,
    ort_float32,
    ort_served,
)
from tradewind.compression.variant import load_variant
from tradewind.errors import UserError
from tradewind.evaluation.metrics import log_softmax

PROMPTS = [[5, 9, 2, 7, 1], [3, 200, 17]]


@pytest.fixture(scope="module", params=["int8", "int4", "w8a8"])
def setup(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Setup:
    folder = tmp_path_factory.mktemp("compare") / f"base-{request.param}"
    tiny_variant(folder, str(request.param))
    return Setup(folder, load_variant(folder), 64, 1, llama="/no/llama-server")


def test_files_hold_the_same_integers_and_one_changed_code_or_scale_is_named(setup):
    gguf, onnx = from_gguf(setup.folder, setup.manifest), from_onnx(setup.folder, setup.manifest)
    assert differing(gguf, onnx) == []
    os.link(setup.folder / "model.onnx.data", setup.folder / "link")  # as DVC's cache does
    assert differing(gguf, from_onnx(setup.folder, setup.manifest)) == []
    name = "model.layers.1.self_attn.k_proj.weight"
    blocks = onnx[name]
    blocks.codes[3, 5] ^= 1
    assert differing(gguf, onnx) == [name]
    blocks.codes[3, 5] ^= 1
    scales = blocks.scales.copy()
    scales[0, 0] = np.nextafter(scales[0, 0], np.float16(9))
    assert differing(gguf, {**onnx, name: replace(blocks, scales=scales)}) == [name]


def test_float32_products_agree_and_rounded_activations_differ_by_little(setup, monkeypatch):
    monkeypatch.setattr(module, "RUNTIMES", module.RUNTIMES | {"again": jax_float32})
    made = compare(setup, PROMPTS, tokens=6)
    exact, served = made.rows["ort, float32"], made.rows["ort"]
    assert made.rows["again"].max == 0
    assert exact.max < 1e-3 < served.max
    assert (exact.top1, exact.same_answers) == (1, 1)
    assert abs(exact.kl) < 1e-6 < served.kl < 0.1
    assert made.integers == {"ort": 0}
    text = table(made)
    assert "the same codes and scales" in text
    assert "<1e-08" in text
    assert "llama.cpp: /no/llama-server: no such executable" in text
    assert "missing" in made.as_json()["runtimes"]["llama.cpp"]


@pytest.mark.skipif(not LLAMA.is_file(), reason="no .venv-llama: make llama")
@pytest.mark.parametrize("precision", ["int8", "int4"])
def test_llama_cpp_loads_the_gguf_and_says_nearly_the_same(tmp_path, precision):
    """Its activations are in `Q8_0` and its cache in float16, so its distributions are near those of JAX, not equal."""
    folder = tmp_path / f"base-{precision}"
    tiny_variant(folder, precision)
    made = compare(Setup(folder, load_variant(folder), 64, 1, llama=str(LLAMA)), PROMPTS, tokens=6)
    row = made.rows["llama.cpp"]
    assert not isinstance(row, str), row
    assert abs(row.kl) < 1e-3
    assert row.top1 > 0.9


def test_what_sums_to_one_only_nearly_has_the_divergence_of_what_it_stands_for():
    first, second = np.random.default_rng(0).normal(size=(2, 1, 50))
    a, b = (row - np.log(np.exp(row).sum()) for row in (first, first + 0.001 * second))
    exact = float((np.exp(a) * (a - b)).sum())
    assert 0 < exact < 1e-6
    found = agreement([a], [b + 3e-5])  # probabilities that sum to 1.00003
    assert found.kl == pytest.approx(exact, rel=1e-6)


def test_agreement_of_a_case_by_hand():
    uniform, tilted = np.zeros((1, 2), np.float32), np.log(np.array([[3.0, 1.0]], np.float32))
    first = [log_softmax(tilted), log_softmax(tilted)]
    other = [log_softmax(tilted), log_softmax(uniform[:, ::-1] + np.array([[0, 1e-3]], np.float32))]
    found = agreement(first, other)
    assert (found.top1, found.same_answers) == (0.5, 0.5)
    assert found.max == pytest.approx(np.log(0.5 / 0.25), abs=1e-2)
    assert found.kl == pytest.approx((0.75 * np.log(1.5) + 0.25 * np.log(0.5)) / 2, abs=1e-3)


def test_runtimes_are_functions_of_the_variant_alone(setup):
    texts = [Text((5, 9, 2, 7, 1, 3), 4)]
    for runtime in (ort_served, ort_float32):
        (lines,) = runtime(setup, texts)
        assert lines.shape == (2, setup.manifest.decoder.vocab_size)
        np.testing.assert_allclose(np.exp(lines.astype(float)).sum(-1), 1, atol=1e-5)


def test_prompts(tmp_path):
    rows = tmp_path / "p.jsonl"
    rows.write_text('{"prompt": "a"}\n{"messages": [{"role": "user", "content": "b"}]}\n')

    class Codec:
        def chat(self, messages, add_generation_prompt=True):
            return [ord(m["content"]) for m in messages]

    assert as_tokens(read_prompts(rows), Codec()) == [[97], [98]]
    lines = tmp_path / "p.txt"
    lines.write_text("one\n\ntwo\n")
    assert [row["prompt"] for row in read_prompts(lines)] == ["one", "two"]
    rows.write_text('{"prompt": 3}\n')
    with pytest.raises(UserError, match="row 1 has neither"):
        read_prompts(rows)
    lines.write_text("\n")
    with pytest.raises(UserError, match="no prompts"):
        read_prompts(lines)
    with pytest.raises(UserError, match="no such file of prompts"):
        read_prompts(tmp_path / "none")


def test_mistakes(setup, tmp_path, monkeypatch):
    with pytest.raises(UserError, match="exceed 64"):
        compare(setup, [[1] * 60], tokens=8)
    with pytest.raises(UserError, match=r"--max-len must be in 2\.\.128 for base-\w+, not 129"):
        compare(replace(setup, max_len=129), PROMPTS, tokens=2)
    tiny_variant(tmp_path / "base-fp32", "fp32")
    with pytest.raises(UserError, match="no GGUF"):
        compare(Setup(tmp_path / "base-fp32", load_variant(tmp_path / "base-fp32"), 64), PROMPTS, tokens=2)
    monkeypatch.setenv("PATH", "")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(Missing, match="make llama"):
        find_llama(None)


def test_a_missing_runtime_is_a_row():
    made = Comparison("student-int4", 1, 1, {}, [], {"llama.cpp": "no llama.cpp here"})
    assert "llama.cpp: no llama.cpp here" in table(made)
