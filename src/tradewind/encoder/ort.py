"""The encoder in ONNX Runtime, on the CPU, a text at a time: matrix products of few rows and of many sum in another order,
so that a text's vector would differ by rounding with the texts beside it, and a vector from a cache with one computed.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Self

import numpy as np
import onnxruntime as ort

from tradewind.compression.export_onnx import GRAPH_FILE
from tradewind.encoder.contract import Encoder, Tokens, Vectors
from tradewind.encoder.folder import EncoderManifest, load_folder
from tradewind.encoder.text import FILE, EncoderTokenizer
from tradewind.engine.ort import LOAD_ERRORS
from tradewind.errors import UserError

GROUP_TOKENS = 256
"""Of the texts of a group, at most, but for a longer text alone: after each group, others may have their turn."""


class OrtEncoder(Encoder):
    """A text's vector is the same alone and among others."""

    runtime = "ort"

    def __init__(self, session: ort.InferenceSession, manifest: EncoderManifest, tokenizer: EncoderTokenizer) -> None:
        sizes = manifest.encoder.hidden_size, manifest.encoder.max_tokens
        super().__init__(manifest.name, tokenizer, manifest.weights_digest, *sizes)
        self._session = session

    @classmethod
    def load(cls, folder: Path, threads: int = 2) -> Self:
        """Raises UserError for a folder that is no encoder, or is damaged."""
        manifest = load_folder(folder)
        return cls(_session(folder / GRAPH_FILE, threads), manifest, EncoderTokenizer.load(folder / FILE))

    def batches(self, lengths: Sequence[int]) -> Iterator[list[int]]:
        group: list[int] = []
        for place, length in enumerate(lengths):
            if group and sum(lengths[one] for one in group) + length > GROUP_TOKENS:
                yield group
                group = []
            group.append(place)
        if group:
            yield group

    def run(self, texts: Sequence[Tokens]) -> Vectors:
        feeds = ({"input_ids": np.array([tokens], np.int64)} for tokens in texts)
        return np.concatenate([self._session.run(["vectors"], feed)[0] for feed in feeds])


def _session(graph: Path, threads: int) -> ort.InferenceSession:
    """Its threads do not spin: the processor is the engine's while there is nothing to encode."""
    options = ort.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    try:
        return ort.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    except LOAD_ERRORS as error:
        raise UserError(f"{graph}: ONNX Runtime cannot load it: {' '.join(str(error).split())[:300]}") from error
