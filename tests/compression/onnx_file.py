"""Read the initializers of an exported graph, without the exporter's code."""

from pathlib import Path

import numpy as np
import onnx_ir as ir


def initializers(folder: Path) -> dict[str, np.ndarray]:
    """Name -> array of every weight of `model.onnx`."""
    model = ir.load(folder / "model.onnx")
    return {name: value.const_value.numpy() for name, value in model.graph.initializers.items()}


def operators(folder: Path) -> set[str]:
    return {node.op_type for node in ir.load(folder / "model.onnx").graph}
