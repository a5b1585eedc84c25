"""The rates that ONNX Runtime reaches on this host's CPU: chains of the operators that exported decoders are made of.

By dtype of weights: `at_rows`, operations / seconds of the chains of GRID; `flops`, those of ROWS rows; `bandwidth`, bytes of
the longest chain / seconds for one row; all less what starting the operators takes. Attention, by dtype of the cache: the
bytes of CONTEXT tokens / seconds of one more token, and operations / seconds of prompts of TOKENS. `elementwise`: bytes in
and out of a norm / seconds. `launch`: of the operators of a layer, each kind on so little that nothing else counts, the mean
(LAYER says how many of which a layer has).
"""

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from tradewind.compression.export_onnx import SERVED_ACCURACY
from tradewind.compression.onnx_graph import DATA_FILE, GRAPH_FILE, MICROSOFT, GraphBuilder
from tradewind.compression.onnx_linear import Linears
from tradewind.compression.quantize import quantize_tensor
from tradewind.engine.ort import open_session
from tradewind.hardware.peaks import (
    ATTENTION,
    CONTEXT,
    GRID,
    HEAD_DIM,
    HEADS,
    HIDDEN,
    KV_HEADS,
    MLP,
    ROWS,
    TOKENS,
    AtRows,
    Peaks,
    more,
    pairs_operations,
    turns,
)
from tradewind.hardware.roofline import ELEMENTWISE

KERNELS = (10, 4)
"""Operators that an exported graph runs per layer and besides, in decode."""
LAYER = {"product": 5, "attention": 1, "norm": 2, "activation": 2}
"""Kind -> how many of them a layer has."""
NODES = 60
"""Of chains of other operators."""
SMALL = 64
DTYPES = ("float32", "int8", "int4", "w8a8")
CACHES = {"float32": np.float32, "int8": np.int8}


@dataclass
class Chain:
    """A session with bound inputs; `run` is one pass, in seconds. bytes: of its weights. nodes: of it that count."""

    session: Any
    binding: Any
    nodes: int
    bytes: int = 0
    kept: list[Any] = field(default_factory=list)  # memory that the binding points into

    def run(self) -> float:
        started = time.perf_counter()
        self.session.run_with_iobinding(self.binding)
        return time.perf_counter() - started


def measure(threads: int, repeats: int) -> Peaks:
    """Of as many threads as the engine is given."""
    with TemporaryDirectory() as folder:
        place = _places(Path(folder))
        chains: dict[tuple[str, Any], Chain] = {("dispatch", 0): small(next(place), threads, 1)}
        chains |= {("launch", kind): make(next(place), threads) for kind, make in SMALLEST.items()}
        for dtype in DTYPES:
            for rows, lengths in GRID.items():
                for pairs in lengths:
                    chains[dtype, (rows, pairs)] = products(next(place), dtype, rows, pairs, threads)
        for dtype in CACHES:
            for tokens, past in ((1, CONTEXT), (1, 1), *((tokens, 0) for tokens in (1, *TOKENS))):
                chains[ATTENTION + dtype, (tokens, past)] = attention(next(place), threads, dtype, tokens, past)
        chains[ELEMENTWISE, ROWS] = norms(next(place), threads)
        seconds = turns({key: chain.run for key, chain in chains.items()}, repeats)
        return rates(seconds, {key: (chain.nodes, chain.bytes) for key, chain in chains.items()})


def rates(seconds: Mapping[Any, float], sizes: Mapping[Any, tuple[int, int]]) -> Peaks:
    """From seconds of a pass, and (nodes, bytes of weights), by chain."""
    dispatch = seconds["dispatch", 0]
    starts = {kind: max(0.0, seconds["launch", kind] - dispatch) / sizes["launch", kind][0] for kind in LAYER}
    bandwidth, at_rows = dict[str, float](), dict[str, AtRows]()

    def net(key: tuple[str, Any], kind: str) -> float:
        """Without dispatch and launches; at least a tenth of it."""
        return max(0.1 * seconds[key], seconds[key] - dispatch - starts[kind] * sizes[key][0])

    def rate(dtype: str, rows: int, pairs: int) -> tuple[float, float]:
        key = (dtype, (rows, pairs))
        return sizes[key][1], 4 * rows * pairs * HIDDEN * MLP / net(key, "product")

    for dtype in DTYPES:
        at_rows[dtype] = [(rows, [rate(dtype, rows, pairs) for pairs in lengths]) for rows, lengths in GRID.items()]
        longest = (dtype, (1, max(GRID[1])))
        bandwidth[dtype] = sizes[longest][1] / net(longest, "product")
    for dtype, kind in CACHES.items():
        name = ATTENTION + dtype
        read = 2 * KV_HEADS * HEAD_DIM * np.dtype(kind).itemsize * (CONTEXT - 1) * NODES
        longer = more(seconds[name, (1, CONTEXT)], seconds[name, (1, 1)])
        bandwidth[name] = read / longer
        at_rows[name] = [(1, [(1.0, pairs_operations(CONTEXT - 1) * NODES / longer)])]
        for tokens in TOKENS:
            took = more(seconds[name, (tokens, 0)], seconds[name, (1, 0)])
            at_rows[name].append((tokens, [(1.0, pairs_operations(tokens * (tokens + 1) / 2) * NODES / took)]))
    bandwidth[ELEMENTWISE] = 4 * 4 * ROWS * HIDDEN * NODES / net((ELEMENTWISE, ROWS), "norm")
    launch = sum(starts[kind] * count for kind, count in LAYER.items()) / sum(LAYER.values())
    flops = {dtype: points[-1][1][-1][1] for dtype, points in at_rows.items()}
    return Peaks(flops, bandwidth, launch, dispatch, KERNELS, at_rows)


def small(folder: Path, threads: int, nodes: int = NODES) -> Chain:
    """Products of one row with matrices of SMALL x SMALL, in 4 bits."""
    graph, rng = GraphBuilder(), np.random.default_rng(0)
    x, linear = graph.input("x", ir.DataType.FLOAT, (1, SMALL)), Linears(graph, SERVED_ACCURACY)
    for number in range(nodes):
        x = linear(x, quantize_tensor(_weight(rng, SMALL, SMALL), "int4"), f"product.{number}")
    graph.output(x, "y", ir.DataType.FLOAT, (1, SMALL))
    return _opened(graph, folder, threads, {"x": np.ones((1, SMALL), np.float32)}, {"y": (1, SMALL)}, nodes)


def products(folder: Path, dtype: str, rows: int, pairs: int, threads: int) -> Chain:
    graph, rng = GraphBuilder(), np.random.default_rng(0)
    x, linear, size = graph.input("x", ir.DataType.FLOAT, (rows, HIDDEN)), Linears(graph, SERVED_ACCURACY), 0
    for number in range(pairs):
        for name, inputs, outputs in (("up", HIDDEN, MLP), ("down", MLP, HIDDEN)):
            weight = quantize_tensor(_weight(rng, outputs, inputs), dtype)
            x, size = linear(x, weight, f"{name}.{number}"), size + weight.nbytes
    graph.output(x, "y", ir.DataType.FLOAT, (rows, HIDDEN))
    given = {"x": np.full((rows, HIDDEN), 0.01, np.float32)}
    return _opened(graph, folder, threads, given, {"y": (rows, HIDDEN)}, 2 * pairs, size)


def attention(folder: Path, threads: int, dtype: str = "int8", tokens: int = 1, past: int = 1) -> Chain:
    """NODES times attention of `tokens` new tokens to `past` ones and themselves, over one cache."""
    graph, kind = GraphBuilder(), CACHES[dtype]
    width, room = (HEADS + 2 * KV_HEADS) * HEAD_DIM, past + 2 * tokens
    x = graph.input("x", ir.DataType.FLOAT, (1, tokens, width))
    int32, cache = ir.DataType.INT32, (1, KV_HEADS, room, HEAD_DIM)
    queries, lasts, longest = (graph.input(name, int32, shape) for name, shape in
                               (("queries", (1,)), ("lasts", (1,)), ("longest", ())))  # fmt: skip
    angles = np.zeros((room + tokens, HEAD_DIM // 2), np.float32)
    cosines, sines = (graph.weight(name, angles + value) for name, value in (("cosines", 1), ("sines", 0)))
    attributes: dict[str, Any] = {"num_heads": HEADS, "kv_num_heads": KV_HEADS, "do_rotary": 1}
    scales: list[ir.Value | None] = [None, None]
    if kind == np.int8:
        line = np.full(KV_HEADS * HEAD_DIM, 0.01, np.float32)
        scales = [graph.weight(f"{half}_scale", line) for half in "kv"]
        attributes |= {"k_quant_type": "PER_CHANNEL", "v_quant_type": "PER_CHANNEL", "kv_cache_bit_width": 8}
    ways, shapes, pasts = list[ir.Value](), dict[str, tuple[int, ...]](), dict[str, NDArray[Any]]()
    held = np.zeros(cache, kind)
    for number in range(NODES):
        names = [f"past.{number}.{half}" for half in "kv"]
        pair = [graph.input(name, ir.DataType.from_numpy(held.dtype), cache) for name in names]
        inputs = [x, None, None, *pair, lasts, longest, cosines, sines, *[None] * 3, *scales, *[None] * 2, queries]
        mixed, *present = graph.node("GroupQueryAttention", inputs, f"way.{number}", attributes, MICROSOFT, outputs=3)
        for name, value in zip(names, present, strict=True):
            graph.output(value, f"now.{name}", ir.DataType.from_numpy(held.dtype), cache)
            pasts[name] = held
        ways.append(mixed)
    (total,) = graph.node("Sum", ways, "total")
    graph.output(total, "y", ir.DataType.FLOAT, (1, tokens, HEADS * HEAD_DIM))
    shapes["y"] = (1, tokens, HEADS * HEAD_DIM)
    given = {
        "x": np.full((1, tokens, width), 0.01, np.float32),
        "queries": np.array([tokens], np.int32),
        "lasts": np.array([past + tokens - 1], np.int32),
        "longest": np.array(past + tokens, np.int32),
        **pasts,
    }
    return _opened(graph, folder, threads, given, shapes, NODES, in_place={f"now.{name}": held for name in pasts})


def norms(folder: Path, threads: int, rows: int = ROWS) -> Chain:
    graph, shape = GraphBuilder(), (1, rows, HIDDEN)
    branch = x = graph.input("x", ir.DataType.FLOAT, shape)
    gamma = graph.weight("gamma", np.ones(HIDDEN, np.float32))
    for number in range(NODES):
        made = graph.node("SkipSimplifiedLayerNormalization", [branch, x, gamma], f"norm.{number}", {"epsilon": 1e-5},
                          MICROSOFT, outputs=4)  # fmt: skip
        branch, x = made[0], made[3]
    (total,) = graph.node("Add", [branch, x], "total")
    graph.output(total, "y", ir.DataType.FLOAT, shape)
    return _opened(graph, folder, threads, {"x": np.ones(shape, np.float32)}, {"y": shape}, NODES)


def activations(folder: Path, threads: int) -> Chain:
    """SiLU and a product, by turns."""
    graph, shape = GraphBuilder(), (1, 1, MLP)
    x = graph.input("x", ir.DataType.FLOAT, shape)
    for number in range(NODES // 2):
        (silu,) = graph.node("QuickGelu", [x], f"silu.{number}", {"alpha": 1.0}, MICROSOFT)
        (x,) = graph.node("Mul", [silu, x], f"gated.{number}")
    graph.output(x, "y", ir.DataType.FLOAT, shape)
    return _opened(graph, folder, threads, {"x": np.ones(shape, np.float32)}, {"y": shape}, NODES)


def _opened(
    graph: GraphBuilder, folder: Path, threads: int, given: Mapping[str, NDArray[Any]], made: Mapping[str, tuple[int, ...]],
    nodes: int, size: int = 0, in_place: Mapping[str, NDArray[Any]] | None = None,
) -> Chain:  # fmt: skip
    graph.write_data(folder / DATA_FILE)
    ir.save(graph.model(), folder / GRAPH_FILE)
    session = open_session(folder / GRAPH_FILE, threads)
    binding = session.io_binding()
    outputs = {name: np.zeros(shape, np.float32) for name, shape in made.items()} | dict(in_place or {})
    for name, array in given.items():
        binding.bind_input(name, "cpu", 0, array.dtype.type, array.shape, array.ctypes.data)
    for name, array in outputs.items():
        binding.bind_output(name, "cpu", 0, array.dtype.type, array.shape, array.ctypes.data)
    return Chain(session, binding, nodes, size, [given, outputs])


SMALLEST: dict[str, Callable[[Path, int], Chain]] = {
    "product": small,
    "attention": attention,
    "norm": partial(norms, rows=1),
    "activation": activations,
}
"""Chains of one row, by kind."""


def _weight(rng: np.random.Generator, outputs: int, inputs: int) -> NDArray[np.float32]:
    return rng.normal(0, inputs**-0.5, (outputs, inputs)).astype(np.float32)


def _places(folder: Path) -> Iterator[Path]:
    number = 0
    while True:
        place = folder / str(number)
        place.mkdir()
        yield place
        number += 1
