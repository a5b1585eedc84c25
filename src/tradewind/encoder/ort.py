"""The encoder in ONNX Runtime, on the CPU: texts of one length run together, unpadded (see export_onnx.py)."""

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

BATCH_TOKENS = 1024
"""Tokens that run together at most: beyond this, nothing is gained and others wait."""


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
        by_length: dict[int, list[int]] = {}
        for place, length in enumerate(lengths):
            by_length.setdefault(length, []).append(place)
        for length, places in by_length.items():
            count = max(1, BATCH_TOKENS // max(1, length))
            for start in range(0, len(places), count):
                yield places[start : start + count]

    def run(self, texts: Sequence[Tokens]) -> Vectors:
        vectors: Vectors = self._session.run(["vectors"], {"input_ids": np.array(texts, np.int64)})[0]
        return vectors


def _session(graph: Path, threads: int) -> ort.InferenceSession:
    """Its threads do not spin: the processor is the engine's while there is nothing to encode."""
    options = ort.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    try:
        return ort.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    except LOAD_ERRORS as error:
        raise UserError(f"{graph}: ONNX Runtime cannot load it: {' '.join(str(error).split())[:300]}") from error
