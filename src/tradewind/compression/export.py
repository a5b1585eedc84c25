"""Write one variant: its weights in every container that runs them, its tokenizer, its manifest.

The same input gives the same bytes, and a folder appears complete or not at all. It does not know where weights come
from.
"""

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from tradewind.compression.export_gguf import export_gguf
from tradewind.compression.export_onnx import GRAPH_FILE, SERVED_ACCURACY, export_onnx
from tradewind.compression.kv_cache import NAME, SCALES_FILE, Scales, save_scales
from tradewind.compression.quantize import CODES, SCALES, Blocks, Tensor
from tradewind.compression.variant import LICENCE, Manifest, file_digests, precision_of, save_manifest, split_name
from tradewind.files import atomic_path
from tradewind.model.decoder import DecoderConfig
from tradewind.model.tokenizer import Tokenizer
from tradewind.model.weights import WEIGHTS_FILE, weights_digest


def write_variant(
    folder: Path,
    name: str,
    config: DecoderConfig,
    tensors: Mapping[str, Tensor],
    tokenizer: Tokenizer,
    rules: Mapping[str, Any] | None = None,
    accuracy_level: int = SERVED_ACCURACY,
    kv_scales: Scales | None = None,
) -> Manifest:
    """Export the variant `name` to ONNX and GGUF (safetensors where it is not quantized), and write its manifest.

    kv_scales: of the cache that the ONNX graph and the `jax` engine keep in int8; None: float32.
    """
    model, recipe = split_name(name)
    precision = precision_of(recipe)
    with atomic_path(folder) as made:
        files = {"ort": export_onnx(made, config, tensors, accuracy_level, kv_scales)}
        if precision == "fp32":  # the same bytes as the model's own file: DVC's cache keeps them once
            files["jax"] = [WEIGHTS_FILE]
        else:
            about = {"general.name": f"tradewind {name}", "general.license": LICENCE.lower()}
            files["gguf"] = files["jax"] = export_gguf(made, config, tensors, tokenizer, about)
        if kv_scales is not None:
            save_scales(made / SCALES_FILE, kv_scales)
            files["jax"] = [*files["jax"], SCALES_FILE]
        tokenizer.save(made)
        manifest = Manifest(
            name=name,
            model=model,
            precision=precision,
            parent=None if precision == "fp32" else f"{model}-fp32",
            parameters=config.num_parameters,
            bytes=sum((made / name).stat().st_size for name in files["ort"] if name != GRAPH_FILE),
            weights_digest=tensors_digest(tensors, kv_scales),
            tokenizer_digest=tokenizer.digest,
            template_digest=tokenizer.template_digest,
            rules=dict(rules or {}),
            config=asdict(config),
            files=files,
            digests=file_digests(made),
            eos_token_ids=tokenizer.eos_token_ids,
            max_position=config.max_position,
        )
        save_manifest(made, manifest)
    return manifest


def tensors_digest(tensors: Mapping[str, Tensor], kv_scales: Scales | None = None) -> str:
    """16 hexadecimal digits that name weights as they are: codes and scales where quantized, floats elsewhere, and the
    scales of the cache, which answers depend on too."""
    arrays: dict[str, np.ndarray] = {} if kv_scales is None else {NAME: kv_scales}
    for name, tensor in tensors.items():
        if isinstance(tensor, Blocks):
            arrays |= {name + CODES: tensor.codes, name + SCALES: tensor.scales}
        else:
            arrays[name] = tensor
    return weights_digest(arrays)
