"""The lowered decode step against the decoder, and the `.tflite` against the GGUF where LiteRT's environment is."""

import os
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from tests.compression.tiny import CONFIG, reference_logits, tiny_flat, tiny_variant
from tradewind.compression import export_litert as module
from tradewind.compression.compare_integers import differing, from_gguf
from tradewind.compression.export_litert import benchmark, export_litert, integers, logits, lowered, step
from tradewind.compression.variant import load_variant
from tradewind.errors import UserError
from tradewind.model.gguf import load_gguf

PYTHON = Path(os.environ.get("LITERT_PYTHON", ".venv-litert/bin/python"))
TOKENS = [5, 9, 2, 7, 1, 200, 3]


def test_the_step_is_the_decoder():
    weights = {name: jnp.asarray(array) for name, array in tiny_flat().items()}
    cache = [jnp.zeros((1, 16, CONFIG.num_kv_heads, CONFIG.head_dim))] * (2 * CONFIG.num_layers)
    lines = []
    for place, token in enumerate(TOKENS):
        line, *cache = step(CONFIG, weights, jnp.asarray(token), jnp.asarray(place), *cache)
        lines.append(np.asarray(line)[0, 0])
    np.testing.assert_allclose(np.stack(lines), reference_logits(CONFIG, tiny_flat(), TOKENS), atol=1e-4)


def test_weights_are_arguments_so_that_the_text_stays_small():
    text = lowered(CONFIG, 16)
    assert len(text) < 200_000
    assert "tensor<288x64xf32>" in text.split("->")[0]


def test_mistakes(tmp_path):
    tiny_variant(tmp_path / "base-fp32", "fp32")
    tiny_variant(tmp_path / "base-int8", "int8")
    with pytest.raises(UserError, match="base-fp32 has none"):
        export_litert(tmp_path / "base-fp32", tmp_path / "m.tflite", 16, PYTHON)
    with pytest.raises(UserError, match="make litert"):
        export_litert(tmp_path / "base-int8", tmp_path / "m.tflite", 16, Path("/no/python"))
    (tmp_path / "m.tflite").write_bytes(b"old")
    with pytest.raises(UserError, match="no Python with LiteRT"):
        export_litert(tmp_path / "base-int8", tmp_path / "m.tflite", 16, Path("/bin/true"))
    assert (tmp_path / "m.tflite").read_bytes() == b"old"


def test_the_operator_that_litert_lacks_is_named():
    said = """loc("-":3:10): error: failed to legalize operation 'stablehlo.custom_call' that was explicitly marked illegal
<unknown>:0: note: loc("-":3:10): called from
"""
    fault = "failed to legalize operation 'stablehlo.custom_call' that was explicitly marked illegal"
    assert module._fault(said) == fault
    assert module._fault("Traceback\nValueError: no model") == "ValueError: no model"


@pytest.mark.skipif(not PYTHON.is_file(), reason="no .venv-litert: make litert")
@pytest.mark.parametrize("precision", ["int8", "int4"])
def test_a_tflite_file_holds_the_integers_and_gives_the_logits_of_the_gguf(tmp_path, precision):
    folder, model = tmp_path / f"base-{precision}", tmp_path / "m.tflite"
    tiny_variant(folder, precision)
    export_litert(folder, model, 16, PYTHON)
    assert differing(from_gguf(folder, load_variant(folder)), integers(model, PYTHON)) == []
    _, flat, _ = load_gguf(folder / "model.gguf")
    (lines,) = logits(model, [(TOKENS, 3)], 1, PYTHON)
    np.testing.assert_allclose(lines, reference_logits(CONFIG, flat, TOKENS)[2:-1], atol=1e-3)
    found = benchmark(model, 3, 1, PYTHON)
    assert found["bytes"] == model.stat().st_size
    assert found["decode_tokens_per_s"] > 0
