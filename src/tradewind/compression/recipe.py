"""A recipe: by which method a model's weights become codes, and which tensors take which dtype.

The first word of a recipe's name is its precision (see variant.py): `int4-gptq`. What a method does is in its own file;
nothing here knows files, containers or where calibration text comes from.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from tradewind.compression.awq import quantize_awq
from tradewind.compression.gptq import quantize_gptq
from tradewind.compression.qat import QatConfig, quantize_qat
from tradewind.compression.quantize import Tensor, quantize
from tradewind.compression.rules import Rule, read_rules, rules_as_rows
from tradewind.compression.variant import PRECISIONS, precision_of
from tradewind.config import build
from tradewind.errors import UserError, within
from tradewind.model.decoder import DecoderConfig
from tradewind.model.weights import Flat
from tradewind.training.data import Batch

Method = Callable[[DecoderConfig, Flat, Sequence[Rule], Sequence[Batch]], dict[str, Tensor]]


def _rtn(config: DecoderConfig, flat: Flat, rules: Sequence[Rule], batches: Sequence[Batch]) -> dict[str, Tensor]:
    return quantize(flat, rules)


METHODS: dict[str, Method] = {"rtn": _rtn, "gptq": quantize_gptq, "awq": quantize_awq}
"""rtn: round to nearest, which needs no text."""
QAT = "qat"
"""The method that trains, by a recipe's `training`."""


@dataclass(frozen=True)
class Recipe:
    """method: a key of METHODS, or QAT. rules: tensor names -> dtypes. training: of the method QAT, and of no other."""

    method: str
    rules: tuple[Rule, ...]
    training: QatConfig | None = None

    def __post_init__(self) -> None:
        if self.method not in (*METHODS, QAT):
            raise UserError(f"unknown quantization method {self.method!r} (choices: {', '.join((*METHODS, QAT))})")
        if (self.method == QAT) != (self.training is not None):
            raise UserError(f"method {self.method}: `training` is for {QAT}, which needs it")

    @property
    def calibrated(self) -> bool:
        return self.method != "rtn"

    def told(self, calibration: Mapping[str, Any]) -> dict[str, Any]:
        """What a manifest says of it. calibration: what names the text, of which the key-value cache's scales are, too."""
        said = {"method": self.method, "rules": rules_as_rows(self.rules), "calibration": dict(calibration)}
        return said | ({"training": asdict(self.training)} if self.training else {})


def read_recipe(mapping: Mapping[str, Any]) -> Recipe:
    """A recipe from its mapping in a configuration: `{"method": name, "rules": rows}`, and `training` for QAT."""
    if {"method", "rules"} - set(mapping) or set(mapping) - {"method", "rules", "training"}:
        raise UserError(f"the keys are method and rules (and training for {QAT}), not {', '.join(mapping)}")
    training = build(QatConfig, mapping["training"], "training") if "training" in mapping else None
    return Recipe(mapping["method"], read_rules(mapping["rules"]), training)


def read_recipes(mapping: Mapping[str, Mapping[str, Any]]) -> dict[str, Recipe]:
    """Name -> recipe. Raises UserError for a name that does not begin with a precision."""
    for name in mapping:
        if precision_of(name) not in PRECISIONS:
            raise UserError(f"recipe {name!r}: its first word must be a precision ({', '.join(PRECISIONS)})")
    found = {}
    for name, row in mapping.items():
        with within(f"recipe {name}"):
            found[name] = read_recipe(row)
    return found


def quantize_model(
    config: DecoderConfig, flat: Flat, recipe: Recipe, batches: Sequence[Batch] = ()
) -> dict[str, Tensor]:
    """The weights of a flat Hugging Face dict as the recipe has them.

    batches: rows of calibration text, which every method but rtn needs. Raises UserError for rules that do not fit.
    """
    if recipe.calibrated and not batches:
        raise UserError(f"quantization method {recipe.method} needs calibration text")
    if recipe.training:
        return quantize_qat(config, flat, recipe.rules, batches, recipe.training)
    return METHODS[recipe.method](config, flat, recipe.rules, batches)
