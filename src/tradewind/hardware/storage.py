"""From a recipe's rules to what a roofline needs to know of them: bits by kind of matrix, and the dtype of products."""

from collections.abc import Mapping, Sequence

from tradewind.compression.rules import Rule, deciding
from tradewind.errors import UserError
from tradewind.hardware.peaks import ATTENTION
from tradewind.hardware.roofline import Storage

TENSORS = {
    "table": "model.embed_tokens.weight",
    **{kind: f"model.layers.0.self_attn.{kind}_proj.weight" for kind in ("q", "k", "v", "o")},
    **{kind: f"model.layers.0.mlp.{kind}_proj.weight" for kind in ("gate", "up", "down")},
}
"""Kind of matrix -> name of one such tensor."""
PRODUCTS = (("table",), ("q", "k", "v"), ("o",), ("gate", "up"), ("down",))
"""Of the engine jax."""
BITS = {"float32": 32.0, "int8": 8.5, "int4": 4.5, "w8a8": 8.0}
"""Of a weight, with the 16 bits that each block of 32 has as its scale; a row's one scale is left out."""
BLOCKS = BITS | {"w8a8": 8.5}
"""Where w8a8 is kept in blocks, too."""
ENGINES = ("ort", "jax")
WIDTHS = {"float32": 32, "bfloat16": 16}


def storage(name: str, rules: Sequence[Rule], engine: str, dtype: str = "bfloat16") -> Storage:
    """Weights of a recipe as an engine keeps and multiplies them; no rules: float weights.

    ort: as they are, products by the kernel of their dtype, attention in float32; keys and values in int8 where weights
    are quantized. jax: products in `dtype`; quantized weights are widened as they are loaded where that is float32, on a
    CPU, and stay integers elsewhere, of the most bits among the matrices of one product.

    Raises:
        UserError: an engine that is not one of ENGINES, or a kind of matrix that no rule decides.
    """
    if engine not in ENGINES:
        raise UserError(f"no roofline of engine {engine!r} (choices: {', '.join(ENGINES)})")
    dtypes = {kind: _deciding(name, rules, tensor) for kind, tensor in TENSORS.items()} if rules else {}
    cache = 8 if set(dtypes.values()) - {"float32"} else WIDTHS[dtype if engine == "jax" else "float32"]
    if engine == "jax":
        width, attended = WIDTHS[dtype], ATTENTION + ("int8" if cache == 8 else dtype)
        bits = _together(dtypes, width) if dtype != "float32" and dtypes else {}
        return Storage(name, bits | {"other": width}, {"other": dtype, "attention": attended}, cache, width)
    dtypes["attention"] = ATTENTION + ("int8" if cache == 8 else "float32")
    bits = {kind: BITS[dtypes[kind]] for kind in TENSORS if kind in dtypes}
    return Storage(name, bits | {"other": 32.0}, dtypes | {"other": "float32"}, cache, 32)


def _together(dtypes: Mapping[str, str], width: float) -> dict[str, float]:
    """Bits of each kind of matrix, by dtype, where those that share a product are of one width; a float one: `width`."""
    bits = {kind: width if dtype == "float32" else BLOCKS[dtype] for kind, dtype in dtypes.items()}
    return {kind: max(bits[other] for other in shared) for shared in PRODUCTS for kind in shared}


def _deciding(name: str, rules: Sequence[Rule], tensor: str) -> str:
    rule = deciding(rules, tensor)
    if rule is None:
        raise UserError(f"{name}: no rule decides {tensor}")
    return rule.dtype
