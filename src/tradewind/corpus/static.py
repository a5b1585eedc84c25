"""Static reading of one package's sources: which objects are public, under which paths, with which docstring.

Nothing of the package is imported. Public is what `__all__` names or, without it, what has no leading underscore and is
defined in a public module or imported from its own package by an `__init__`. Compiled modules, attributes set at run
time and inherited members are not seen here; `introspect` sees the first two.
"""

import ast
import re
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import griffe

SKIPPED_PARTS = frozenset(
    (
        *("tests", "test", "conftest", "benchmarks", "examples", "doctests", "pytest_plugin"),
        *("externals", "extern", "vendor", "vendored", "thirdparty", "third_party", "protos", "generated"),
        *("__main__", "setup"),
    )
)
_REDUNDANT = re.compile(r"\b(\w+)\s+as\s+\1\b")
_RETIRED = "not meant for public use and will be removed"  # how SciPy marks modules kept for old imports only


@dataclass
class Found:
    """One public object: its defining path, the public paths that lead to it, and what griffe read."""

    defined: str
    node: griffe.Object
    paths: list[str] = field(default_factory=list)


@dataclass
class Sources:
    """The public objects of a package by defining path, and its public modules by dotted name."""

    objects: dict[str, Found]
    modules: dict[str, griffe.Module]


def read_sources(package: str, location: Path, exclude: Iterable[str] = ()) -> Sources:
    """The public objects of the package whose folder or single file is `location`.

    A file that is not UTF-8 or does not parse is left out; so is any module whose dotted name starts with an entry of
    `exclude` (its objects stay reachable where a public module re-exports them).
    """
    hidden = tuple(exclude)
    modules = griffe.ModulesCollection()
    tree = _Tree(package, modules)
    for name, path in _files(package, location):
        tree.add(name, path)
    tree.link()
    root = tree.modules.get(package)
    public = {name: node for name, node in sorted(tree.modules.items()) if root and _is_public(name, package, hidden)}
    public = {name: node for name, node in public.items() if name not in tree.retired}
    objects: dict[str, Found] = {}
    for name, module in public.items():
        for reached, node in _exposed(module, package, tree.reexports.get(name, frozenset())):
            objects.setdefault(node.path, Found(node.path, node)).paths.append(reached)
    return Sources(_with_members(objects), public)


def is_skipped(parts: Iterable[str]) -> bool:
    """Whether a module path is a test, an example, or somebody else's code taken in."""
    return any(p in SKIPPED_PARTS or p.startswith("test_") or p.endswith(("_test", "_tests", "_pb2")) for p in parts)


class _Tree:
    """The modules of one package, parsed and hung below each other."""

    def __init__(self, package: str, collection: griffe.ModulesCollection) -> None:
        self.package, self.collection = package, collection
        self.modules: dict[str, griffe.Module] = {}
        self.reexports: dict[str, frozenset[str]] = {}
        self.retired: set[str] = set()

    def add(self, name: str, path: Path) -> None:
        parent_name, _, own = name.rpartition(".")
        parent = self._parent(parent_name, path.parent) if parent_name else None
        try:
            code = path.read_text(encoding="utf-8-sig")
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # invalid escapes in somebody else's source
                module = griffe.visit(own, path, code, parent=parent, modules_collection=self.collection)
        except (SyntaxError, ValueError, OSError, RecursionError):
            return
        self._hang(name, own, module, parent)
        self.reexports[name] = frozenset(_REDUNDANT.findall(code))
        if _RETIRED in code:
            self.retired.add(name)

    def _parent(self, name: str, folder: Path) -> griffe.Module:
        """The module above; a folder without `__init__.py` is a module too (a namespace inside the package)."""
        if name not in self.modules:
            above, _, own = name.rpartition(".")
            parent = self._parent(above, folder.parent) if above else None
            module = griffe.Module(own, filepath=[folder], parent=parent, modules_collection=self.collection)
            self._hang(name, own, module, parent)
        return self.modules[name]

    def _hang(self, name: str, own: str, module: griffe.Module, parent: griffe.Module | None) -> None:
        self.modules[name] = module
        if parent is None:
            self.collection.set_member(own, module)
        elif own not in parent.members or parent.members[own].is_alias:
            member = parent.members.get(own)
            # `from ._x import x` beside a module x: the name is the object's, the module is reached by its full path.
            if member is None or not (member.is_alias and name != getattr(member, "target_path", name)):
                parent.set_member(own, module)

    def link(self) -> None:
        """Resolve `__all__` and star imports inside the package."""
        loader = griffe.GriffeLoader(modules_collection=self.collection, allow_inspection=False)
        for module in self.modules.values():
            loader.expand_exports(module)
        for module in self.modules.values():
            loader.expand_wildcards(module, external=False)


def _files(package: str, location: Path) -> Iterator[tuple[str, Path]]:
    """(dotted name, file) of every source module, parents before children, in a fixed order."""
    if location.is_file():
        yield package, location
        return
    found: list[tuple[int, str, Path]] = []
    for path in location.rglob("*.py"):
        parts = path.relative_to(location).with_suffix("").parts
        parts = parts[:-1] if parts[-1] == "__init__" else parts
        if not is_skipped(parts) and all(part.isidentifier() for part in parts):
            found.append((len(parts), ".".join([package, *parts]), path))
    yield from ((name, path) for _, name, path in sorted(found))


def _is_public(name: str, package: str, hidden: tuple[str, ...]) -> bool:
    parts = name[len(package) :].strip(".").split(".")
    if any(part.startswith("_") for part in parts):
        return False
    return not any(name == entry or name.startswith(entry + ".") for entry in hidden)


def _exposed(module: griffe.Module, package: str, reexports: frozenset[str]) -> Iterator[tuple[str, griffe.Object]]:
    """(public path, object) of what one public module offers: classes, functions and documented attributes."""
    exports = {str(name) for name in module.exports or ()}
    for name, member in module.members.items():
        if name.startswith("_") or (exports and name not in exports):
            continue
        node = _resolve(member) if member.is_alias else member
        if not isinstance(node, griffe.Object) or node.is_module or not node.path.startswith(package + "."):
            continue
        # Without `__all__`, an import is public in an `__init__`, or written `from x import y as y` (PEP 484).
        if member.is_alias and not (exports or module.is_init_module or name in reexports):
            continue
        yield f"{module.path}.{name}", node


def _resolve(alias: griffe.Object | griffe.Alias) -> griffe.Object | None:
    try:
        return alias.final_target  # type: ignore[union-attr]
    except (griffe.AliasResolutionError, griffe.CyclicAliasError, KeyError, RecursionError):
        return None


def _with_members(objects: dict[str, Found]) -> dict[str, Found]:
    """Adds methods, properties and attributes that a class itself defines, below every public path of the class."""
    every = dict(objects)
    pending = [found for found in objects.values() if found.node.is_class]
    while pending:
        owner = pending.pop()
        for name, member in owner.node.members.items():
            if name.startswith("_") or member.is_alias or member.path in objects or member.docstring is None:
                continue
            found = every.setdefault(member.path, Found(member.path, member))  # type: ignore[arg-type]
            found.paths += [f"{path}.{name}" for path in owner.paths if f"{path}.{name}" not in found.paths]
            if member.is_class:
                pending.append(found)
    return every


def signature_of(node: griffe.Object) -> list[tuple[str, str, str]]:
    """(name with stars, annotation, default) of a callable's parameters but `self` and `cls`; a bare `*` is kept."""
    function = node.all_members.get("__init__") if node.is_class else node
    parameters = getattr(function, "parameters", None)
    if parameters is None:
        return []
    rows: list[tuple[str, str, str]] = []
    keyword_only = False
    for parameter in parameters:
        kind = parameter.kind.value if parameter.kind else ""
        if parameter.name in ("self", "cls"):
            continue
        if kind == "keyword-only" and not keyword_only:
            rows += [] if any(name.startswith("*") for name, _, _ in rows) else [("*", "", "")]
            keyword_only = True
        stars = {"variadic positional": "*", "variadic keyword": "**"}.get(kind, "")
        default = "" if stars or parameter.default is None else str(parameter.default)
        rows.append((stars + parameter.name.lstrip("*"), str(parameter.annotation or ""), default))
    return rows


def annotated_text(annotation: str) -> tuple[str, str]:
    """(type, text) of `Annotated[type, Doc("text")]` (PEP 727); the text is empty for any other annotation."""
    if not annotation.startswith(("Annotated[", "typing.Annotated[")):
        return annotation, ""
    try:
        tree = ast.parse(annotation, mode="eval").body
    except (SyntaxError, ValueError):
        return annotation, ""
    if not isinstance(tree, ast.Subscript) or not isinstance(tree.slice, ast.Tuple):
        return annotation, ""
    texts = [
        call.args[0].value
        for call in tree.slice.elts[1:]
        if isinstance(call, ast.Call) and getattr(call.func, "id", "") == "Doc" and call.args
        if isinstance(call.args[0], ast.Constant) and isinstance(call.args[0].value, str)
    ]
    return ast.unparse(tree.slice.elts[0]), texts[0] if texts else ""
