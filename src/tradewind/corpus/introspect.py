"""Introspection of a package inside the interpreter it is installed in; standard library only, run as a script.

Usage: python introspect.py PACKAGE < modules.txt   (one dotted module name a line)
Writes JSON lines: public path, defining path, kind, docstring and signature of the public objects of those modules.
Modules are imported; documentation examples are not run. A module that fails to import is left out.
"""

import importlib
import inspect
import json
import os
import random
import re
import secrets
import sys
import types
import warnings
from collections.abc import Iterator

_ADDRESS = re.compile(r" at 0x[0-9a-fA-F]+")  # differs from run to run
_SKIP = (types.ModuleType, str, bytes, int, float, bool, tuple, list, dict, set, frozenset, type(None))


def main() -> None:
    package, modules = sys.argv[1], sys.stdin.read().split()
    # What imported modules print must not mix with the rows.
    rows, sys.stdout = os.fdopen(os.dup(1), "w", encoding="utf-8"), sys.stderr
    os.dup2(2, 1)
    warnings.simplefilter("ignore")
    # Some packages print random draws into docstrings at import (scipy.stats); NumPy seeds itself from `secrets`.
    random.seed(0)
    secrets.randbits = random.Random(0).getrandbits  # type: ignore[assignment]
    for name in modules:
        try:
            module = importlib.import_module(name)
        except (Exception, SystemExit):
            continue
        for row in module_rows(package, module, name):
            rows.write(json.dumps(row, ensure_ascii=True) + "\n")
    rows.close()


def module_rows(package: str, module: types.ModuleType, name: str) -> Iterator[dict]:
    """Rows of the public names of a module that its own package defines."""
    public = getattr(module, "__all__", None)
    declared = isinstance(public, (list, tuple))
    names = {str(key) for key in public} if isinstance(public, (list, tuple)) else set(vars(module))
    for key in sorted(names):
        if key.startswith("_"):
            continue
        try:
            value = getattr(module, key)
            if not isinstance(value, _SKIP) and belongs(package, module, value, declared):
                yield from object_rows(name + "." + key, value)
        except Exception as error:  # a foreign attribute may raise anything; one bad name must not cost the module
            print(f"{name}.{key}: passed over ({type(error).__name__})", file=sys.stderr)


def belongs(package: str, module: types.ModuleType, value: object, declared: bool) -> bool:
    """Whether a module offers a value as its own: it says so, defines it, or is a package that gathers it."""
    owner = getattr(value, "__module__", None)
    if declared and isinstance(value, types.BuiltinFunctionType):
        return True
    if not isinstance(owner, str):
        return declared or (hasattr(module, "__path__") and type(value).__module__.split(".")[0] == package)
    if not declared and not hasattr(module, "__path__"):
        return owner == module.__name__
    return owner.split(".")[0] == package or (declared and owner.split(".")[0].strip("_").startswith(package))


def object_rows(path: str, value: object) -> Iterator[dict]:
    yield row(path, value, kind_of(value))
    if isinstance(value, type):
        for key, raw in sorted(vars(value).items()):
            if not key.startswith("_") and not isinstance(raw, (type, *_SKIP)):
                kind = "property" if not callable(unwrap(raw)) else "method"
                named = getattr(unwrap(raw), "__name__", key)  # a function held as a default value has another name
                if documented(raw) and named == key:
                    yield row(path + "." + key, unwrap(raw), kind, defined_by(value) + "." + key)


def documented(raw: object) -> bool:
    """Whether a class member has a docstring of its own: not its type's, not a named tuple's field number."""
    text = getattr(unwrap(raw), "__doc__", None)
    return (
        isinstance(text, str) and text != getattr(type(raw), "__doc__", None) and not text.startswith("Alias for field")
    )


def unwrap(raw: object) -> object:
    return raw.__func__ if isinstance(raw, (classmethod, staticmethod)) else raw


def row(path: str, value: object, kind: str, defined: str = "") -> dict:
    text = getattr(value, "__doc__", None)
    if not isinstance(text, str) or (kind == "attribute" and text == type(value).__doc__):
        text = ""
    return {
        "path": path,
        "defined": defined or defined_by(value),
        "kind": kind,
        "doc": _ADDRESS.sub("", inspect.cleandoc(text)),
        "signature": signature(value) if kind in ("function", "method", "class") else "",
        "source": isinstance(value, types.FunctionType),
    }


def defined_by(value: object) -> str:
    module, name = getattr(value, "__module__", None), getattr(value, "__qualname__", None)
    return module + "." + name if isinstance(module, str) and isinstance(name, str) else ""


def kind_of(value: object) -> str:
    if isinstance(value, type):
        return "class"
    return "function" if callable(value) and hasattr(value, "__name__") else "attribute"


def signature(value: object) -> str:
    """The signature as text; empty where the object has none that Python can read."""
    try:
        found = inspect.signature(value)  # type: ignore[arg-type]
    except (ValueError, TypeError, NameError):
        return ""
    plain = [p.replace(annotation=p.empty) for p in found.parameters.values() if p.name != "self"]
    try:
        return _ADDRESS.sub("", str(found.replace(parameters=plain, return_annotation=found.empty)))
    except ValueError:
        return ""


if __name__ == "__main__":
    main()
