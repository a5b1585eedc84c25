"""What the page consists of: addresses and their contents, in a folder named by a digest of them all.

`/` and `/sw.js` keep their address and are asked about each time; everything else lies under `/s/<digest>/` and may be
kept for ever: the page's files, the libraries, the variant's files, its browser graphs, and `model.json` with all that the
page must know of the variant (sizes, prompt, examples). So a page and its parts always belong together, also where a
service worker brings them from its cache. It does not know HTTP.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tradewind.compression.export_onnx import GRAPH_FILE
from tradewind.compression.variant import Manifest, load_variant
from tradewind.corpus.prompt import SYSTEM, user_message
from tradewind.edge.ask import LEAST_TIMED
from tradewind.edge.graph_wasm import wasm_graph
from tradewind.edge.graph_webgpu import webgpu_graph
from tradewind.edge.packages import LOCK, PAGE
from tradewind.errors import UserError
from tradewind.files import digest, read_jsonl, sha256_file

CHUNKS = {"wasm": 128, "webgpu": 31}
"""Tokens of a prompt that one call runs. WASM: attention computes the masked half of a chunk, too. WebGPU: from 32 tokens on
onnxruntime-web 1.30 takes a kernel whose results are wrong where subgroups are narrow (SwiftShader's have 4 lanes)."""
LIBRARIES = {
    "vendor/onnxruntime/ort.wasm.min.mjs": "onnxruntime-web/dist/ort.wasm.min.mjs",
    "vendor/onnxruntime/ort-wasm-simd-threaded.mjs": "onnxruntime-web/dist/ort-wasm-simd-threaded.mjs",
    "vendor/onnxruntime/ort-wasm-simd-threaded.wasm": "onnxruntime-web/dist/ort-wasm-simd-threaded.wasm",
    "vendor/onnxruntime/ort.webgpu.min.mjs": "onnxruntime-web/dist/ort.webgpu.min.mjs",
    "vendor/onnxruntime/ort-wasm-simd-threaded.asyncify.mjs": "onnxruntime-web/dist/ort-wasm-simd-threaded.asyncify.mjs",
    "vendor/onnxruntime/ort-wasm-simd-threaded.asyncify.wasm": "onnxruntime-web/dist/ort-wasm-simd-threaded.asyncify.wasm",
    "vendor/tokenizers.mjs": "@huggingface/tokenizers/dist/tokenizers.min.mjs",
    "vendor/jinja.mjs": "@huggingface/jinja/dist/index.js",
}
"""Address -> file below `node_modules`."""
TEXT_FILES = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja")
EXAMPLE_KINDS = ("raises", "summary", "how", "returns", "parameter", "unanswerable")
"""Of the corpus's test questions: one each. The student has not been trained on them."""
EXAMPLE_CHARACTERS = 700
"""Passages no longer than this: about 200 tokens, so that the first token of an example comes soon."""
TYPES = {
    ".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".mjs": "text/javascript",
    ".wasm": "application/wasm", ".json": "application/json", ".svg": "image/svg+xml",
}  # fmt: skip
ROOT = "{{root}}"
"""Stands in `index.html` and `sw.js` for the folder of everything else."""


@dataclass(frozen=True)
class Site:
    """contents: address -> bytes, or the file that holds them."""

    contents: Mapping[str, bytes | Path]
    root: str


def checked(variant: Path, max_len: int) -> Manifest:
    """Raises UserError for a folder that is no variant for ONNX Runtime, or a context that it has not."""
    manifest = load_variant(variant)
    if "ort" not in manifest.files:
        raise UserError(f"{variant}: no files for ONNX Runtime (engines: {', '.join(sorted(manifest.files))})")
    if not 2 <= max_len <= manifest.max_position:
        raise UserError(f"--max-len must be in 2..{manifest.max_position} for {manifest.name}, not {max_len}")
    return manifest


def build_site(variant: Path, questions: Path, packages: Path, max_len: int) -> Site:
    """Raises UserError as `checked`, and for libraries that are not there."""
    manifest = checked(variant, max_len)
    graphs = {"wasm": wasm_graph(variant), "webgpu": webgpu_graph(variant, max_len)}
    facts = model_facts(manifest, graphs, questions, max_len)
    parts: dict[str, bytes | Path] = {"model.json": json.dumps(facts).encode()}
    parts.update({facts["runtimes"][name]["graph"]: graph for name, graph in graphs.items()})
    parts.update(_files(variant, manifest, packages))
    root = f"/s/{_digest(parts, manifest)}/"
    fixed = {address: _filled(name, root) for address, name in {"/": "index.html", "/sw.js": "sw.js"}.items()}
    return Site({**fixed, **{root + name: content for name, content in parts.items()}}, root)


def model_facts(manifest: Manifest, graphs: Mapping[str, bytes], questions: Path, max_len: int) -> dict[str, Any]:
    """`model.json`. graphs: by runtime. `bytes`: of all of the model that the runtime needs."""
    data = [name for name in manifest.files["ort"] if name != GRAPH_FILE]
    shared = sum(manifest.digests[name]["bytes"] for name in (*data, *TEXT_FILES))
    return {
        "name": manifest.name,
        "precision": manifest.precision,
        "parameters": manifest.parameters,
        "runtimes": {
            name: {"graph": f"model/graph.{name}.onnx", "bytes": len(graph) + shared, "chunk": CHUNKS[name]}
            for name, graph in graphs.items()
        },
        "data": [{"path": name, "bytes": manifest.digests[name]["bytes"]} for name in data],
        "eos": manifest.eos_token_ids,
        "maxLen": max_len,
        "leastTimed": LEAST_TIMED,
        "system": SYSTEM,
        "between": user_message("P", "Q").removeprefix("P").removesuffix("Q"),
        "examples": examples(questions),
    }


def examples(questions: Path) -> list[dict[str, str]]:
    """Passage, question and expected answer of the first short question of each kind; none without the corpus."""
    if not questions.is_file():
        return []
    rows = [row for row in read_jsonl(questions) if len(row["passage"]) <= EXAMPLE_CHARACTERS]
    found = (next((row for row in rows if row["kind"] == kind), None) for kind in EXAMPLE_KINDS)
    return [{key: row[key] for key in ("passage", "question", "answer")} for row in found if row is not None]


def media_type(address: str) -> str:
    return TYPES.get(Path(address).suffix, TYPES[".html"] if address == "/" else "application/octet-stream")


def _files(variant: Path, manifest: Manifest, packages: Path) -> Iterator[tuple[str, bytes | Path]]:
    for path in sorted(PAGE.iterdir()):
        if path.suffix in TYPES and path.name not in ("index.html", "sw.js", "package.json", LOCK):
            yield path.name, path
    for name in (*manifest.files["ort"], *TEXT_FILES):
        if name != GRAPH_FILE:
            yield f"model/{name}", variant / name
    for address, file in LIBRARIES.items():
        if not (packages / file).is_file():
            raise UserError(f"{packages / file}: missing; remove {packages.parent} and run again")
        yield address, packages / file


def _digest(parts: Mapping[str, bytes | Path], manifest: Manifest) -> str:
    """Of the page, the libraries' lock, the variant's manifest and what is made here; no need to read the weights."""
    own = {path.name: sha256_file(path) for path in sorted(PAGE.iterdir())}
    made = {name: content.decode("latin-1") for name, content in parts.items() if isinstance(content, bytes)}
    return digest([own, made, manifest.digests])


def _filled(name: str, root: str) -> bytes:
    return (PAGE / name).read_text(encoding="utf-8").replace(ROOT, root).encode()
