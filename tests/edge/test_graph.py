"""The browser's graph, run by native ONNX Runtime, against the JAX decoder."""

import numpy as np
import onnxruntime as ort
import pytest

from tests.compression.tiny import CONFIG, reference_logits, rules, tiny_flat, tiny_variant
from tradewind.compression.quantize import dequantize, quantize
from tradewind.edge.graph import browser_graph

TOKENS = np.random.default_rng(3).integers(0, CONFIG.vocab_size, 40).tolist()
PARITY = 2e-3
"""Of logits: two runtimes multiply the same numbers in float32, in another order."""


class Row:
    """What decoder.js does with the graph, in a few lines: a cache with places to spare, hidden from every token."""

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


def session(folder) -> ort.InferenceSession:
    (folder / "browser.onnx").write_bytes(browser_graph(folder))
    return ort.InferenceSession(folder / "browser.onnx", providers=["CPUExecutionProvider"])


@pytest.mark.parametrize("precision", ["fp32", "int8", "int4"])
def test_logits_equal_the_jax_decoder_however_tokens_are_fed(tmp_path, precision):
    tiny_variant(tmp_path / "v", precision)  # with an int8 cache where it is quantized, as the served ones have
    flat = tiny_flat() if precision == "fp32" else dequantize(quantize(tiny_flat(), rules(precision)))
    theirs = reference_logits(CONFIG, flat, TOKENS)
    row = Row(session(tmp_path / "v"), places=48)
    ours = np.concatenate(
        [row.feed(TOKENS[:25]), row.feed(TOKENS[25:38]), row.feed(TOKENS[38:39]), row.feed(TOKENS[39:])]
    )
    assert np.abs(theirs).max() > 3  # a difference has something to show in
    np.testing.assert_allclose(ours, theirs, atol=PARITY)


def test_weights_are_read_from_the_variants_own_file(tmp_path):
    """What is added beside it is zero points: the download stays as small as the variant."""
    tiny_variant(tmp_path / "v", "int4")
    graph = browser_graph(tmp_path / "v")
    assert graph == browser_graph(tmp_path / "v")
    assert len(graph) < (tmp_path / "v" / "model.onnx.data").stat().st_size
    (tmp_path / "v" / "model.onnx.data").write_bytes(b"")
    (tmp_path / "v" / "browser.onnx").write_bytes(graph)
    with pytest.raises(Exception, match=r"External initializer: .* given file_length"):
        ort.InferenceSession(tmp_path / "v" / "browser.onnx", providers=["CPUExecutionProvider"])
