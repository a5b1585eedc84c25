"""What `export_litert` has done by the LiteRT environment's Python: build, read back, run, time.

It imports nothing of this project. Commands: build WORK OUT, integers MODEL OUT, logits MODEL TEXTS OUT THREADS, bench
MODEL TOKENS THREADS.
"""

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

BLOCK = 32


def build(work: str, out: str) -> None:
    """Convert WORK/step.mlir and put WORK/weights.npz into it."""
    import flatbuffers
    from ai_edge_litert import schema_py_generated as schema

    model = schema.ModelT.InitFromPackedBuf(converted(Path(work, "step.mlir").read_text()), 0)
    graph = model.subgraphs[0]
    facts = json.loads(Path(work, "weights.json").read_text())
    arrays = np.load(Path(work, "weights.npz"))
    operators: list[Any] = []
    for index, fact in enumerate(facts):
        place = graph.inputs[index]
        if fact["bits"]:
            codes, scales = arrays[f"{index}.codes"], arrays[f"{index}.scales"]
            operators += constant(schema, model, place, fact, codes, scales)
        else:
            graph.tensors[place].buffer = buffer(schema, model, arrays[f"{index}.floats"])
    graph.inputs = graph.inputs[len(facts) :]
    graph.operators = operators + list(graph.operators)
    builder = flatbuffers.Builder(1 << 20)
    builder.Finish(model.Pack(builder), file_identifier=b"TFL3")
    Path(out).write_bytes(bytes(builder.Output()))


def converted(text: str) -> bytes:
    """StableHLO text -> flatbuffer. The converter names an operator that it lacks in what it raises."""
    from litert_converter import converter_api_ext as api
    from litert_converter.mlir import ir, passmanager

    context = ir.Context()
    api.prepare_mlir_context(context)
    module = ir.Module.parse(text, context)
    api.run_convert_to_tfl_passes(module, passmanager.PassManager(context=context), api.ConvertToTFLConfig())
    return api.export_flatbuffer_to_bytes(module.operation)


def constant(schema: Any, model: Any, place: int, fact: Any, codes: np.ndarray, scales: np.ndarray) -> list[Any]:
    """Codes as a constant, and the two operators that make tensor `place` of them."""
    graph = model.subgraphs[0]
    int_type = schema.TensorType.INT8 if fact["bits"] == 8 else schema.TensorType.INT4
    blocks = [len(scales), BLOCK]
    held = tensor(schema, graph, fact["name"], blocks, int_type, buffer(schema, model, codes))
    how = graph.tensors[held].quantization = schema.QuantizationParametersT()
    how.scale, how.zeroPoint, how.quantizedDimension = scales, np.zeros(len(scales), np.int64), 0
    floats = tensor(schema, graph, fact["name"] + ".blocks", blocks, schema.TensorType.FLOAT32, 0)
    shape = buffer(schema, model, np.array(fact["shape"], np.int32))
    wanted = tensor(schema, graph, fact["name"] + ".shape", [2], schema.TensorType.INT32, shape)
    reshape = schema.ReshapeOptionsT()
    reshape.newShape = fact["shape"]
    dequantize = operator(schema, model, "DEQUANTIZE", [held], floats, schema.DequantizeOptionsT())
    return [dequantize, operator(schema, model, "RESHAPE", [floats, wanted], place, reshape)]


def tensor(schema: Any, graph: Any, name: str, shape: list[int], kind: int, held: int) -> int:
    made = schema.TensorT()
    made.name, made.shape, made.type, made.buffer, made.hasRank = name.encode(), shape, kind, held, True
    graph.tensors.append(made)
    return len(graph.tensors) - 1


def buffer(schema: Any, model: Any, array: np.ndarray) -> int:
    made = schema.BufferT()
    made.data = np.frombuffer(array.tobytes(), np.uint8)
    model.buffers.append(made)
    return len(model.buffers) - 1


def operator(schema: Any, model: Any, name: str, inputs: list[int], output: int, options: Any) -> Any:
    kind = getattr(schema.BuiltinOperator, name)
    known = [code.builtinCode for code in model.operatorCodes]
    if kind not in known:
        code = schema.OperatorCodeT()
        code.builtinCode, code.deprecatedBuiltinCode, code.version = kind, kind, 6 if name == "DEQUANTIZE" else 1
        model.operatorCodes.append(code)
        known.append(kind)
    made = schema.OperatorT()
    made.opcodeIndex, made.inputs, made.outputs, made.builtinOptions = known.index(kind), inputs, [output], options
    made.builtinOptionsType = getattr(schema.BuiltinOptions, type(options).__name__.removesuffix("T"))
    return made


def integers(path: str, out: str) -> None:
    """NAME.codes int8 [out, in], NAME.scales float16 [out, in / 32] and NAME.bits of every quantized weight."""
    from ai_edge_litert import schema_py_generated as schema

    model = schema.ModelT.InitFromPackedBuf(Path(path).read_bytes(), 0)
    graph = model.subgraphs[0]
    shapes = {t.name.decode(): model.buffers[t.buffer].data for t in graph.tensors if t.name.endswith(b".shape")}
    found: dict[str, Any] = {}
    for held in graph.tensors:
        name = held.name.decode()
        if f"{name}.shape" not in shapes:
            continue
        rows, width = np.frombuffer(bytes(shapes[f"{name}.shape"]), np.int32)
        data = np.frombuffer(bytes(model.buffers[held.buffer].data), np.uint8)
        bits = 8 if held.type == schema.TensorType.INT8 else 4
        if bits == 4:
            data = np.stack([data << 4, data & 0xF0], axis=-1)
            codes = data.view(np.int8) >> 4
        else:
            codes = data.view(np.int8)
        scales = np.asarray(held.quantization.scale, np.float32)
        narrow = scales.astype(np.float16)
        assert np.array_equal(narrow.astype(np.float32), scales), f"{name}: scales that are no float16 numbers"
        found[f"{name}.codes"], found[f"{name}.bits"] = codes.reshape(rows, width), np.array(bits)
        found[f"{name}.scales"] = narrow.reshape(rows, width // BLOCK)
    np.savez(out, **found)


class Model:
    """The step with its caches, which are passed through NumPy at every token."""

    def __init__(self, path: str, threads: int) -> None:
        from ai_edge_litert.interpreter import Interpreter

        self.run = Interpreter(model_path=path, num_threads=threads)
        self.run.allocate_tensors()
        self.token, self.position, *self.past = (d["index"] for d in self.run.get_input_details())
        self.logits, *self.present = (d["index"] for d in self.run.get_output_details())
        self.shape = self.run.get_input_details()[2]["shape"]
        self.reset()

    def reset(self) -> None:
        self.length, self.cache = 0, [np.zeros(self.shape, np.float32) for _ in self.past]

    def step(self, token: int) -> np.ndarray:
        self.run.set_tensor(self.token, np.array(token, np.int32))
        self.run.set_tensor(self.position, np.array(self.length, np.int32))
        for index, array in zip(self.past, self.cache, strict=True):
            self.run.set_tensor(index, array)
        self.run.invoke()
        self.cache = [self.run.get_tensor(index) for index in self.present]
        self.length += 1
        return self.run.get_tensor(self.logits)[0, 0]


def logits(path: str, texts: str, out: str, threads: str) -> None:
    model, made = Model(path, int(threads)), {}
    for index, (tokens, start) in enumerate(json.loads(Path(texts).read_text())):
        model.reset()
        lines = [model.step(token) for token in tokens[:-1]]
        made[str(index)] = np.stack(lines[start - 1 :])
    np.savez(out, **made)  # type: ignore[arg-type]


def bench(path: str, tokens: str, threads: str) -> None:
    begun = time.perf_counter()
    model = Model(path, int(threads))
    model.step(1)  # dequantizes the constants
    load = time.perf_counter() - begun
    seconds = []
    for _ in range(int(tokens)):
        begun = time.perf_counter()
        model.step(1)
        seconds.append(time.perf_counter() - begun)
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    found = {"load_s": load, "decode_tokens_per_s": len(seconds) / sum(seconds), "tokens": len(seconds)}
    found |= {"peak_rss_bytes": int(status["VmHWM"].split()[0]) * 1024, "bytes": Path(path).stat().st_size}
    print(json.dumps(found))


COMMANDS: dict[str, Callable[..., None]] = {"build": build, "integers": integers, "logits": logits, "bench": bench}

if __name__ == "__main__":
    COMMANDS[sys.argv[1]](*sys.argv[2:])
