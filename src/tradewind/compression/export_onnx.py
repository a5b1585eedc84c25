"""Write a decoder as an ONNX graph straight from its weights or codes: one weight layout, few operators, no tracing.

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

Files: `model.onnx` (the graph) and `model.onnx.data` (the weights, in Hugging Face layout [out, in] but for those of W8A8;
the tied embedding is stored once and read by the lookup and by the head). Float16 scales are widened by the graph, and
rotary tables are computed by it, both once, as it is loaded.
Where nothing is quantized, the weights are those of `model.safetensors`, which the graph points into instead: stored once,
for every engine.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx_ir as ir

from tradewind.compression.kv_cache import Scales
from tradewind.compression.onnx_graph import DATA_FILE, GRAPH_FILE, MICROSOFT, GraphBuilder, safetensors_offsets
from tradewind.compression.onnx_linear import Linears, block_shape, packed
from tradewind.compression.quantize import BLOCK, Blocks, Rows, Tensor, stack_rows, stackable
from tradewind.compression.variant import MAX_FEED
from tradewind.errors import UserError
from tradewind.files import atomic_path
from tradewind.model.decoder import DecoderConfig
from tradewind.model.weights import WEIGHTS_FILE, write_safetensors

SERVED_ACCURACY = 4
"""`MatMulNBits` multiplies in int8 (activations rounded per block of 32); 0 multiplies in float32."""


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
    _decoder(graph, config, dict(tensors), Linears(graph, accuracy_level), kv_scales)
    if graph.has_data:
        with atomic_path(folder / DATA_FILE) as data:
            graph.write_data(data)
    with atomic_path(folder / GRAPH_FILE) as path:
        ir.save(graph.model(), path, format="protobuf")
    return [GRAPH_FILE, *([DATA_FILE] if graph.has_data else []), *([] if quantized else [WEIGHTS_FILE])]


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
    g: GraphBuilder, config: DecoderConfig, tensors: dict[str, Tensor], linear: Linears, kv_scales: Scales | None
) -> None:
    ids = g.input("input_ids", ir.DataType.INT64, ("batch", "sequence"))
    int32 = ir.DataType.INT32
    queries, lasts = (g.input(name, int32, ("batch",)) for name in ("query_lengths", "last_positions"))
    longest = g.input("longest", int32, ())
    wanted = g.input("logit_positions", ir.DataType.INT64, ("positions",))
    shared = _Shared(queries, lasts, longest, *_rotary(g, config), kv_scales)
    embed = _Embedding(g, _take(tensors, "model.embed_tokens.weight"), linear)

    branch, residual = None, embed.lookup(ids)
    for layer in range(config.num_layers):
        branch, residual = _layer(g, config, tensors, layer, branch, residual, shared, linear)
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
    """Cosines and sines of position times frequency, [positions, head_dim / 2] (RoFormer, arXiv:2104.09864).

    Nodes over constants, which the runtime computes once, as it loads the graph: 2 MB of tables are not stored.
    """
    frequencies = config.rope_base ** -(np.arange(0, config.head_dim, 2, dtype=np.float64) / config.head_dim)
    ends = {"first": 0, "end": config.max_position + MAX_FEED, "step": 1}
    bounds = [g.constant(f"rotary.{name}", np.float64(value)) for name, value in ends.items()]
    (positions,) = g.node("Range", bounds, "rotary.positions")
    (column,) = g.node("Unsqueeze", [positions, g.constant("rotary.axis", np.array([1]))], "rotary.column")
    (angles,) = g.node("Mul", [column, g.constant("rotary.frequencies", frequencies)], "rotary.angles")
    waves = [g.node(op, [angles], f"rotary.{op.lower()}")[0] for op in ("Cos", "Sin")]
    narrow = {"to": ir.DataType.FLOAT}
    cosines, sines = (g.node("Cast", [wave], f"{wave.name}.narrow", narrow)[0] for wave in waves)
    return cosines, sines


def _layer(
    g: GraphBuilder,
    config: DecoderConfig,
    tensors: dict[str, Tensor],
    layer: int,
    branch: ir.Value | None,
    residual: ir.Value,
    shared: _Shared,
    linear: Linears,
) -> tuple[ir.Value, ir.Value]:
    """One block. The sum of `branch` and `residual` is its input, left to the next norm, which fuses the addition."""
    name = f"model.layers.{layer}"

    def matrix(part: str) -> Tensor:
        return _take(tensors, f"{name}.{part}.weight")

    normed, residual = _norm(g, config, matrix("input_layernorm"), f"{name}.input_layernorm", branch, residual)
    heads = {part: matrix(f"self_attn.{part}_proj") for part in "qkv"}
    queries: list[ir.Value | None]
    if g.stored or not stackable(list(heads.values())):
        queries = [linear(normed, heads[part], f"{name}.self_attn.{part}_proj") for part in "qkv"]
    else:
        queries = [linear(normed, stack_rows(list(heads.values())), f"{name}.self_attn.qkv"), None, None]
    mixed = _attention(g, config, queries, layer, shared)
    attended = linear(mixed, matrix("self_attn.o_proj"), f"{name}.self_attn.o_proj")

    gamma = matrix("post_attention_layernorm")
    normed, residual = _norm(g, config, gamma, f"{name}.post_attention_layernorm", attended, residual)
    gate = linear(normed, matrix("mlp.gate_proj"), f"{name}.mlp.gate_proj")
    up = linear(normed, matrix("mlp.up_proj"), f"{name}.mlp.up_proj")
    (sigmoid,) = g.node("Sigmoid", [gate], f"{name}.sigmoid")
    (silu,) = g.node("Mul", [gate, sigmoid], f"{name}.silu")
    (gated,) = g.node("Mul", [silu, up], f"{name}.gated")
    return linear(gated, matrix("mlp.down_proj"), f"{name}.mlp.down_proj"), residual


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


class _Embedding:
    """The tied table: rows looked up at the bottom, multiplied at the top, stored once."""

    def __init__(self, g: GraphBuilder, table: Tensor, linear: Linears) -> None:
        self.g, self.table, self.linear = g, table, linear
        if isinstance(table, Rows):
            raise UserError(
                "model.embed_tokens.weight cannot be w8a8: GatherBlockQuantized has no scale for a whole row"
            )
        if isinstance(table, Blocks):
            self.rows = g.weight("model.embed_tokens.codes", packed(table), views={"head.codes": block_shape(table)})
            self.scales = g.widened("model.embed_tokens.scales", table.scales)
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
            return self.linear.blocks(hidden, self.table, self.g.weights["head.codes"], self.scales, "logits")
        return self.g.node("FusedMatMul", [hidden, self.rows], "logits", {"transB": 1}, MICROSOFT)[0]
