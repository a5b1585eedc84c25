"""Write a decoder as an ONNX graph straight from its weights or codes: one weight layout, ten operators, no tracing.

The graph is for ONNX Runtime (contrib operators of domain `com.microsoft`) with a KV cache that the caller owns. It
knows nothing of slots, sampling or tokenizers. Not covered: untied heads, biases, sliding windows, float16.

Inputs
- `input_ids` int64 [B, T]: new tokens, padded on the right where a row has fewer than T.
- `query_lengths` int32 [B]: new tokens of each row, 0 to T. A row with 0 is left as it is and its logits mean nothing.
- `last_positions` int32 [B]: each row's length after this call, minus one.
- `longest` int32 []: an upper bound of the lengths after this call.
- `logit_positions` int64 [P]: which of the T columns get logits, none if empty (the head is a fifth of the model).
- `past_key_values.{layer}.key|value` float32, or int8 where scales for it are given, [B, KV heads, S, head dim].
Outputs
- `logits` float32 [B, P, vocabulary].
- `present.{layer}.key|value`: like the past. Bind each to the memory of its past: the cache is then updated in place.

Every row needs room in S for its length before the call and T more, though nothing is written for padding.

Files: `model.onnx` (the graph) and `model.onnx.data` (the weights, in Hugging Face layout [out, in]; the tied embedding
is stored once and read by the lookup and by the head). Scales are the float16 scales widened to float32: exact.
Where nothing is quantized, the weights are those of `model.safetensors`, which the graph points into: stored once, for
every engine.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from tradewind.compression.kv_cache import Scales
from tradewind.compression.quantize import BLOCK, Blocks, Tensor, pack4, stack_rows
from tradewind.compression.variant import MAX_FEED
from tradewind.errors import UserError
from tradewind.files import atomic_path
from tradewind.model.decoder import DecoderConfig
from tradewind.model.weights import WEIGHTS_FILE, write_safetensors

GRAPH_FILE, DATA_FILE = "model.onnx", "model.onnx.data"
SERVED_ACCURACY = 4
"""`MatMulNBits` multiplies in int8 (activations rounded per block of 32); 0 multiplies in float32."""
MICROSOFT = "com.microsoft"
ALIGN = 4096
"""Weights start at multiples of a memory page, so that the runtime can map them instead of reading them."""
OPSETS = {"": 21, MICROSOFT: 1}
IR_VERSION = 10


def export_onnx(
    folder: Path,
    config: DecoderConfig,
    tensors: Mapping[str, Tensor],
    accuracy_level: int = SERVED_ACCURACY,
    kv_scales: Scales | None = None,
) -> list[str]:
    """Write `model.onnx` and the files that it points into to `folder`; their names. The same input gives the same
    bytes.

    kv_scales: [2 x layers, KV heads, head dim] of a cache in int8; None: it is in float32.
    """
    folder.mkdir(parents=True, exist_ok=True)
    whole = {name: tensor for name, tensor in tensors.items() if not isinstance(tensor, Blocks)}
    quantized = len(whole) < len(tensors)
    if not quantized:
        write_safetensors(folder / WEIGHTS_FILE, whole)
    graph = GraphBuilder(stored={} if quantized else safetensors_offsets(folder / WEIGHTS_FILE))
    _decoder(graph, config, dict(tensors), accuracy_level, kv_scales)
    with atomic_path(folder / DATA_FILE) as data:
        graph.write_data(data)
    with atomic_path(folder / GRAPH_FILE) as path:
        ir.save(graph.model(), path, format="protobuf")
    return [GRAPH_FILE, DATA_FILE] if quantized else [GRAPH_FILE, DATA_FILE, WEIGHTS_FILE]


@dataclass
class GraphBuilder:
    """Nodes, inputs, outputs, and weights laid out in one data file, but for those `stored` in `model.safetensors` (name
    -> offset in bytes)."""

    stored: Mapping[str, int] = field(default_factory=dict)
    nodes: list[ir.Node] = field(default_factory=list)
    inputs: list[ir.Value] = field(default_factory=list)
    outputs: list[ir.Value] = field(default_factory=list)
    weights: dict[str, ir.Value] = field(default_factory=dict)
    _arrays: list[tuple[int, NDArray[np.generic]]] = field(default_factory=list)
    _size: int = 0

    def input(self, name: str, dtype: ir.DataType, shape: Sequence[int | str]) -> ir.Value:
        value = ir.Value(name=name, type=ir.TensorType(dtype), shape=ir.Shape(shape))
        self.inputs.append(value)
        return value

    def output(self, value: ir.Value, name: str, dtype: ir.DataType, shape: Sequence[int | str]) -> None:
        value.name, value.type, value.shape = name, ir.TensorType(dtype), ir.Shape(shape)
        self.outputs.append(value)

    def weight(
        self, name: str, array: NDArray[np.generic], views: Mapping[str, Sequence[int]] | None = None
    ) -> ir.Value:
        """An initializer in one of the files. `views` are further initializers (name -> shape) over the same bytes."""
        array = np.ascontiguousarray(array)
        file, offset = WEIGHTS_FILE, self.stored.get(name, -1)
        if offset < 0:
            file, offset = DATA_FILE, -(-self._size // ALIGN) * ALIGN
            self._arrays.append((offset, array))
            self._size = offset + array.nbytes
        for key, shape in {name: array.shape, **(views or {})}.items():
            dtype = ir.DataType.from_numpy(array.dtype)
            tensor = ir.ExternalTensor(file, offset, array.nbytes, dtype, shape=ir.Shape(shape), name=key)
            self.weights[key] = ir.Value(name=key, type=ir.TensorType(dtype), shape=ir.Shape(shape), const_value=tensor)
        return self.weights[name]

    def node(
        self,
        op: str,
        inputs: Sequence[ir.Value | None],
        name: str,
        attributes: Mapping[str, int | float | str] | None = None,
        domain: str = "",
        outputs: int = 1,
    ) -> list[ir.Value]:
        """Append an operator; its outputs, named after it."""
        node = ir.node(op, inputs, attributes, domain=domain, num_outputs=outputs, name=name)
        for index, value in enumerate(node.outputs):
            value.name = name if index == 0 else f"{name}.{index}"
        self.nodes.append(node)
        return list(node.outputs)

    def write_data(self, path: Path) -> None:
        with open(path, "wb") as file:
            for offset, array in self._arrays:
                file.write(b"\0" * (offset - file.tell()))
                file.write(array.data)

    def model(self) -> ir.Model:
        graph = ir.Graph(
            self.inputs,
            self.outputs,
            nodes=self.nodes,
            initializers=list(self.weights.values()),
            opset_imports=OPSETS,
            name="decoder",
        )
        return ir.Model(graph, ir_version=IR_VERSION, producer_name="tradewind")


@dataclass
class _Shared:
    """What every layer reads."""

    query_lengths: ir.Value
    last_positions: ir.Value
    longest: ir.Value
    cosines: ir.Value
    sines: ir.Value
    kv_scales: Scales | None


def _decoder(
    g: GraphBuilder, config: DecoderConfig, tensors: dict[str, Tensor], accuracy: int, kv_scales: Scales | None
) -> None:
    ids = g.input("input_ids", ir.DataType.INT64, ("batch", "sequence"))
    int32 = ir.DataType.INT32
    queries, lasts = (g.input(name, int32, ("batch",)) for name in ("query_lengths", "last_positions"))
    longest = g.input("longest", int32, ())
    wanted = g.input("logit_positions", ir.DataType.INT64, ("positions",))
    shared = _Shared(queries, lasts, longest, *_rotary(g, config), kv_scales)
    embed = _Embedding(g, _take(tensors, "model.embed_tokens.weight"), accuracy)

    branch, residual = None, embed.lookup(ids)
    for layer in range(config.num_layers):
        branch, residual = _layer(g, config, tensors, layer, branch, residual, shared, accuracy)
    hidden, _ = _norm(g, config, _take(tensors, "model.norm.weight"), "model.norm", branch, residual)
    (chosen,) = g.node("Gather", [hidden, wanted], "chosen", {"axis": 1})
    g.output(embed.head(chosen), "logits", ir.DataType.FLOAT, ("batch", "positions", config.vocab_size))
    if tensors:
        raise UserError(f"tensors that the decoder does not use: {', '.join(sorted(tensors)[:3])}")


def _take(tensors: dict[str, Tensor], name: str) -> Tensor:
    if name not in tensors:
        raise UserError(f"the weights lack {name}")
    return tensors.pop(name)


def _rotary(g: GraphBuilder, config: DecoderConfig) -> tuple[ir.Value, ir.Value]:
    """Cosines and sines of position times frequency, [positions, head_dim / 2] (RoFormer, arXiv:2104.09864)."""
    frequencies = config.rope_base ** -(np.arange(0, config.head_dim, 2, dtype=np.float64) / config.head_dim)
    angles = np.arange(config.max_position + MAX_FEED)[:, None] * frequencies
    return g.weight("cosines", np.cos(angles).astype(np.float32)), g.weight("sines", np.sin(angles).astype(np.float32))


def _layer(
    g: GraphBuilder,
    config: DecoderConfig,
    tensors: dict[str, Tensor],
    layer: int,
    branch: ir.Value | None,
    residual: ir.Value,
    shared: _Shared,
    accuracy: int,
) -> tuple[ir.Value, ir.Value]:
    """One block. The sum of `branch` and `residual` is its input, left to the next norm, which fuses the addition."""
    name = f"model.layers.{layer}"

    def matrix(part: str) -> Tensor:
        return _take(tensors, f"{name}.{part}.weight")

    normed, residual = _norm(g, config, matrix("input_layernorm"), f"{name}.input_layernorm", branch, residual)
    heads = {part: matrix(f"self_attn.{part}_proj") for part in "qkv"}
    queries: list[ir.Value | None]
    if g.stored:
        queries = [_linear(g, normed, heads[part], f"{name}.self_attn.{part}_proj", accuracy) for part in "qkv"]
    else:
        queries = [_linear(g, normed, stack_rows(list(heads.values())), f"{name}.self_attn.qkv", accuracy), None, None]
    mixed = _attention(g, config, queries, layer, shared)
    attended = _linear(g, mixed, matrix("self_attn.o_proj"), f"{name}.self_attn.o_proj", accuracy)

    gamma = matrix("post_attention_layernorm")
    normed, residual = _norm(g, config, gamma, f"{name}.post_attention_layernorm", attended, residual)
    gate = _linear(g, normed, matrix("mlp.gate_proj"), f"{name}.mlp.gate_proj", accuracy)
    up = _linear(g, normed, matrix("mlp.up_proj"), f"{name}.mlp.up_proj", accuracy)
    (sigmoid,) = g.node("Sigmoid", [gate], f"{name}.sigmoid")
    (silu,) = g.node("Mul", [gate, sigmoid], f"{name}.silu")
    (gated,) = g.node("Mul", [silu, up], f"{name}.gated")
    return _linear(g, gated, matrix("mlp.down_proj"), f"{name}.mlp.down_proj", accuracy), residual


def _norm(
    g: GraphBuilder, config: DecoderConfig, gamma: Tensor, name: str, branch: ir.Value | None, residual: ir.Value
) -> tuple[ir.Value, ir.Value]:
    """RMSNorm of branch + residual, and that sum."""
    if isinstance(gamma, Blocks):
        raise UserError(f"{name}.weight must stay float32")
    scale = g.weight(f"{name}.weight", gamma)
    if branch is None:
        attributes = {"epsilon": config.norm_eps, "axis": -1}
        (normed,) = g.node("SimplifiedLayerNormalization", [residual, scale], name, attributes)
        return normed, residual
    inputs, epsilon = [branch, residual, scale], {"epsilon": config.norm_eps}
    outputs = g.node("SkipSimplifiedLayerNormalization", inputs, name, epsilon, MICROSOFT, outputs=4)
    return outputs[0], outputs[3]


def _attention(
    g: GraphBuilder, config: DecoderConfig, queries: list[ir.Value | None], layer: int, shared: _Shared
) -> ir.Value:
    """`queries`: queries, keys and values, or all three in one and nothing for the others."""
    name = f"model.layers.{layer}.attention"
    attributes: dict[str, int | float | str] = {"num_heads": config.num_heads, "kv_num_heads": config.num_kv_heads}
    scales: list[ir.Value | None] = [None, None]
    dtype = ir.DataType.FLOAT
    if shared.kv_scales is not None:
        dtype = ir.DataType.INT8
        pair = shared.kv_scales[2 * layer : 2 * layer + 2].reshape(2, -1)
        scales = [g.weight(f"{name}.{half}_scale", line) for half, line in zip("kv", pair, strict=True)]
        attributes |= {"k_quant_type": "PER_CHANNEL", "v_quant_type": "PER_CHANNEL", "kv_cache_bit_width": 8}
    shape = ("batch", config.num_kv_heads, "positions_held", config.head_dim)
    past = [g.input(f"past_key_values.{layer}.{half}", dtype, shape) for half in ("key", "value")]
    place = [shared.last_positions, shared.longest, shared.cosines, shared.sines]
    inputs = [*queries, *past, *place, *[None] * 3, *scales, *[None] * 2, shared.query_lengths]
    mixed, *present = g.node("GroupQueryAttention", inputs, name, attributes | {"do_rotary": 1}, MICROSOFT, outputs=3)
    for half, value in zip(("key", "value"), present, strict=True):
        g.output(value, f"present.{layer}.{half}", dtype, shape)
    return mixed


def _linear(g: GraphBuilder, x: ir.Value, weight: Tensor, name: str, accuracy: int) -> ir.Value:
    """x times the transposed matrix [out, in]."""
    if isinstance(weight, Blocks):
        codes = g.weight(f"{name}.codes", packed(weight).reshape(len(weight.codes), -1, BLOCK * weight.bits // 8))
        scales = g.weight(f"{name}.scales", weight.scales.astype(np.float32))
        return _product(g, x, weight, codes, scales, name, accuracy)
    return g.node("FusedMatMul", [x, g.weight(f"{name}.weight", weight)], name, {"transB": 1}, MICROSOFT)[0]


def _product(
    g: GraphBuilder, x: ir.Value, weight: Blocks, codes: ir.Value, scales: ir.Value, name: str, accuracy: int
) -> ir.Value:
    out, width = weight.shape
    attributes = {"N": out, "K": width, "bits": weight.bits, "block_size": BLOCK, "accuracy_level": accuracy}
    return g.node("MatMulNBits", [x, codes, scales], name, attributes, MICROSOFT)[0]


def safetensors_offsets(path: Path) -> dict[str, int]:
    """Where each tensor starts in the file: after 8 bytes of the header's length, the header, and what it says."""
    with open(path, "rb") as file:
        length = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(length))
    return {name: 8 + length + facts["data_offsets"][0] for name, facts in header.items() if name != "__metadata__"}


def packed(weight: Blocks) -> NDArray[np.uint8]:
    """Codes as ONNX Runtime has them: uint8 with zero point 128 (8 bits), or two a byte with zero point 8 (4 bits)."""
    return pack4(weight.codes) if weight.bits == 4 else (weight.codes.view(np.uint8) ^ np.uint8(128))


class _Embedding:
    """The tied table: rows looked up at the bottom, multiplied at the top, stored once."""

    def __init__(self, g: GraphBuilder, table: Tensor, accuracy: int) -> None:
        self.g, self.table, self.accuracy = g, table, accuracy
        if isinstance(table, Blocks):
            codes = packed(table)
            blocks = (len(codes), table.scales.shape[1], BLOCK * table.bits // 8)
            self.rows = g.weight("model.embed_tokens.codes", codes, views={"head.codes": blocks})
            self.scales = g.weight("model.embed_tokens.scales", table.scales.astype(np.float32))
        else:
            self.rows = g.weight("model.embed_tokens.weight", table)

    def lookup(self, ids: ir.Value) -> ir.Value:
        if isinstance(self.table, Blocks):
            inputs = [self.rows, ids, self.scales]
            attributes = {"bits": self.table.bits, "block_size": BLOCK, "gather_axis": 0, "quantize_axis": 1}
            return self.g.node("GatherBlockQuantized", inputs, "embedded", attributes, MICROSOFT)[0]
        return self.g.node("Gather", [self.rows, ids], "embedded", {"axis": 0})[0]

    def head(self, hidden: ir.Value) -> ir.Value:
        if isinstance(self.table, Blocks):
            codes = self.g.weights["head.codes"]
            return _product(self.g, hidden, self.table, codes, self.scales, "logits", self.accuracy)
        return self.g.node("FusedMatMul", [hidden, self.rows], "logits", {"transB": 1}, MICROSOFT)[0]
