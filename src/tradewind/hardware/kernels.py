"""How fast this machine multiplies, in the engine that serves: the peaks that its roofline is made of, measured.

A chain of products with matrices of a decoder's sizes, no attention, no model: nothing here sees the points that the
roofline predicts. Of each dtype of weights:

- `bandwidth`: bytes of the weights / seconds of a pass with one row, for weights of about a whole model's size;
- `flops`: operations / seconds of a pass with ROWS rows;
- `launch`: seconds of a pass through as many tiny nodes, / their number.

Median of repeats, dtypes and row counts taking turns. Not covered: accelerators (see `tradewind.hardware.peaks`), other
shapes, energy.
"""

import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import onnx_ir as ir
import onnxruntime as ort

from tradewind.compression.export_onnx import SERVED_ACCURACY
from tradewind.compression.onnx_graph import DATA_FILE, GRAPH_FILE, GraphBuilder
from tradewind.compression.onnx_linear import Linears
from tradewind.compression.quantize import Tensor, quantize_tensor

SHAPES = ((576, 1536), (1536, 576))
"""Inputs and outputs of the chain's matrices in turn: those of the base's MLP, which hold most of its weights."""
ROWS = (1, 2, 4, 8, 16, 64, 256)
DTYPES = ("float32", "int8", "int4", "w8a8")
TINY = 300
"""Nodes of the chain that measures launches."""


@dataclass
class Rates:
    """Of one dtype of weights: seconds of a pass by rows (every repeat), bytes and parameters of the chain."""

    bytes: int
    parameters: int
    seconds: dict[int, list[float]] = field(default_factory=dict)

    @property
    def bandwidth(self) -> float:
        return self.bytes / statistics.median(self.seconds[1])

    @property
    def flops(self) -> float:
        rows = max(self.seconds)
        return 2 * rows * self.parameters / statistics.median(self.seconds[rows])


def measure(
    megabytes: float, threads: int, repeats: int, dtypes: Sequence[str] = DTYPES, rows: Sequence[int] = ROWS
) -> dict[str, Rates]:
    """Rates by dtype, of chains whose weights are of about so many 10^6 bytes."""
    with TemporaryDirectory() as folder:
        chains = {dtype: _chain(Path(folder) / dtype, dtype, 1e6 * megabytes, threads) for dtype in dtypes}
        for number in range(repeats + 1):
            for count in rows:
                for session, rates in chains.values():
                    seconds = _pass(session, count)
                    if number:
                        rates.seconds.setdefault(count, []).append(seconds)
    return {dtype: rates for dtype, (_, rates) in chains.items()}


def launch(threads: int, repeats: int) -> float:
    """Seconds of a node that does next to nothing."""
    with TemporaryDirectory() as folder:
        graph = GraphBuilder()
        x = graph.input("x", ir.DataType.FLOAT, ["rows", SHAPES[0][0]])
        for number in range(TINY):
            (x,) = graph.node("Sin", [x], f"tiny.{number}")
        session = _open(graph, x, Path(folder), threads)
        return statistics.median(_pass(session, 1) for _ in range(repeats + 1)) / TINY


def _chain(folder: Path, dtype: str, size: float, threads: int) -> tuple[ort.InferenceSession, Rates]:
    graph = GraphBuilder()
    linears = Linears(graph, SERVED_ACCURACY)
    x, rng, made, parameters = (
        graph.input("x", ir.DataType.FLOAT, ["rows", SHAPES[0][0]]),
        np.random.default_rng(0),
        0,
        0,
    )
    number = 0
    while made < size:
        for inputs, outputs in SHAPES:
            weight = quantize_tensor(rng.normal(0, inputs**-0.5, (outputs, inputs)).astype(np.float32), dtype)
            x = linears(x, weight, f"product.{number}")
            made, parameters, number = made + _bytes(weight), parameters + inputs * outputs, number + 1
    return _open(graph, x, folder, threads), Rates(made, parameters)


def _bytes(weight: Tensor) -> int:
    return int(weight.nbytes)


def _open(graph: GraphBuilder, last: ir.Value, folder: Path, threads: int) -> ort.InferenceSession:
    graph.output(last, "y", ir.DataType.FLOAT, ["rows", SHAPES[0][0]])
    folder.mkdir(exist_ok=True)
    graph.write_data(folder / DATA_FILE)
    ir.save(graph.model(), folder / GRAPH_FILE)
    options = ort.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    return ort.InferenceSession(folder / GRAPH_FILE, options, providers=["CPUExecutionProvider"])


def _pass(session: ort.InferenceSession, rows: int) -> float:
    feed: Mapping[str, np.ndarray] = {"x": np.full((rows, SHAPES[0][0]), 0.01, np.float32)}
    started = time.perf_counter()
    session.run(None, feed)
    return time.perf_counter() - started
