"""Build an ONNX graph node by node, with its weights in one data file beside it. It knows no model.

Weights start at multiples of ALIGN bytes: the runtime maps the pages around a weight itself, so nothing is gained from
whole pages, which a small model pays with a tenth of its size.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from tradewind.model.weights import WEIGHTS_FILE

GRAPH_FILE, DATA_FILE = "model.onnx", "model.onnx.data"
MICROSOFT = "com.microsoft"
ALIGN = 64
"""A cache line, the widest vector that a kernel loads."""
OPSETS = {"": 21, MICROSOFT: 1}
IR_VERSION = 10


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

    def constant(self, name: str, value: NDArray[np.generic] | np.generic) -> ir.Value:
        """A few numbers held in the graph itself, where the runtime infers shapes from them. The same name twice is the
        same value."""
        if name not in self.weights:
            array = np.asarray(value)
            dtype, shape = ir.DataType.from_numpy(array.dtype), ir.Shape(array.shape)
            tensor = ir.tensor(array, name=name)
            self.weights[name] = ir.Value(name=name, type=ir.TensorType(dtype), shape=shape, const_value=tensor)
        return self.weights[name]

    def widened(self, name: str, array: NDArray[np.float16]) -> ir.Value:
        """Stored as float16, float32 in the graph: exact, and done once, as the runtime loads the graph."""
        return self.node("Cast", [self.weight(name, array)], f"{name}.wide", {"to": ir.DataType.FLOAT})[0]

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

    @property
    def has_data(self) -> bool:
        """Whether weights are in the data file."""
        return bool(self._arrays)

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


def safetensors_offsets(path: Path) -> dict[str, int]:
    """Where each tensor starts in the file: after 8 bytes of the header's length, the header, and what it says."""
    with open(path, "rb") as file:
        length = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(length))
    return {name: 8 + length + facts["data_offsets"][0] for name, facts in header.items() if name != "__metadata__"}
