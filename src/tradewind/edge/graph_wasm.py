"""The WASM graph of a variant: the same integers, for one row, multiplied in float32.

ONNX Runtime's WASM build is another runtime than the native one. Three operators are replaced by what is fast there
(onnxruntime-web 1.30):
- `MatMulNBits` has no kernel and expands the whole matrix at every call, which takes many times the product itself. So
  codes are expanded once, when the session is made: `DequantizeLinear` over the very bytes of `model.onnx.data`, which
  constant folding replaces by its result (session option `session.disable_quant_qdq`). What is downloaded stays as
  small; what is held in memory is float32.
- `GroupQueryAttention` takes several times as long as the standard's `Attention` (opset 23); its `query_lengths` is an
  input that the WASM build does not know yet.
- Every output is copied to JavaScript, so of the cache only what is new leaves the graph.

Inputs
- `input_ids` int64 [1, T]: new tokens.
- `first_position` int64 [1]: the position of the first of them.
- `visible` bool [T, S + T]: which of the S places of the cache and the T new tokens each new token sees.
- `logit_positions` int64 [P]: which of the T get logits.
- `past_key_values.{layer}.key|value` float32 [1, KV heads, S, head dim], keys rotated.
Outputs
- `logits` float32 [1, P, vocabulary].
- `new.{layer}.key|value` float32 [1, T, KV heads x head dim].

It knows nothing of the page. Not covered: several rows, WebGPU (`graph_webgpu.py`).
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import onnx_ir as ir

from tradewind.compression.export_onnx import GRAPH_FILE, MICROSOFT

QUERIES, KEYS, VALUES, PAST_KEYS, PAST_VALUES, COSINES, SINES = 0, 1, 2, 3, 4, 7, 8
"""Inputs of `GroupQueryAttention` that the graph keeps."""
OPSETS = {"": 23, MICROSOFT: 1}
FLOAT = ir.TensorType(ir.DataType.FLOAT)
GONE = ("query_lengths", "last_positions", "longest")
"""Inputs of the native graph that tell rows and lengths apart."""


def wasm_graph(folder: Path) -> bytes:
    """The content of an ONNX file that points into the files beside `folder`'s `model.onnx`."""
    model = ir.load(folder / GRAPH_FILE)
    rewrite = _Rewrite(model.graph)
    for node in list(model.graph):
        if node.op_type == "MatMulNBits":
            rewrite.product(node)
        elif node.op_type == "GroupQueryAttention":
            rewrite.attention(node)
    rewrite.finish()
    model.opset_imports.update(OPSETS)
    return ir.to_proto(model).SerializeToString(deterministic=True)


@dataclass
class _Rewrite:
    graph: ir.Graph
    _first: list[ir.Node] = field(default_factory=list)
    _zeros: dict[tuple[int, int, int], ir.Value] = field(default_factory=dict)
    _new: list[ir.Value] = field(default_factory=list)

    def __post_init__(self) -> None:
        kept = [value for value in self.graph.inputs if value.name not in GONE]
        self._position = _value("first_position", ir.DataType.INT64, (1,))
        self._visible = _value("visible", ir.DataType.BOOL, ("sequence", "all_positions"))
        self.graph.inputs[:] = [*kept[:1], self._position, self._visible, *kept[1:]]

    def product(self, node: ir.Node) -> None:
        """`MatMulNBits` becomes a float32 product with the expanded matrix [out, in]."""
        x, codes, scales = node.inputs[:3]
        out, width, bits, block = (node.attributes[name].as_int() for name in ("N", "K", "bits", "block_size"))
        assert codes is not None and scales is not None
        matrix = self._view(codes, bits, (out, width))
        attributes = {"axis": 1, "block_size": block}
        expanded = ir.node("DequantizeLinear", [matrix, scales, self._zero(bits, out, width // block)], attributes)
        expanded.outputs[0].name = f"{codes.name}.expanded"
        self._first.append(expanded)
        product = ir.node("FusedMatMul", [x, expanded.outputs[0]], {"transB": 1}, domain=MICROSOFT, name=node.name)
        self._replace(node, product)

    def attention(self, node: ir.Node) -> None:
        """`GroupQueryAttention` becomes rotations and `Attention`; what it adds to the cache becomes an output."""
        heads, kv_heads = (node.attributes[name].as_int() for name in ("num_heads", "kv_num_heads"))
        past = [_given(node, index) for index in (PAST_KEYS, PAST_VALUES)]
        width = past[0].shape[3] if past[0].shape is not None else None
        assert isinstance(width, int) and node.name
        queries, keys, values = self._heads(node, [heads * width, kv_heads * width, kv_heads * width])
        queries, keys = (self._rotated(node, part, x) for part, x in (("queries", queries), ("keys", keys)))
        attributes = {"q_num_heads": heads, "kv_num_heads": kv_heads}
        inputs = [queries, keys, values, self._visible, *past]
        new = ir.node("Attention", inputs, attributes, num_outputs=3, name=node.name)
        for half, present in zip(("keys", "values"), new.outputs[1:], strict=True):  # the kernel refuses to go without
            present.name = f"{node.name}.all_{half}"
        for value, old in zip(past, node.outputs[1:], strict=True):
            value.type = FLOAT
            self.graph.outputs.remove(old)
        self._replace(node, new)
        for past_value, added in zip(past, (keys, values), strict=True):
            self._offer(added, (past_value.name or "").replace("past_key_values", "new"), kv_heads * width)

    def finish(self) -> None:
        """Put the expansions first, name the outputs, drop weights that nothing reads any more."""
        self.graph.insert_before(self.graph[0], self._first)
        self.graph.outputs.extend(self._new)
        drop_unread(self.graph)

    def _heads(self, node: ir.Node, sizes: Sequence[int]) -> list[ir.Value]:
        """Queries, keys and values [1, T, size], which may come in one."""
        if node.inputs[KEYS] is not None:
            return [_given(node, index) for index in (QUERIES, KEYS, VALUES)]
        lengths = self._initializer("qkv_sizes", ir.tensor(np.array(sizes, np.int64), name="qkv_sizes"))
        inputs = [_given(node, QUERIES), lengths]
        split = ir.node("Split", inputs, {"axis": 2}, num_outputs=3, name=f"{node.name}.split")
        for part, value in zip(("queries", "keys", "values"), split.outputs, strict=True):
            value.name = f"{node.name}.{part}"
        self.graph.insert_before(node, split)
        return list(split.outputs)

    def _rotated(self, node: ir.Node, part: str, x: ir.Value) -> ir.Value:
        inputs = [x, self._position, _given(node, COSINES), _given(node, SINES)]
        rotation = ir.node("RotaryEmbedding", inputs, domain=MICROSOFT, name=f"{node.name}.{part}_rotated")
        rotation.outputs[0].name = rotation.name
        self.graph.insert_before(node, rotation)
        return rotation.outputs[0]

    def _offer(self, value: ir.Value, name: str, width: int) -> None:
        value.name, value.type, value.shape = name, FLOAT, ir.Shape((1, "sequence", width))
        self._new.append(value)

    def _view(self, codes: ir.Value, bits: int, shape: tuple[int, int]) -> ir.Value:
        """The bytes of `codes` as unsigned integers [out, in]: two of 4 bits a byte, the lower half first, as in ONNX."""
        stored = codes.const_value
        assert isinstance(stored, ir.ExternalTensor)
        dtype, name = ir.DataType.UINT4 if bits == 4 else ir.DataType.UINT8, f"{codes.name}.integers"
        view = ir.ExternalTensor(stored.location, stored.offset, stored.length, dtype, shape=ir.Shape(shape), name=name)
        return self._initializer(name, view)

    def _zero(self, bits: int, out: int, blocks: int) -> ir.Value:
        """Zero points of a matrix: the middle of the range, one a block; matrices of one shape share them."""
        key = (bits, out, blocks)
        if key not in self._zeros:
            name, shape = f"zero_points.{bits}.{out}x{blocks}", ir.Shape((out, blocks))
            tensor: ir.TensorProtocol = ir.tensor(np.full((out, blocks), 128, np.uint8), name=name)
            if bits == 4:
                pairs = np.full(-(-out * blocks // 2), 0x88, np.uint8)
                tensor = ir.PackedTensor(pairs, ir.DataType.UINT4, shape=shape, name=name)
            self._zeros[key] = self._initializer(name, tensor)
        return self._zeros[key]

    def _initializer(self, name: str, tensor: ir.TensorProtocol) -> ir.Value:
        if name not in self.graph.initializers:
            shape = ir.Shape(tensor.shape.numpy())
            value = ir.Value(name=name, type=ir.TensorType(tensor.dtype), shape=shape, const_value=tensor)
            self.graph.initializers[name] = value
        return self.graph.initializers[name]

    def _replace(self, old: ir.Node, new: ir.Node) -> None:
        before, after = old.outputs[0], new.outputs[0]
        before.replace_all_uses_with(after, replace_graph_outputs=True)
        after.name, after.type, after.shape = before.name, before.type, before.shape
        self.graph.insert_before(old, new)
        self.graph.remove(old, safe=True)


def drop_unread(graph: ir.Graph) -> None:
    """Remove the weights that no node reads."""
    read = {value.name for node in graph for value in node.inputs if value is not None}
    for name in [name for name in graph.initializers if name not in read]:
        del graph.initializers[name]


def _value(name: str, dtype: ir.DataType, shape: Sequence[int | str]) -> ir.Value:
    return ir.Value(name=name, type=ir.TensorType(dtype), shape=ir.Shape(shape))


def _given(node: ir.Node, index: int) -> ir.Value:
    value = node.inputs[index]
    assert value is not None
    return value
