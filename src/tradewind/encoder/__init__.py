"""Texts to vectors: the sentence encoder all-MiniLM-L6-v2 in JAX and in ONNX Runtime, and the folder that holds it.

`load_encoder(folder)` gives what caches and the API use (see `contract.Encoder`). It knows no HTTP and no caches.
"""

from pathlib import Path

from tradewind.encoder.contract import Encoder


def load_encoder(folder: str | Path, threads: int = 2) -> Encoder:
    """The encoder of a folder of the stage `encoder`, in ONNX Runtime. Raises UserError."""
    from tradewind.encoder.ort import OrtEncoder

    return OrtEncoder.load(Path(folder), threads)
