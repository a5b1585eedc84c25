"""Write the sentence encoder as an ONNX graph for ONNX Runtime, in float32 or with int8 weights.

Input `input_ids` int64 [B, T]: texts of one length, so that there is neither padding nor a mask.
Output `vectors` float32 [B, D], each of length 1.

int8: matrices and the table of words in blocks of 32 with a scale each (see compression/quantize.py), which `MatMulNBits`
multiplies with activations rounded per block of 32, too. Positions, token types, norms and biases stay float32.
"""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx_ir as ir

from tradewind.compression.export_onnx import (
    DATA_FILE,
    GRAPH_FILE,
    MICROSOFT,
    SERVED_ACCURACY,
    GraphBuilder,
    packed,
    safetensors_offsets,
)
from tradewind.compression.quantize import BLOCK, Blocks, Tensor, quantize_tensor
from tradewind.encoder.model import EncoderConfig, checked
from tradewind.errors import UserError
from tradewind.files import atomic_path
from tradewind.model.weights import WEIGHTS_FILE, write_safetensors

PRECISIONS = ("fp32", "int8")
WORDS = "embeddings.word_embeddings.weight"


def export_onnx(
    folder: Path, config: EncoderConfig, flat: Mapping[str, np.ndarray], precision: str
) -> dict[str, Tensor]:
    """Write the graph and the files that it points into to `folder`; the weights as they are run.

    float32 weights are those of `model.safetensors`, stored once for JAX too. Raises UserError.
    """
    if precision not in PRECISIONS:
        raise UserError(f"unknown precision {precision!r} of the encoder (choices: {', '.join(PRECISIONS)})")
    folder.mkdir(parents=True, exist_ok=True)
    flat = checked(config, flat)
    tensors: dict[str, Tensor] = {name: rounded(name, array, precision) for name, array in flat.items()}
    if precision == "fp32":
        write_safetensors(folder / WEIGHTS_FILE, flat)
    graph = GraphBuilder(stored=safetensors_offsets(folder / WEIGHTS_FILE) if precision == "fp32" else {})
    _encoder(graph, config, dict(tensors))
    with atomic_path(folder / DATA_FILE) as data:
        graph.write_data(data)
    model = graph.model()
    model.graph.name = "encoder"
    with atomic_path(folder / GRAPH_FILE) as path:
        ir.save(model, path, format="protobuf")
    return tensors


def rounded(name: str, array: np.ndarray, precision: str) -> Tensor:
    matrix = array.ndim == 2 and (name == WORDS or name.startswith("encoder."))
    return quantize_tensor(array, precision, name) if matrix and precision == "int8" else array


def _encoder(g: GraphBuilder, config: EncoderConfig, tensors: dict[str, Tensor]) -> None:
    ids = g.input("input_ids", ir.DataType.INT64, ("batch", "sequence"))
    (length,) = g.node("Shape", [ids], "length", {"start": 1, "end": 2})
    start, axis = _indices(g, "first", 0), _indices(g, "texts_axis", 0)
    table = g.weight("embeddings.position_embeddings.weight", _floats(tensors, "embeddings.position_embeddings.weight"))
    (positions,) = g.node("Slice", [table, start, length, axis], "positions")
    kind = g.weight("token_type", _floats(tensors, "embeddings.token_type_embeddings.weight")[0])
    x = _norm(g, config, tensors, "embeddings.LayerNorm", _words(g, tensors.pop(WORDS), ids), positions, kind)
    for layer in range(config.num_layers):
        x = _layer(g, config, tensors, f"encoder.layer.{layer}", x)
    (mean,) = g.node("ReduceMean", [x, _indices(g, "tokens_axis", 1)], "mean", {"keepdims": 0})
    (unit,) = g.node("LpNormalization", [mean], "vectors", {"axis": -1, "p": 2})
    g.output(unit, "vectors", ir.DataType.FLOAT, ("batch", config.hidden_size))
    if tensors:
        raise UserError(f"tensors that the encoder does not use: {', '.join(sorted(tensors)[:3])}")


def _words(g: GraphBuilder, table: Tensor, ids: ir.Value) -> ir.Value:
    if isinstance(table, Blocks):
        inputs = [g.weight(f"{WORDS}.codes", packed(table)), ids, g.weight(f"{WORDS}.scales", _scales(table))]
        attributes = {"bits": table.bits, "block_size": BLOCK, "gather_axis": 0, "quantize_axis": 1}
        return g.node("GatherBlockQuantized", inputs, "words", attributes, MICROSOFT)[0]
    return g.node("Gather", [g.weight(WORDS, table), ids], "words", {"axis": 0})[0]


def _layer(g: GraphBuilder, config: EncoderConfig, tensors: dict[str, Tensor], name: str, x: ir.Value) -> ir.Value:
    parts = [f"{name}.attention.self.{part}" for part in ("query", "key", "value")]
    biases = np.concatenate([_floats(tensors, f"{part}.bias") for part in parts])
    inputs = [*(_linear(g, tensors, part, x) for part in parts), g.weight(f"{name}.attention.self.bias", biases)]
    heads = {"num_heads": config.num_heads}
    (mixed,) = g.node("MultiHeadAttention", inputs, f"{name}.attention", heads, MICROSOFT)
    attended = _linear(g, tensors, f"{name}.attention.output.dense", mixed)
    bias = _bias(g, tensors, f"{name}.attention.output.dense")
    x = _norm(g, config, tensors, f"{name}.attention.output.LayerNorm", attended, x, bias)
    wide = _linear(g, tensors, f"{name}.intermediate.dense", x)
    bias = _bias(g, tensors, f"{name}.intermediate.dense")
    (active,) = g.node("BiasGelu", [wide, bias], f"{name}.gelu", domain=MICROSOFT)
    branch, bias = _linear(g, tensors, f"{name}.output.dense", active), _bias(g, tensors, f"{name}.output.dense")
    return _norm(g, config, tensors, f"{name}.output.LayerNorm", branch, x, bias)


def _norm(
    g: GraphBuilder,
    config: EncoderConfig,
    tensors: dict[str, Tensor],
    name: str,
    branch: ir.Value,
    residual: ir.Value,
    bias: ir.Value,
) -> ir.Value:
    """LayerNorm of branch + residual + bias."""
    scale, shift = (g.weight(f"{name}.{part}", _floats(tensors, f"{name}.{part}")) for part in ("weight", "bias"))
    inputs = [branch, residual, scale, shift, bias]
    return g.node("SkipLayerNormalization", inputs, name, {"epsilon": config.norm_eps}, MICROSOFT)[0]


def _linear(g: GraphBuilder, tensors: dict[str, Tensor], name: str, x: ir.Value) -> ir.Value:
    """x times the transposed matrix [out, in], without its bias."""
    weight = tensors.pop(f"{name}.weight")
    if not isinstance(weight, Blocks):
        return g.node("FusedMatMul", [x, g.weight(f"{name}.weight", weight)], name, {"transB": 1}, MICROSOFT)[0]
    out, width = weight.shape
    codes = g.weight(f"{name}.codes", packed(weight).reshape(out, -1, BLOCK))
    scales = g.weight(f"{name}.scales", _scales(weight))
    sizes = {"N": out, "K": width, "bits": 8, "block_size": BLOCK, "accuracy_level": SERVED_ACCURACY}
    return g.node("MatMulNBits", [x, codes, scales], name, sizes, MICROSOFT)[0]


def _bias(g: GraphBuilder, tensors: dict[str, Tensor], name: str) -> ir.Value:
    return g.weight(f"{name}.bias", _floats(tensors, f"{name}.bias"))


def _indices(g: GraphBuilder, name: str, value: int) -> ir.Value:
    """[value], held in the graph itself, where the runtime infers shapes from it."""
    tensor = ir.tensor(np.array([value], np.int64), name=name)
    kind, shape = ir.TensorType(ir.DataType.INT64), ir.Shape([1])
    g.weights[name] = ir.Value(name=name, type=kind, shape=shape, const_value=tensor)
    return g.weights[name]


def _floats(tensors: dict[str, Tensor], name: str) -> np.ndarray:
    tensor = tensors.pop(name)
    assert not isinstance(tensor, Blocks), name
    return tensor


def _scales(weight: Blocks) -> np.ndarray:
    return weight.scales.astype(np.float32)
