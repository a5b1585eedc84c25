"""Products with a weight matrix in an ONNX graph, by what the matrix holds.

- float32: `FusedMatMul`.
- Blocks: `MatMulNBits`, whose scales are stored in float16 and widened at load.
- Rows (W8A8): the activations of each token are divided by their largest magnitude / 127 and rounded to int8, multiplied
  in integers (`MatMulInteger`), and the sums are scaled back. A token's result depends on no other token.
  Activations are unsigned with zero point 128, the pair for which ONNX Runtime has fast kernels, which signed
  activations lack. On x86 without VNNI instructions its kernel saturates the sum of two neighbouring products beyond 32767.
"""

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from tradewind.compression.onnx_graph import MICROSOFT, GraphBuilder
from tradewind.compression.quantize import BLOCK, Blocks, Rows, Tensor, pack4
from tradewind.errors import UserError

BITS = (4, 8)
LEVELS = 127
LEAST = 1e-30
"""Scale of a token whose activations are all zero."""


class Linears:
    """The products of one graph. accuracy: of `MatMulNBits`, 4: activations rounded to int8 per block of 32, 0: float32.

    Activations that several matrices multiply are rounded once.
    """

    def __init__(self, graph: GraphBuilder, accuracy: int) -> None:
        self.g, self.accuracy = graph, accuracy
        self._rounded: dict[ir.Value, tuple[ir.Value, ir.Value]] = {}

    def __call__(self, x: ir.Value, weight: Tensor, name: str) -> ir.Value:
        """x times the transposed matrix [out, in]."""
        if isinstance(weight, Rows):
            return self._integers(x, weight, name)
        if isinstance(weight, Blocks):
            codes = self.g.weight(f"{name}.codes", packed(weight).reshape(block_shape(weight)))
            return self.blocks(x, weight, codes, self.g.widened(f"{name}.scales", weight.scales), name)
        matrix = self.g.weight(f"{name}.weight", weight)
        return self.g.node("FusedMatMul", [x, matrix], name, {"transB": 1}, MICROSOFT)[0]

    def blocks(self, x: ir.Value, weight: Blocks, codes: ir.Value, scales: ir.Value, name: str) -> ir.Value:
        out, width = weight.shape
        sizes = {"N": out, "K": width, "bits": weight.bits, "block_size": BLOCK, "accuracy_level": self.accuracy}
        return self.g.node("MatMulNBits", [x, codes, scales], name, sizes, MICROSOFT)[0]

    def _integers(self, x: ir.Value, weight: Rows, name: str) -> ir.Value:
        codes, scales = self._tokens(x)
        matrix = self.g.weight(f"{name}.codes", weight.codes.T)
        zero = self.g.constant("w8a8.zero", np.uint8(128))
        (sums,) = self.g.node("MatMulInteger", [codes, matrix, zero], f"{name}.sums")
        (wide,) = self.g.node("Cast", [sums], f"{name}.wide_sums", {"to": ir.DataType.FLOAT})
        (scaled,) = self.g.node("Mul", [wide, scales], f"{name}.scaled")
        return self.g.node("Mul", [scaled, self.g.widened(f"{name}.scales", weight.scales[:, 0])], name)[0]

    def _tokens(self, x: ir.Value) -> tuple[ir.Value, ir.Value]:
        """Codes plus 128 (uint8) and scales of activations, one scale a token."""
        if x not in self._rounded:
            g, name = self.g, f"{x.name}.w8a8"
            (size,) = g.node("Abs", [x], f"{name}.size")
            last = g.constant("w8a8.last_axis", np.array([-1], np.int64))
            (largest,) = g.node("ReduceMax", [size, last], f"{name}.largest", {"keepdims": 1})
            (scale,) = g.node("Div", [largest, g.constant("w8a8.levels", np.float32(LEVELS))], f"{name}.scale")
            (scale,) = g.node("Max", [scale, g.constant("w8a8.least", np.float32(LEAST))], f"{name}.positive_scale")
            (steps,) = g.node("Div", [x, scale], f"{name}.steps")
            (whole,) = g.node("Round", [steps], f"{name}.whole")
            (shifted,) = g.node("Add", [whole, g.constant("w8a8.shift", np.float32(128))], f"{name}.shifted")
            (codes,) = g.node("Cast", [shifted], f"{name}.codes", {"to": ir.DataType.UINT8})
            self._rounded[x] = codes, scale
        return self._rounded[x]


def packed(weight: Blocks) -> NDArray[np.uint8]:
    """Codes as ONNX Runtime has them: uint8 with zero point 128 (8 bits), or two a byte with zero point 8 (4 bits)."""
    if weight.bits not in BITS:
        raise UserError(f"MatMulNBits runs codes of 4 or 8 bits here, not of {weight.bits}")
    return pack4(weight.codes) if weight.bits == 4 else (weight.codes.view(np.uint8) ^ np.uint8(128))


def block_shape(weight: Blocks) -> tuple[int, int, int]:
    """[out, blocks, bytes of a block]"""
    return len(weight.codes), weight.scales.shape[1], BLOCK * weight.bits // 8
