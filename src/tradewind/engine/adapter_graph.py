"""The decoder's ONNX graph with low-rank adapters: a delta added to each linear layer, chosen by the row.

Added inputs, for B rows of T tokens:
- for each linear layer `{layer}.lora_a` float32 [R, chunks, in / chunks] and `{layer}.lora_b` float32 [R, out]: the adapters
  that a call may use, one below the other (`tradewind.model.adapters.stacked`: k R lines where the graph has joined k
  products of one input, such as queries, keys and values);
- `adapter_rows.{k}` bool [B T, k R]: which of these ranks are the own ones of a token's row;
- `adapter_shape` int64 [3]: B, T, -1.

delta = where(rows, x A^T, 0) B, with plain products over all ranks in a call instead of a gather of each row's own
(S-LoRA, arXiv:2311.03285, and Punica, arXiv:2310.18547, write kernels for that): on a CPU a gather copies more than a
product reads, and the ranks of a call are few. `where`, not a product with 0: what overflows in one row's adapter stays
out of another's.

A row's logits are the same to the last bit whatever else is in the call, where the graph's own are and the ranks in a call,
times k, are at most 128. For that, two habits of
ONNX Runtime's float product are kept from it, which change the order of its sums with the shapes: it splits sums longer
than 128 in ways that depend on the other sizes (so x A^T is computed in chunks, summed after), and has a kernel of its own
for a single row (not taken where a product is scaled: hence the factors 2 and 1/2, which are exact).

It works on the graph as it was exported, whatever its weights are, and knows no adapter's content.
"""

from pathlib import Path

import onnx_ir as ir

from tradewind.errors import UserError
from tradewind.model.adapters import PARTS, sizes
from tradewind.model.config import DecoderConfig

MICROSOFT = "com.microsoft"
JOINED: dict[str, tuple[str, ...]] = {"self_attn.qkv": ("q", "k", "v")} | {
    path: (part,) for part, path in PARTS.items()
}
"""A linear layer of the graph, and what it multiplies."""
LINEAR = ("MatMulNBits", "FusedMatMul")
"""Operators whose first input is what the layer multiplies, in float32."""
LONGEST = 128
"""Terms of a sum that is never split."""


def linears(layers: int, model: ir.Model) -> dict[str, tuple[int, tuple[str, ...]]]:
    """Name of each linear layer of the graph -> its decoder layer and its parts, each part of each layer once.

    Raises UserError where one is missing or is computed by an operator that takes no adapter.
    """
    nodes = {node.name: node for node in model.graph}
    found = {
        f"model.layers.{layer}.{path}": (layer, parts) for layer in range(layers) for path, parts in JOINED.items()
    }
    found = {name: what for name, what in found.items() if name in nodes}
    for layer in range(layers):
        have = sorted(part for one, parts in found.values() if one == layer for part in parts)
        if have != sorted(PARTS):
            raise UserError(f"the graph's layer {layer} has linear layers for {have}, adapters need {sorted(PARTS)}")
    for name in found:
        if nodes[name].op_type not in LINEAR:
            raise UserError(f"{name}: operator {nodes[name].op_type} takes no adapter (choices: {', '.join(LINEAR)})")
    return found


def with_adapters(graph: Path, config: DecoderConfig) -> tuple[bytes, dict[str, tuple[int, tuple[str, ...]]]]:
    """The graph with the added inputs, and its linear layers as `linears` gives them. Its weights stay in their files."""
    model = ir.load(graph)
    found = linears(config.num_layers, model)
    nodes = {node.name: node for node in model.graph}
    counts = {len(parts) for _, parts in found.values()}
    rows = {count: _input(model, f"adapter_rows.{count}", ir.DataType.BOOL, ("tokens", f"ranks.{count}"))
            for count in sorted(counts)}  # fmt: skip
    shape = _input(model, "adapter_shape", ir.DataType.INT64, (3,))
    zero = _constant(model, "adapter_zero", 0.0, ir.DataType.FLOAT)
    for name, (_, parts) in found.items():
        width = sizes(config)[parts[0]][0]
        chunks = _constant(
            model, f"{name}.chunks", [-1, chunks_of(width), width // chunks_of(width)], ir.DataType.INT64
        )
        _add_delta(model, nodes[name], rows[len(parts)], shape, chunks, zero)
    return ir.to_proto(model).SerializeToString(), found


def chunks_of(width: int) -> int:
    """The fewest equal ones of at most `LONGEST` terms."""
    return next(count for count in range(1, width + 1) if width % count == 0 and width // count <= LONGEST)


def _add_delta(
    model: ir.Model, linear: ir.Node, rows: ir.Value, shape: ir.Value, chunks: ir.Value, zero: ir.Value
) -> None:
    name, product = linear.name, linear.outputs[0]
    a = _input(model, f"{name}.lora_a", ir.DataType.FLOAT, (f"ranks.{name}", f"chunks.{name}", f"width.{name}"))
    b = _input(model, f"{name}.lora_b", ir.DataType.FLOAT, (f"ranks.{name}", f"out.{name}"))
    first = _constant(model, f"{name}.axis", [0], ir.DataType.INT64)
    added: list[ir.Node] = []

    def node(op: str, inputs: list[ir.Value], suffix: str, domain: str = "", **attributes: float) -> ir.Value:
        made = ir.node(op, inputs, attributes, domain=domain, name=f"{name}.{suffix}")
        made.outputs[0].name = made.name
        added.append(made)
        return made.outputs[0]

    x = node("Reshape", [linear.inputs[0], chunks], "x")  # type: ignore[list-item] # it has inputs
    parts = node("FusedMatMul", [x, a], "parts", MICROSOFT, alpha=2.0, transBatchA=1, transBatchB=1, transB=1)
    low = node("ReduceSum", [parts, first], "low", keepdims=0)
    own = node("Where", [rows, low, zero], "own")
    delta = node("FusedMatMul", [own, b], "delta", MICROSOFT, alpha=0.5)
    delta = node("Reshape", [delta, shape], "delta_rows")
    total = node("Add", [delta, delta], "adapted")
    ir.convenience.replace_all_uses_with(product, total)
    added[-1].replace_input_with(0, product)
    model.graph.insert_after(linear, added)


def _input(model: ir.Model, name: str, dtype: ir.DataType, shape: tuple[int | str, ...]) -> ir.Value:
    value = ir.Value(name=name, type=ir.TensorType(dtype), shape=ir.Shape(shape))
    model.graph.inputs.append(value)
    return value


def _constant(model: ir.Model, name: str, content: float | list[int], dtype: ir.DataType) -> ir.Value:
    tensor = ir.tensor(content, dtype=dtype, name=name)
    value = ir.Value(name=name, type=ir.TensorType(dtype), shape=tensor.shape, const_value=tensor)  # type: ignore[arg-type]
    model.graph.register_initializer(value)
    return value
