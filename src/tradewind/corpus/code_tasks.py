"""Runnable `>>>` examples -> code tasks: write the line that gives the output shown.

Examples are parsed, never run; whether a solution really gives its output is found out by who runs it in a sandbox.
"""

import ast
import builtins
import re
from collections.abc import Iterator, Sequence

from tradewind.corpus.phrasings import chance
from tradewind.corpus.records import Example, Record

MAX_CONTEXT = 1200  # characters of setup code
MAX_WANT = 300
_IMPORTS = {
    "numpy": "import numpy as np",
    "pandas": "import pandas as pd",
    "networkx": "import networkx as nx",
    "polars": "import polars as pl",
    "jax": "import jax\nimport jax.numpy as jnp",
    "optax": "import optax\nimport jax\nimport jax.numpy as jnp",
    "scipy": "import numpy as np\nimport scipy",
    "matplotlib": "import matplotlib.pyplot as plt",
}
_UNSTABLE = re.compile(r" at 0x|may vary|\.\.\.|<.*>|Traceback|random|default_rng|time\b|/tmp|array\(\[\.")


def code_tasks(records: Sequence[Record], split: dict[str, str]) -> Iterator[dict[str, object]]:
    """At most two tasks per record, in the order of records; `split` gives the side of each family."""
    for record in records:
        found = list(_tasks(record))
        found.sort(key=lambda row: chance("code", row["solution"]))
        for number, row in enumerate(found[:2]):
            yield {"id": f"{record.id}#{number}", "symbol": record.id, "split": split[record.family], **row}


def _tasks(record: Record) -> Iterator[dict[str, str]]:
    examples = record.sections.examples
    call = re.compile(rf"(?<!\w){re.escape(record.name)}(?!\w)")
    for number, example in enumerate(examples):
        if call.search(example.source) and _is_expression(example.source) and _is_stable(example):
            context = _context(record, examples[:number], example.source)
            if (
                len(context) <= MAX_CONTEXT
                and not _UNSTABLE.search(context)
                and not _unknown(f"{context}\n{example.source}")
            ):
                asked = f"Write the one expression that uses {record.id} and gives:\n{example.want}"
                prompt = f"{record.sections.summary}\n{asked}"
                yield {"prompt": prompt, "context": context, "solution": example.source, "expected": example.want}


def _context(record: Record, before: Sequence[Example], solution: str) -> str:
    """What stands before the solution: the package's usual imports, the object's own if used bare, earlier lines."""
    setup = [example.source for example in before]
    lines = [_IMPORTS.get(record.package, f"import {record.package}"), *setup]
    if record.kind in ("function", "class") and record.name in _unknown("\n".join([*lines, solution])):
        lines.insert(1, f"from {record.id.rpartition('.')[0]} import {record.name}")
    return "\n".join(lines)


def _unknown(code: str) -> set[str]:
    """Names that a piece of code uses and nowhere defines; a mark of its own where the code does not parse."""
    try:
        nodes = list(ast.walk(ast.parse(code)))
    except (SyntaxError, ValueError):
        return {"<syntax error>"}
    known = set(dir(builtins))
    for node in nodes:
        if isinstance(node, ast.Name) and not isinstance(node.ctx, ast.Load):
            known.add(node.id)
        elif isinstance(node, ast.FunctionDef | ast.ClassDef | ast.AsyncFunctionDef):
            known.add(node.name)
        elif isinstance(node, ast.arg):
            known.add(node.arg)
        elif isinstance(node, ast.alias):
            known.add((node.asname or node.name).partition(".")[0])
    return {node.id for node in nodes if isinstance(node, ast.Name)} - known


def _is_stable(example: Example) -> bool:
    return 0 < len(example.want) <= MAX_WANT and not _UNSTABLE.search(example.source + example.want)


def _is_expression(source: str) -> bool:
    try:
        ast.parse(source.strip(), mode="eval")
    except (SyntaxError, ValueError):
        return False
    return True
