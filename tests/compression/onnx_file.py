"""Read and rewrite an exported graph, without the exporter's code."""

from pathlib import Path

import numpy as np
import onnx_ir as ir

from tradewind.model.decoder import DecoderConfig


def initializers(folder: Path) -> dict[str, np.ndarray]:
    """Name -> array of every weight of `model.onnx`."""
    model = ir.load(folder / "model.onnx")
    return {name: value.const_value.numpy() for name, value in model.graph.initializers.items()}


def operators(folder: Path) -> set[str]:
    return {node.op_type for node in ir.load(folder / "model.onnx").graph}


def store_constants(folder: Path, config: DecoderConfig) -> None:
    """Rewrite `model.onnx` so that what the runtime computes as it loads (wide scales, rotary tables) is stored in it."""
    model = ir.load(folder / "model.onnx")
    frequencies = config.rope_base ** -(np.arange(0, config.head_dim, 2) / config.head_dim)
    angles = np.arange(config.max_position + 16)[:, None] * frequencies
    tables = {"Cos": np.cos(angles), "Sin": np.sin(angles)}
    for node in [node for node in model.graph if node.op_type == "Cast"]:
        source = node.inputs[0]
        assert source is not None
        maker = source.producer()
        array = tables.get(maker.op_type) if maker else source.const_value.numpy()
        if array is None:  # of activations
            continue
        value = ir.Value(name=f"{node.name}.stored", const_value=ir.tensor(array.astype(np.float32)))
        value.type, value.shape = ir.TensorType(ir.DataType.FLOAT), ir.Shape(array.shape)
        model.graph.register_initializer(value)
        node.outputs[0].replace_all_uses_with(value)
        model.graph.remove(node, safe=True)
    for op in ("Cos", "Sin", "Mul", "Unsqueeze", "Range"):
        unused = [n for n in model.graph if n.op_type == op and n.name.startswith("rotary.")]
        for node in unused:
            model.graph.remove(node, safe=True)
    ir.save(model, folder / "model.onnx")
