"""A variant: a folder with one model's weights at one precision in every container, and the manifest that names them.

The manifest is what serving, caches, evaluation and other runtimes read; a folder is a variant only if every file that
its manifest lists is there with the bytes that it states. It does not know how weights are trained, exported or run.
"""

import re
from collections.abc import Mapping
from dataclasses import MISSING, asdict, dataclass, fields
from pathlib import Path
from typing import Any

from tradewind.errors import UserError
from tradewind.files import read_json, sha256_file, write_json
from tradewind.model.config import DecoderConfig

FORMAT = 1
MANIFEST = "manifest.json"
MODELS = ("base", "teacher", "student", "tiny")
"""Those with several variants, in the order in which they come to be; a study may have others."""
PRECISIONS = ("fp32", "int8", "w8a8", "mixed", "int4")
"""int8, int4: weights by blocks of 32; what multiplies them may round activations by blocks, too (ONNX Runtime, llama.cpp).
w8a8: one scale a row of weights and one a token, part of the model. mixed: int4, the sensitive matrices int8."""
LICENCE = "Apache-2.0"
MAX_FEED = 16
"""New tokens that a row of a batch takes in one call: graphs have rotary angles for so many positions past the context,
where the padding of a row that is nearly full falls."""


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
    format: int = FORMAT

    @property
    def decoder(self) -> DecoderConfig:
        return DecoderConfig(**self.config)


def split_name(name: str) -> tuple[str, str]:
    """`teacher-int8` -> (`teacher`, `int8`), `tiny-int4-qat` -> (`tiny`, `int4-qat`): model and recipe, whose first word is
    the precision. Raises UserError with the choices."""
    model, _, recipe = name.partition("-")
    if not re.fullmatch(r"[a-z][a-z0-9_]*", model) or not re.fullmatch(
        f"({'|'.join(PRECISIONS)})(-[a-z0-9]+)*", recipe
    ):
        raise UserError(f"unknown variant {name!r} (it is MODEL-PRECISION or MODEL-PRECISION-METHOD, such as student-int4; "
                        f"precisions: {', '.join(PRECISIONS)})")  # fmt: skip
    return model, recipe


def precision_of(recipe: str) -> str:
    """`int4-qat` -> `int4`."""
    return recipe.partition("-")[0]


def load_variant(folder: str | Path, verify: bool = True) -> Manifest:
    """The manifest of a variant folder, once its files are those that it lists (`verify` False: sizes alone).

    Raises:
        UserError: no manifest, another format, or the first file that is missing or altered.
    """
    folder = Path(folder)
    stored = read_json(folder / MANIFEST)
    if not isinstance(stored, dict) or stored.get("format") != FORMAT:
        raise UserError(f"{folder / MANIFEST}: not a manifest of format {FORMAT}; run the export stage again")
    known = {f.name: f.default is MISSING for f in fields(Manifest)}
    if wrong := sorted({key for key, required in known.items() if required} - set(stored) | set(stored) - set(known)):
        raise UserError(f"{folder / MANIFEST}: {'unknown' if wrong[0] in stored else 'missing'} key {wrong[0]!r}")
    manifest = Manifest(**stored)
    for name, expected in manifest.digests.items():
        _check(folder / name, expected, verify)
    return manifest


def trained_on(folder: Path, manifest: Manifest) -> set[str]:
    """Digests of the weights that an adapter of this variant may have been trained on: its own, and those that it
    approximates. Empty, which is any, where the latter do not lie beside it. AWQ's own alone: it moves scale from one
    matrix into another, so that they see other activations than those of the float weights.
    """
    if manifest.parent is None or manifest.rules.get("method") == "awq":
        return {manifest.weights_digest}
    path = folder.parent / manifest.parent / MANIFEST
    return {manifest.weights_digest, read_json(path)["weights_digest"]} if path.is_file() else set()


def save_manifest(folder: Path, manifest: Manifest) -> None:
    write_json(folder / MANIFEST, asdict(manifest))


def file_digests(folder: Path) -> dict[str, dict[str, Any]]:
    """Size and SHA-256 of every file of a folder but the manifest."""
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
