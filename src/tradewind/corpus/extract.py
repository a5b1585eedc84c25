"""Installed packages -> documentation records, sources first, introspection for what sources do not show.

The life of a package:
1. `environment.locate` finds it in its interpreter or folder;
2. `static.read_sources` reads its public objects without importing it;
3. `environment.introspect` fetches, in the target interpreter, docstrings that only exist at run time;
4. both are merged by defining path, each object gets its shortest public path as id, docstrings are taken apart.
"""

import ast
import keyword
import logging
import multiprocessing
import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import griffe
from tqdm import tqdm

from tradewind.corpus import docstring
from tradewind.corpus.environment import Installed, introspect, locate
from tradewind.corpus.markup import looks_broken, plain
from tradewind.corpus.records import Parameter, Record, Returned, Sections
from tradewind.corpus.static import Found, Sources, annotated_text, is_skipped, read_sources, signature_of

_TEMPLATED = re.compile(r"%\(\w+\)s|\{\w+\}")
_NOT_A_TYPE = re.compile(
    r"(?:,|;|^)\s*(?:optional|keyword[- ]only|required)\b.*$|[,;(]?\s*\(?(?:by )?default(?:s to)?\b.*$", re.I
)
_TELLS_NOTHING = ("Any", "Any | None", "typing.Any", "object", "None", "type", "optional")
MAX_SIGNATURE = 400  # characters


@dataclass(frozen=True)
class PackageChoice:
    """One line of `conf/corpus`: an import name, the interpreter or site-packages folder with it, what to leave out."""

    package: str
    python: str = ""
    exclude: tuple[str, ...] = field(default=())


def extract(choices: Sequence[PackageChoice], timeout: float = 120.0, processes: int = 2) -> list[Record]:
    """Records of all packages, sorted by id; the result does not depend on the number of processes."""
    installed = [(locate(c.package, c.python, timeout), tuple(c.exclude), timeout) for c in choices]
    installed.sort(key=lambda job: -_source_bytes(job[0].location))
    records: list[Record] = []
    with tqdm(total=len(installed), desc="corpus: packages", disable=None) as bar:
        for found in _map(installed, min(processes, len(installed))):
            records += found
            bar.update()
    return sorted(records, key=lambda record: record.id)


def extract_package(job: tuple[Installed, tuple[str, ...], float]) -> list[Record]:
    """Records of one package, sorted by id; objects without a usable docstring are left out."""
    logging.getLogger("griffe").disabled = True  # its warnings are about other people's docstrings
    installed, exclude, timeout = job
    sources = read_sources(installed.package, installed.location, exclude)
    merged = {key: _Merged(found.paths, found) for key, found in sources.objects.items()}
    owners = {path: key for key, item in merged.items() for path in item.paths}
    if _hides_something(installed.location, sources):
        for row in introspect(installed, list(sources.modules), timeout):
            _merge(row, merged, owners)
    records = [_record(item, installed) for item in merged.values()]
    records += [_module_record(name, node, installed) for name, node in sources.modules.items()]
    unique: dict[str, Record] = {}
    for record in sorted((r for r in records if r), key=lambda r: (r.id, r.file, r.line)):
        unique.setdefault(record.id, record)
    return list(unique.values())


def _hides_something(location: Path, sources: Sources) -> bool:
    """Whether sources alone may miss documentation: there are compiled modules, or docstrings filled in at run time."""
    if location.is_dir() and any(path.suffix in (".so", ".pyd", ".dylib") for path in location.rglob("*")):
        return True
    texts = (found.node.docstring.value for found in sources.objects.values() if found.node.docstring)
    return any(_TEMPLATED.search(text) for text in texts)


@dataclass
class _Merged:
    paths: list[str]
    found: Found | None = None
    row: dict[str, str] | None = None


def _merge(row: dict[str, str], merged: dict[str, _Merged], owners: dict[str, str]) -> None:
    """Attach a run-time row to the object of the same public or defining path, or add an object of its own."""
    path, defined = row["path"], row["defined"]
    key = owners.get(path) or (defined if defined in merged else "") or defined or path
    item = merged.setdefault(key, _Merged([]))
    if path not in item.paths:
        item.paths.append(path)
        owners[path] = key
    if item.row is None or len(row["doc"]) > len(item.row["doc"]):
        item.row = row


def _record(item: _Merged, installed: Installed) -> Record | None:
    paths = sorted(set(item.paths), key=lambda p: (p.count("."), len(p), p))
    node = item.found.node if item.found else None
    text = _text(node, item.row)
    if not text or not paths or is_skipped(paths[0].split(".")[1:]):
        return None
    kind = _kind(node, item.row, paths[0])
    heading, text = docstring.split_signature(text)
    signature = heading if heading and node is None else _signature(node, item.row, kind)
    sections = docstring.parse(text, node)
    _complete(sections, node)
    _take_defaults(sections, signature)
    sections = _usable(sections)
    if not sections.summary:
        return None
    file, line = _place(node, installed)
    aliases = sorted(paths[1:])
    return Record(paths[0], installed.package, installed.version, kind, aliases, signature, sections, file, line)


def _module_record(name: str, module: griffe.Module, installed: Installed) -> Record | None:
    if module.docstring is None:
        return None
    sections = _usable(docstring.parse(module.docstring.value))
    if not sections.summary:
        return None
    file, _ = _place(module, installed)
    return Record(name, installed.package, installed.version, "module", [], "", sections, file, 1)


def _text(node: griffe.Object | None, row: dict[str, str] | None) -> str:
    """The source's docstring, unless a decorator or template fills it in at run time."""
    static = node.docstring.value if node is not None and node.docstring is not None else ""
    runtime = row["doc"] if row else ""
    if not static or (_TEMPLATED.search(static) and runtime):
        return runtime
    return static


def _complete(sections: Sections, node: griffe.Object | None) -> None:
    """Adds what stands in the signature: defaults, types, `Doc` texts; and a class's `__init__` docstring."""
    if node is None:
        return
    init = node.members.get("__init__") if node.is_class else None
    if init is not None and init.docstring is not None and not init.is_alias:
        inner = docstring.parse(init.docstring.value, init)  # type: ignore[arg-type]
        sections.parameters = sections.parameters or inner.parameters
        sections.raises = sections.raises or inner.raises
    documented = {parameter.name: parameter for parameter in sections.parameters}
    for starred, annotation, default in signature_of(node):
        name = starred.lstrip("*")
        type_, text = annotated_text(annotation)
        if name not in documented and text:
            documented[name] = Parameter(name, type_, default, (docstring.parse(text).summary))
            sections.parameters.append(documented[name])
        elif name in documented:
            documented[name].default = default
            documented[name].type = documented[name].type or type_
    if not sections.returns and node.is_function and (returns := getattr(node, "returns", None)):
        sections.returns = [Returned("", annotated_text(str(returns))[0], "")] if str(returns) != "None" else []


def _take_defaults(sections: Sections, signature: str) -> None:
    """Defaults of a signature that only exists as text (compiled functions)."""
    try:
        tree = ast.parse(f"def f{signature}: pass").body[0]
    except (SyntaxError, ValueError):
        return
    assert isinstance(tree, ast.FunctionDef)
    positional = [*tree.args.posonlyargs, *tree.args.args]
    pairs = [
        *zip(reversed(positional), reversed(tree.args.defaults), strict=False),
        *zip(tree.args.kwonlyargs, tree.args.kw_defaults, strict=True),
    ]
    defaults = {argument.arg: ast.unparse(default) for argument, default in pairs if default is not None}
    for parameter in sections.parameters:
        parameter.default = parameter.default or defaults.get(parameter.name, "")


def _usable(sections: Sections) -> Sections:
    """Drops texts in which markup is left, and what has neither type nor text."""
    if looks_broken(sections.summary):
        sections.summary = ""
    sections.description = "" if looks_broken(sections.description[:300]) else sections.description[:2000]
    for parameter in sections.parameters:
        parameter.type = _clean_type(parameter.type)
        parameter.text = "" if looks_broken(parameter.text) else parameter.text
    for returned in sections.returns:
        if not returned.name and (named := re.match(r"([a-z_]\w*)\s*:\s+(?=\S)", returned.type)):
            returned.name, returned.type = named[1], returned.type[named.end() :]
        returned.type = _clean_type(returned.type)
        returned.text = "" if looks_broken(returned.text) else returned.text
        returned.name = returned.name if returned.name.isidentifier() else ""
    sections.parameters = [p for p in sections.parameters if p.name.isidentifier() and not keyword.iskeyword(p.name)]
    sections.returns = [r for r in sections.returns if r.type or r.text]
    sections.raises = [
        r for r in sections.raises if re.fullmatch(r"[A-Za-z_][\w.]*", r.type) and not looks_broken(r.text)
    ]
    sections.notes = sections.notes[:2000]
    return sections


def _clean_type(text: str) -> str:
    text = re.sub(r"(?<=\w) - (?=\w)", "-", plain(annotated_text(text)[0]))  # "array - like": parsed as a difference
    text = _NOT_A_TYPE.sub("", text).strip().rstrip(" ,;:.(")
    if text.count("(") > text.count(")"):
        text = text.removeprefix("(")
    elif text.startswith("(") and text.endswith(")") and _closes_at(text) == len(text) - 1:
        text = text[1:-1]
    if "[" not in text:
        text = text.replace("'", "")  # choices, quoted in one place and not in the next
    if text in _TELLS_NOTHING or text.count("(") != text.count(")"):
        return ""
    return "" if len(text) > 80 or (looks_broken(text) and not re.fullmatch(r"\{.*\}", text)) else text


def _closes_at(text: str) -> int:
    """Where the parenthesis that opens a text closes."""
    depth = 0
    for i, char in enumerate(text):
        depth += (char == "(") - (char == ")")
        if depth == 0:
            return i
    return -1


def _kind(node: griffe.Object | None, row: dict[str, str] | None, path: str) -> str:
    if node is None:
        assert row is not None
        return row["kind"]
    if node.is_class:
        return "class"
    owner = node.parent is not None and node.parent.is_class
    if node.is_function:
        return "method" if owner else "function"
    return "property" if "property" in node.labels else "attribute"


def _signature(node: griffe.Object | None, row: dict[str, str] | None, kind: str) -> str:
    """The signature without annotations; empty for what is not called."""
    if kind not in ("class", "function", "method"):
        return ""
    if node is None or not (node.is_function or node.is_class):
        return row["signature"][:MAX_SIGNATURE] if row else ""
    parts = [f"{name}={default}" if default else name for name, _, default in signature_of(node)]
    text = f"({', '.join(parts)})"
    return re.sub(r"\s+", " ", text) if len(text) <= MAX_SIGNATURE else f"({', '.join(parts[:6])}, ...)"[:MAX_SIGNATURE]


def _place(node: griffe.Object | None, installed: Installed) -> tuple[str, int]:
    if node is None or not isinstance(node.filepath, Path):
        return "", 0
    return node.filepath.relative_to(installed.site).as_posix(), node.lineno or 0


def _source_bytes(location: Path) -> int:
    files = location.rglob("*.py") if location.is_dir() else [location]
    return sum(path.stat().st_size for path in files)


def _map(jobs: list[tuple[Installed, tuple[str, ...], float]], processes: int) -> list[list[Record]]:
    if processes <= 1:
        return [extract_package(job) for job in jobs]
    # spawn: the parent may hold threads (JAX, ONNX Runtime) that a fork would break
    with multiprocessing.get_context("spawn").Pool(processes) as pool:
        return pool.map(extract_package, jobs, chunksize=1)


def counts(records: Sequence[Record]) -> dict[str, int]:
    """Objects per package."""
    totals: dict[str, int] = defaultdict(int)
    for record in records:
        totals[record.package] += 1
    return dict(totals)
