"""The browser's graphs, run by native ONNX Runtime, against the JAX decoder."""

import numpy as np
import onnx
import onnxruntime as ort
import pytest

from tests.compression.tiny import CONFIG, reference_logits, rules, tiny_flat, tiny_variant
from tradewind.compression.quantize import dequantize, quantize
from tradewind.edge.graph_wasm import wasm_graph
from tradewind.edge.graph_webgpu import webgpu_graph

TOKENS = np.random.default_rng(3).integers(0, CONFIG.vocab_size, 40).tolist()
PARITY = 2e-3
"""Of logits: two runtimes multiply the same numbers in float32, in another order."""


class Row:
    """What decoder_wasm.js does with its graph, in a few lines: a cache with places to spare, hidden from every token."""

    def __init__(self, session: ort.InferenceSession, places: int) -> None:
        self.session, self.length = session, 0
        shape = (1, CONFIG.num_kv_heads, places, CONFIG.head_dim)
        names = [value.name for value in session.get_inputs() if value.name.startswith("past_key_values.")]
        self.cache = {name: np.full(shape, 1e3, np.float32) for name in names}  # to be seen if a place is read in vain

    def feed(self, tokens: list[int]) -> np.ndarray:
        """float32 [len(tokens), vocab]."""
        count, places = len(tokens), next(iter(self.cache.values())).shape[2]
        visible = np.zeros((count, places + count), bool)
        visible[:, : self.length] = True
        visible[:, places:] = np.tri(count, dtype=bool)
        feeds = {"input_ids": np.array([tokens]), "first_position": np.array([self.length]), "visible": visible,
                 "logit_positions": np.arange(count), **self.cache}  # fmt: skip
        names = [value.name for value in self.session.get_outputs()]
        outputs = dict(zip(names, self.session.run(names, feeds), strict=True))
        for name, whole in self.cache.items():
            new = outputs[name.replace("past_key_values", "new")].reshape(count, *whole.shape[1::2])
            whole[0, :, self.length : self.length + count] = new.transpose(1, 0, 2)
        self.length += count
        return outputs["logits"][0]


class GrowingRow:
    """What decoder_webgpu.js does with its graph: what a call gives out is the next call's cache."""

    def __init__(self, session: ort.InferenceSession) -> None:
        self.session, self.length = session, 0
        names = [value.name for value in session.get_inputs() if value.name.startswith("past_key_values.")]
        self.cache = {name: np.empty((1, CONFIG.num_kv_heads, 0, CONFIG.head_dim), np.float32) for name in names}

    def feed(self, tokens: list[int]) -> np.ndarray:
        """float32 [len(tokens), vocab]."""
        self.length += len(tokens)
        feeds = {"input_ids": np.array([tokens]), "last_positions": np.array([self.length - 1], np.int32),
                 "longest": np.array(self.length, np.int32), "logit_positions": np.arange(len(tokens)),
                 **self.cache}  # fmt: skip
        names = [value.name for value in self.session.get_outputs()]
        outputs = dict(zip(names, self.session.run(names, feeds), strict=True))
        self.cache = {name: outputs[name.replace("past_key_values", "present")] for name in self.cache}
        return outputs["logits"][0]


def session(folder, graph: bytes) -> ort.InferenceSession:
    (folder / "browser.onnx").write_bytes(graph)
    return ort.InferenceSession(folder / "browser.onnx", providers=["CPUExecutionProvider"])


def exact(graph: bytes) -> bytes:
    """Products in float32, which the served variants' graphs do not ask for."""
    model = onnx.load_from_string(graph)
    for node in model.graph.node:
        for attribute in node.attribute:
            if attribute.name == "accuracy_level":
                attribute.i = 0
    return model.SerializeToString()


@pytest.mark.parametrize("precision", ["fp32", "int8", "int4"])
def test_logits_equal_the_jax_decoder_however_tokens_are_fed(tmp_path, precision):
    tiny_variant(tmp_path / "v", precision)  # with an int8 cache where it is quantized, as the served ones have
    flat = tiny_flat() if precision == "fp32" else dequantize(quantize(tiny_flat(), rules(precision)))
    theirs = reference_logits(CONFIG, flat, TOKENS)
    folder = tmp_path / "v"
    rows = [
        Row(session(folder, wasm_graph(folder)), places=48),
        GrowingRow(session(folder, exact(webgpu_graph(folder, 40)))),
    ]
    assert np.abs(theirs).max() > 3  # a difference has something to show in
    for row in rows:
        ours = np.concatenate([row.feed(part) for part in (TOKENS[:25], TOKENS[25:38], TOKENS[38:39], TOKENS[39:])])
        np.testing.assert_allclose(ours, theirs, atol=PARITY)


def test_weights_are_read_from_the_variants_own_file(tmp_path):
    """What is added beside it is zero points: the download stays as small as the variant."""
    tiny_variant(tmp_path / "v", "int4")
    graph = wasm_graph(tmp_path / "v")
    assert graph == wasm_graph(tmp_path / "v")
    assert len(graph) < (tmp_path / "v" / "model.onnx.data").stat().st_size
    (tmp_path / "v" / "model.onnx.data").write_bytes(b"")
    (tmp_path / "v" / "browser.onnx").write_bytes(graph)
    with pytest.raises(Exception, match=r"External initializer: .* given file_length"):
        ort.InferenceSession(tmp_path / "v" / "browser.onnx", providers=["CPUExecutionProvider"])
