"""A variant: a folder with the weights of one model at one precision in every container, and the manifest that names them.

The manifest is what serving, caches, evaluation and other runtimes read; a folder is a variant only if every file that its
manifest lists is there with the bytes that it states. It does not know how weights are trained, quantized or run.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from tradewind.compression.export_gguf import export_gguf
from tradewind.compression.export_onnx import DATA_FILE, SERVED_ACCURACY, export_onnx
from tradewind.compression.quantize import CODES, SCALES, Blocks, Tensor
from tradewind.config import build
from tradewind.errors import UserError
from tradewind.files import atomic_path, read_json, sha256_file, write_json
from tradewind.model.decoder import DecoderConfig
from tradewind.model.tokenizer import Tokenizer
from tradewind.model.weights import weights_digest

FORMAT = 1
MANIFEST = "manifest.json"
MODELS = ("base", "teacher", "student")
PRECISIONS = ("fp32", "int8", "int4")
LICENCE = "Apache-2.0"


@dataclass(frozen=True)
class Manifest:
    """What a variant is.

    parent: the unquantized variant that this one approximates; None for one that is unquantized itself.
    bytes: of the weights that ONNX Runtime maps. rules: what was quantized how. files: engine -> file names.
    digests: file name -> its size and SHA-256. max_position: the longest context the weights were made for.
    """

    name: str
    model: str
    precision: str
    parent: str | None
    parameters: int
    bytes: int
    weights_digest: str
    tokenizer_digest: str
    template_digest: str
    rules: dict[str, Any]
    config: dict[str, Any]
    files: dict[str, list[str]]
    digests: dict[str, dict[str, Any]]
    eos_token_ids: list[int]
    max_position: int
    licence: str = LICENCE
    format: int = field(default=FORMAT)

    @property
    def decoder(self) -> DecoderConfig:
        return DecoderConfig(**self.config)


def split_name(name: str) -> tuple[str, str]:
    """`teacher-int8` -> (`teacher`, `int8`). Raises UserError with the choices."""
    model, _, precision = name.partition("-")
    if model not in MODELS or precision not in PRECISIONS:
        raise UserError(f"unknown variant {name!r} (choices: {'|'.join(MODELS)} - {'|'.join(PRECISIONS)})")
    return model, precision


def write_variant(
    folder: Path,
    name: str,
    config: DecoderConfig,
    tensors: Mapping[str, Tensor],
    tokenizer: Tokenizer,
    rules: Mapping[str, Any] | None = None,
    accuracy_level: int = SERVED_ACCURACY,
) -> Manifest:
    """Export one variant to ONNX, to GGUF where it is quantized, and write its manifest. The folder appears complete or not
    at all; the same input gives the same bytes."""
    model, precision = split_name(name)
    with atomic_path(folder) as made:
        files = {"ort": export_onnx(made, config, tensors, accuracy_level)}
        if precision != "fp32":
            about = {"general.name": f"tradewind {name}", "general.license": LICENCE.lower()}
            files["gguf"] = export_gguf(made, config, tensors, tokenizer, about)
        tokenizer.save(made)
        manifest = Manifest(
            name=name,
            model=model,
            precision=precision,
            parent=None if precision == "fp32" else f"{model}-fp32",
            parameters=config.num_parameters,
            bytes=(made / DATA_FILE).stat().st_size,
            weights_digest=tensors_digest(tensors),
            tokenizer_digest=tokenizer.digest,
            template_digest=tokenizer.template_digest,
            rules=dict(rules or {}),
            config=asdict(config),
            files=files,
            digests=_digests(made),
            eos_token_ids=tokenizer.eos_token_ids,
            max_position=config.max_position,
        )
        write_json(made / MANIFEST, asdict(manifest))
    return manifest


def load_variant(folder: str | Path, verify: bool = True) -> Manifest:
    """The manifest of a variant folder, once its files are those that it lists (`verify` False: sizes alone).

    Raises:
        UserError: no manifest, another format, or the first file that is missing or altered.
    """
    folder = Path(folder)
    stored = read_json(folder / MANIFEST)
    if not isinstance(stored, dict) or stored.get("format") != FORMAT:
        raise UserError(f"{folder / MANIFEST}: not a manifest of format {FORMAT}; run the export stage again")
    manifest = build(Manifest, stored, str(folder / MANIFEST))
    for name, expected in manifest.digests.items():
        _check(folder / name, expected, verify)
    return manifest


def tensors_digest(tensors: Mapping[str, Tensor]) -> str:
    """16 hexadecimal digits that name weights as they are: codes and scales where quantized, floats elsewhere."""
    arrays: dict[str, np.ndarray] = {}
    for name, tensor in tensors.items():
        if isinstance(tensor, Blocks):
            arrays |= {name + CODES: tensor.codes, name + SCALES: tensor.scales}
        else:
            arrays[name] = tensor
    return weights_digest(arrays)


def _digests(folder: Path) -> dict[str, dict[str, Any]]:
    return {
        path.name: {"bytes": path.stat().st_size, "sha256": sha256_file(path)}
        for path in sorted(folder.iterdir())
        if path.is_file() and path.name != MANIFEST
    }


def _check(path: Path, expected: Mapping[str, Any], verify: bool) -> None:
    if not path.is_file():
        raise UserError(f"{path}: missing, though the manifest lists it; run the export stage again")
    if path.stat().st_size != expected["bytes"]:
        raise UserError(f"{path}: {path.stat().st_size} bytes where the manifest says {expected['bytes']}")
    if verify and sha256_file(path) != expected["sha256"]:
        raise UserError(f"{path}: its content is not what the manifest says")
