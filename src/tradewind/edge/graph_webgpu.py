"""The WebGPU graph of a variant: the same integers, multiplied as they are, with the cache left on the GPU.

onnxruntime-web's WebGPU build (1.30) has kernels for the operators of `model.onnx`, but for two things:
- `GroupQueryAttention` reads no `query_lengths` and no cache in int8: one row, in float32.
- Nothing there computes the rotary tables (float64): they are stored, for the positions that the page uses.

Inputs
- `input_ids` int64 [1, T]: new tokens.
- `last_positions` int32 [1]: the length after this call, minus one. `longest` int32 []: that length.
- `logit_positions` int64 [P]: which of the T get logits.
- `past_key_values.{layer}.key|value` float32 [1, KV heads, S, head dim], keys rotated.
Outputs
- `logits` float32 [1, P, vocabulary].
- `present.{layer}.key|value` float32 [1, KV heads, S + T, head dim]: the next call's past.

It knows nothing of the page. Not covered: several rows, float16.
"""

from pathlib import Path

import numpy as np
import onnx_ir as ir

from tradewind.compression.export_onnx import GRAPH_FILE
from tradewind.edge.graph_wasm import COSINES, FLOAT, PAST_KEYS, SINES, drop_unread

CACHE_IN_INT8 = ("k_quant_type", "v_quant_type", "kv_cache_bit_width")


def webgpu_graph(folder: Path, positions: int) -> bytes:
    """The content of an ONNX file that points into the files beside `folder`'s `model.onnx`.

    positions: the longest row. The tables of `model.onnx` are of float64 nodes that end in a cast; here they are stored.
    """
    model = ir.load(folder / GRAPH_FILE)
    graph = model.graph
    frequencies = graph.initializers["rotary.frequencies"].const_value
    assert frequencies is not None
    angles = np.arange(positions)[:, None] * frequencies.numpy()
    tables = {COSINES: _stored(graph, "cosines", np.cos(angles)), SINES: _stored(graph, "sines", np.sin(angles))}
    for node in graph:
        if node.op_type == "GroupQueryAttention":
            _simplify(node, tables)
    graph.inputs[:] = [value for value in graph.inputs if value.name != "query_lengths"]
    for node in reversed(list(graph)):
        if (node.name or "").startswith("rotary."):
            graph.remove(node, safe=True)
    drop_unread(graph)
    return ir.to_proto(model).SerializeToString(deterministic=True)


def _simplify(node: ir.Node, tables: dict[int, ir.Value]) -> None:
    node.resize_inputs(SINES + 1)
    for index, table in tables.items():
        node.replace_input_with(index, table)
    for value in (*node.inputs[PAST_KEYS : PAST_KEYS + 2], *node.outputs[1:]):
        assert value is not None
        value.type = FLOAT
    for name in CACHE_IN_INT8:
        node.attributes.pop(name, None)


def _stored(graph: ir.Graph, name: str, table: np.ndarray) -> ir.Value:
    tensor = ir.tensor(table.astype(np.float32), name=name)
    graph.initializers[name] = ir.Value(name=name, type=FLOAT, shape=ir.Shape(table.shape), const_value=tensor)
    return graph.initializers[name]
