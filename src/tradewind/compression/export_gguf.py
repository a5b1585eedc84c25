"""GGUF files from the same codes: int8 as `Q8_0`, int4 as `Q4_0`, nothing requantized. W8A8 is `Q8_0` whose scale
is the same in every block of a row.

A block of 32 weights is its float16 scale followed by the codes: 32 int8 in `Q8_0`; in `Q4_0` 16 bytes, plus 8 each,
weight i in the low half of byte i and weight i + 16 in its high half. Names, metadata and the order of rotary rows are
the business of `tradewind.model.gguf`. Layouts: `block_q8_0` and `block_q4_0` of ggml-common.h.
"""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tradewind.compression.quantize import BLOCK, Blocks, Tensor
from tradewind.errors import UserError
from tradewind.model.decoder import DecoderConfig
from tradewind.model.gguf import QuantizedTensor, save_gguf
from tradewind.model.tokenizer import Tokenizer

GGUF_FILE = "model.gguf"
TYPES = {8: "Q8_0", 4: "Q4_0"}
"""Bits of a code -> GGML tensor type."""


def export_gguf(
    folder: Path,
    config: DecoderConfig,
    tensors: Mapping[str, Tensor],
    tokenizer: Tokenizer,
    metadata: Mapping[str, str],
) -> list[str]:
    """Write `model.gguf` into `folder`; its name. `metadata`: string keys such as `general.name`."""
    folder.mkdir(parents=True, exist_ok=True)
    stored = {name: gguf_blocks(t) if isinstance(t, Blocks) else t for name, t in tensors.items()}
    save_gguf(folder / GGUF_FILE, config, stored, tokenizer, metadata)
    return [GGUF_FILE]


def gguf_blocks(weight: Blocks) -> QuantizedTensor:
    """A quantized matrix in GGUF's bytes, rows in the order of `weight`. Raises UserError for codes that GGUF lacks."""
    if weight.bits not in TYPES:
        raise UserError(f"GGUF has no type for codes of {weight.bits} bits (choices: {', '.join(map(str, TYPES))})")
    out, width = weight.shape
    codes = weight.codes.reshape(out, width // BLOCK, BLOCK)
    each = np.broadcast_to(weight.scales, (out, width // BLOCK))
    scales = np.ascontiguousarray(each[..., None]).view(np.uint8)
    body = codes.view(np.uint8) if weight.bits == 8 else _halves(codes)
    data = np.concatenate([scales, body], axis=-1).reshape(out, -1)
    return QuantizedTensor(data, TYPES[weight.bits], (out, width))


def _halves(codes: NDArray[np.int8]) -> NDArray[np.uint8]:
    unsigned = (codes + np.int8(8)).astype(np.uint8)
    return unsigned[..., : BLOCK // 2] | (unsigned[..., BLOCK // 2 :] << np.uint8(4))
