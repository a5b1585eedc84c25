"""Runtimes that hold one variant's integers, each as a function from a text to log-probabilities.

A text is token ids and the place where its answer starts; the answer is given, so every runtime sees the same context
at every position. Log-probabilities, not logits, for llama.cpp tells no others. A runtime that is not here raises
Missing with what is missing and how to get it. Not covered: sampling, batches, speed.

What each computes with:
- `jax`: the GGUF's integers dequantized to float32, float32 products, float32 cache. The reference.
- `jax, int8 cache`: the same with the cache as served.
- `ort`: the variant's graph, activations rounded to int8 per block of 32 (accuracy level 4), int8 cache.
- `ort, float32`: the ONNX integers in a graph with float32 products (accuracy level 0) and a float32 cache.
- `llama.cpp`: the GGUF as llama.cpp runs it: activations in `Q8_0`, float16 cache.
- `litert`: see `tradewind.compression.export_litert`: float32 products, float32 cache.
"""

import json
import os
import shutil
import subprocess
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from numpy.typing import NDArray

from tradewind.compression.compare_integers import differing, from_gguf, from_onnx
from tradewind.compression.export_litert import GET_IT as GET_LITERT
from tradewind.compression.export_litert import PYTHON, export_litert, integers, logits
from tradewind.compression.export_onnx import export_onnx
from tradewind.compression.kv_cache import SCALES_FILE
from tradewind.compression.quantize import Tensor
from tradewind.compression.variant import Manifest
from tradewind.engine.contract import Engine
from tradewind.engine.jax import JaxEngine
from tradewind.engine.ort import OrtEngine
from tradewind.errors import UserError
from tradewind.evaluation.metrics import log_softmax
from tradewind.model.gguf import load_gguf
from tradewind.model.tokenizer import Tokenizer
from tradewind.model.weights import to_model

LogProbs = NDArray[np.float32]
"""[answer tokens, vocabulary]: row i is what the runtime says before the answer's token i."""
LLAMA = Path(".venv-llama/bin/python")
GET_LLAMA = (
    "no llama.cpp here: `make llama` gets it, or pass --llama with a llama-server or a Python that has xllamacpp"
)
REQUEST_S = 120


class Missing(UserError):
    """A runtime that is not on this machine, or a variant that it does not run; says how to get it."""


@dataclass(frozen=True)
class Text:
    """tokens: prompt and answer. start: where the answer starts."""

    tokens: tuple[int, ...]
    start: int


@dataclass(frozen=True)
class Setup:
    """What runtimes are made from. llama: an executable, or None: found. litert: its Python."""

    folder: Path
    manifest: Manifest
    max_len: int
    threads: int = 2
    llama: str | None = None
    litert: Path = PYTHON


Runtime = Callable[[Setup, Sequence[Text]], list[LogProbs]]


def by_engine(engine: Engine, texts: Sequence[Text]) -> list[LogProbs]:
    """Prefill the prompt, then feed the answer token by token, as serving does."""
    try:
        return [_fed(engine, text) for text in texts]
    finally:
        engine.close()


def greedy(engine: Engine, prompt: Sequence[int], count: int, ends: Sequence[int]) -> Text:
    """The engine's own answer: `count` tokens, or fewer with an end token the last."""
    prefix = engine.prefill(prompt)
    assert prefix.logits is not None
    engine.insert(prefix, 0)
    answer = [int(prefix.logits.argmax())]
    while len(answer) < count and answer[-1] not in ends:
        answer.append(int(engine.step({0: answer[-1:]})[0][-1].argmax()))
    engine.release(0)
    return Text((*prompt, *answer), len(prompt))


def reference_engine(setup: Setup) -> JaxEngine:
    if "gguf" not in setup.manifest.files:
        raise UserError(f"{setup.folder}: no GGUF file; quantized variants alone are compared")
    config, flat, _ = load_gguf(setup.folder / setup.manifest.files["gguf"][0])
    return JaxEngine(to_model(config, flat), setup.manifest.weights_digest, 1, setup.max_len)


def jax_float32(setup: Setup, texts: Sequence[Text]) -> list[LogProbs]:
    return by_engine(reference_engine(setup), texts)


def jax_int8_cache(setup: Setup, texts: Sequence[Text]) -> list[LogProbs]:
    if SCALES_FILE not in setup.manifest.digests:
        raise Missing(f"{setup.folder} has no {SCALES_FILE}: it was exported before; run the export stage again")
    return by_engine(JaxEngine.load(setup.folder, slots=1, max_len=setup.max_len), texts)


def ort_served(setup: Setup, texts: Sequence[Text]) -> list[LogProbs]:
    return by_engine(OrtEngine.load(setup.folder, slots=1, max_len=setup.max_len, threads=setup.threads), texts)


def ort_float32(setup: Setup, texts: Sequence[Text]) -> list[LogProbs]:
    """The integers of the variant's own ONNX file, exported once more with other arithmetic."""
    _, flat, _ = load_gguf(setup.folder / setup.manifest.files["gguf"][0])
    tensors: dict[str, Tensor] = {**flat, **from_onnx(setup.folder, setup.manifest)}
    with TemporaryDirectory() as made:
        names = export_onnx(Path(made), setup.manifest.decoder, tensors, accuracy_level=0)
        manifest = replace(setup.manifest, files={"ort": names})
        return by_engine(OrtEngine(Path(made), manifest, 1, setup.max_len, setup.threads), texts)


def llama_cpp(setup: Setup, texts: Sequence[Text]) -> list[LogProbs]:
    """One request for each position: its server gives log-probabilities of tokens that it makes, not of those given."""
    made = Tokenizer.load(setup.folder).encode("a")[0]
    with _llama_server(setup) as url:
        return [
            np.stack([_told(url, text.tokens[:end], made, setup) for end in range(text.start, len(text.tokens))])
            for text in texts
        ]


def lite_rt(setup: Setup, texts: Sequence[Text]) -> list[LogProbs]:
    """A `.tflite` made for this comparison, once it is known to hold the same integers."""
    if not os.access(setup.litert, os.X_OK):
        raise Missing(GET_LITERT)
    with TemporaryDirectory() as made:
        model = Path(made) / "step.tflite"
        export_litert(setup.folder, model, max(len(text.tokens) for text in texts), setup.litert)
        if wrong := differing(from_gguf(setup.folder, setup.manifest), integers(model, setup.litert)):
            raise UserError(
                f"{setup.manifest.name}: the .tflite has other integers in {len(wrong)} tensors: {wrong[0]}"
            )
        lines = logits(model, [(text.tokens, text.start) for text in texts], setup.threads, setup.litert)
    return [log_softmax(part) for part in lines]


def find_llama(given: str | None) -> str:
    """A llama-server, or a Python with xllamacpp. Raises Missing."""
    found = given or shutil.which("llama-server") or str(LLAMA)
    if not os.access(found, os.X_OK):
        raise Missing(f"{given}: no such executable" if given else GET_LLAMA)
    return found


def _fed(engine: Engine, text: Text) -> LogProbs:
    prefix = engine.prefill(text.tokens[: text.start])
    engine.insert(prefix, 0)
    lines = [prefix.logits, *(engine.step({0: [token]})[0][-1].copy() for token in text.tokens[text.start : -1])]
    engine.release(0)
    return log_softmax(np.stack(lines))


SERVE = """
import sys, xllamacpp
p = xllamacpp.CommonParams()
p.model.path, p.n_ctx, p.cpuparams.n_threads = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
p.n_parallel, p.port, p.verbosity = 1, 0, 0
server = xllamacpp.Server(p)
print("listening", server.listening_address, flush=True)
sys.stdin.read()
"""


@contextmanager
def _llama_server(setup: Setup) -> Iterator[str]:
    """The address of a server of the variant's GGUF, which ends with the block."""
    found, size = find_llama(setup.llama), (str(setup.max_len), str(setup.threads))
    model = str(setup.folder / setup.manifest.files["gguf"][0])
    if Path(found).name.startswith("python"):
        command = [found, "-c", SERVE, model, *size]
    else:
        served = ("--host", "127.0.0.1", "--port", "0", "--parallel", "1", "--offline", "--no-ui")
        command = [found, "--model", model, "--ctx-size", size[0], "--threads", size[1], *served]
    quiet = subprocess.STDOUT if "-c" not in command else subprocess.DEVNULL
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=quiet, text=True)
    assert process.stdout is not None
    try:
        address = next((word for line in process.stdout for word in line.split() if _is_address(line, word)), None)
        if address is None:
            raise Missing(f"{found} did not start: it exited with {process.wait()}. {GET_LLAMA}")
        yield address
    finally:
        process.kill()
        process.wait()


def _is_address(line: str, word: str) -> bool:
    return "listening" in line and word.startswith("http://")


def _told(url: str, tokens: Sequence[int], made: int, setup: Setup) -> LogProbs:
    """Log-probabilities [vocabulary] after the tokens.

    Of a token that is part of a character the server tells nothing, so it is made to say the token `made`; the
    log-probabilities that it tells are those before the bias.
    """
    size = setup.manifest.decoder.vocab_size
    body = {"prompt": list(tokens), "n_predict": 1, "n_probs": size, "temperature": 0, "cache_prompt": True}
    body["logit_bias"] = [[made, 1e3]]
    request = urllib.request.Request(
        f"{url}/completion", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    try:
        with urllib.request.urlopen(request, timeout=REQUEST_S) as reply:
            rows = json.load(reply)["completion_probabilities"][0]["top_logprobs"]
    except (urllib.error.URLError, KeyError, IndexError) as error:
        raise UserError(f"llama.cpp gave no log-probabilities: {error}") from None
    line = np.full(size, -np.inf, np.float32)
    line[[row["id"] for row in rows]] = [row["logprob"] for row in rows]
    if not np.isfinite(line).all():
        raise UserError(f"llama.cpp gave log-probabilities of {len(rows)} of {size} tokens")
    return line


RUNTIMES: dict[str, Runtime] = {
    "jax, int8 cache": jax_int8_cache,
    "ort": ort_served,
    "ort, float32": ort_float32,
    "llama.cpp": llama_cpp,
    "litert": lite_rt,
}
"""All but the reference."""
