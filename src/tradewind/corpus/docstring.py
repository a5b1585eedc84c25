"""A docstring -> its sections, whatever its style: NumPy, Google or Sphinx, told apart by their own marks.

Sections are read by griffe; `>>>` examples by `doctest`'s parser, which never runs them. Directives, tables and
admonitions are not kept.
"""

import doctest
import re

import griffe

from tradewind.corpus.markup import first_sentence_of, inline, paragraphs
from tradewind.corpus.records import Example, Parameter, Raised, Returned, Sections

MAX_DOCSTRING = 60_000  # characters; what is longer is cut: generated tables, not prose
_GOOGLE = re.compile(
    r"^\s*(Args|Arguments|Parameters|Returns|Raises|Yields|Example|Examples|Attributes|Note|Notes):\s*$", re.MULTILINE
)
_NUMPY = re.compile(r"^\s*\w[\w ]*\n\s*-{3,}\s*$", re.MULTILINE)
_SPHINX = re.compile(r"^\s*:(param|type|return|returns|rtype|raises|raise)\b[^:]*:", re.MULTILINE)
_PROSE = re.compile(r"^(?:The|A|An|Returns?|This|If|Whether|Each|All|Same|New|Either)\s|:\w+$|\w+ \w+ \w+ \w+ \w+")
_ROLE = re.compile(r"(?:py:)?(?:class|func|meth|attr|obj|data|mod|term|ref|const):`")
_HEADING = re.compile(r"[\w.]+(\((?:[^()]|\((?:[^()]|\([^()]*\))*\))*\))[ \t]*(?:->[^\n]*)?(?=\n|$)")
_FLAGS = re.compile(r"[ \t]*#\s*doctest:.*$", re.MULTILINE)
_DOCTESTS = doctest.DocTestParser()


def parse(text: str, parent: griffe.Object | None = None) -> Sections:
    """The sections of a docstring; `parent` lends the types of its signature where the text gives none."""
    text = text[:MAX_DOCSTRING]
    sections = Sections(examples=examples(text))
    docstring = griffe.Docstring(text, parent=parent)
    for section in _read(docstring):
        _take(section, sections)
    return sections


def examples(text: str) -> list[Example]:
    """The `>>>` statements of a docstring and the output shown, in order; none where the text is malformed."""
    try:
        found = _DOCTESTS.get_examples(text)
    except ValueError:
        return []
    return [Example(_FLAGS.sub("", example.source).rstrip("\n"), example.want.rstrip("\n")) for example in found]


def split_signature(text: str) -> tuple[str, str]:
    """(signature, rest) of a docstring that opens with `name(...)`, as compiled functions' do; else ("", text)."""
    match = _HEADING.match(text)
    if not match:
        return "", text
    signature = re.sub(r"\s+", " ", match[1])
    signature = re.sub(r"\((?:self|\$self|\$module)(?:, /)?(?:, )?", "(", signature)
    signature = re.sub(r"\[,[^\]]*\]+(?=\)$)", "", signature)  # `[, out]`: an old way to say optional
    following = split_signature(text[match.end() :].lstrip("\n"))[1]  # further overloads
    return signature, following


def _read(docstring: griffe.Docstring) -> list[griffe.DocstringSection]:
    text = docstring.value
    if _NUMPY.search(text):
        return griffe.parse_numpy(docstring, warnings=False)
    if _SPHINX.search(text) and not _GOOGLE.search(text):
        return griffe.parse_sphinx(docstring, warnings=False)
    if _GOOGLE.search(text):
        return griffe.parse_google(docstring, warnings=False, returns_multiple_items=False, returns_named_value=False)
    return [griffe.DocstringSectionText(text)]


def _take(section: griffe.DocstringSection, sections: Sections) -> None:
    kind, value = section.kind.value, section.value
    if kind == "text":
        _take_text(value, sections)
    elif kind in ("parameters", "other parameters"):
        sections.parameters += [_parameter(item) for item in value]
    elif kind in ("returns", "yields"):
        sections.returns += _one_text(value) or [_returned(item) for item in value]
    elif kind == "raises":
        sections.raises += [Raised(_type(item.annotation), _first(item.description)) for item in value]
    elif kind == "admonition":
        _take_admonition(value, sections)


def _take_text(text: str, sections: Sections) -> None:
    blocks = paragraphs(text)
    if not sections.summary and blocks:
        sections.summary = blocks.pop(0)
        rest = sections.summary
        sections.summary = first_sentence_of(rest)
        blocks = [rest[len(sections.summary) :].strip(), *blocks]
    sections.description = " ".join([sections.description, *blocks]).strip()


def _take_admonition(value: griffe.DocstringAdmonition, sections: Sections) -> None:
    if value.kind in ("note", "notes"):
        sections.notes = " ".join(paragraphs(value.contents))
    elif value.kind in ("see-also", "seealso", "see also"):
        names = re.findall(r"^(?::\w+:)?`?~?([A-Za-z_][\w.]*(?:, [A-Za-z_][\w.]*)*)`?\s*(?::|$)", value.contents, re.M)
        sections.see_also = [name for group in names for name in group.split(", ")]


def _one_text(items: list[griffe.DocstringReturn]) -> list[Returned]:
    """Free text in a NumPy returns section, which griffe reads as one nameless type a line."""
    lines = [str(item.annotation or "") for item in items]
    if any(item.name or item.description for item in items) or not any(len(line.split()) > 4 for line in lines):
        return []
    return [Returned("", "", _first("\n".join(lines)))]


def _returned(item: griffe.DocstringReturn | griffe.DocstringYield) -> Returned:
    kind = "" if item.annotation is None else str(item.annotation)
    if _ROLE.match(item.description):  # the colon of a role was taken for the end of a type
        return Returned(item.name or "", "", _first(f"{kind} :{item.description}"))
    if _PROSE.search(kind):  # "The state: ..." is a sentence with a colon in it, not a type
        return Returned(item.name or "", "", _first(f"{kind}: {item.description}" if item.description else kind))
    return Returned(item.name or "", _type(kind), _first(item.description))


def _parameter(item: griffe.DocstringParameter) -> Parameter:
    default = "" if item.value is None else str(item.value).strip("`")
    return Parameter(item.name.lstrip("*\\"), _type(item.annotation), default, _first(item.description))


def _first(text: str) -> str:
    """The plain text before the first blank line: later paragraphs of an item are detail."""
    blocks = paragraphs(text)
    return blocks[0] if blocks else ""


def _type(annotation: object) -> str:
    return re.sub(r"\s+", " ", inline(str(annotation))).strip() if annotation is not None else ""
