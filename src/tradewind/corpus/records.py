"""The documentation record: what is known of one public object of one installed package.

A record is plain data, written as one JSON line. It knows nothing of how it was read (statically or by introspection)
and nothing of the questions made from it.
"""

from dataclasses import asdict, dataclass, field, fields
from typing import Any

KINDS = ("module", "class", "function", "method", "property", "attribute")


@dataclass
class Parameter:
    """One parameter: `default` is source text, empty where there is none; `type` and `text` may be empty."""

    name: str
    type: str = ""
    default: str = ""
    text: str = ""


@dataclass
class Returned:
    """One returned value; `name` is empty unless the documentation names it."""

    name: str = ""
    type: str = ""
    text: str = ""


@dataclass
class Raised:
    """One exception and the condition under which it is raised."""

    type: str
    text: str


@dataclass
class Example:
    """One `>>>` statement and the output shown below it (empty where none is shown)."""

    source: str
    want: str = ""


@dataclass
class Sections:
    """A docstring taken apart; every text is plain (markup removed), every list in the order of the docstring."""

    summary: str = ""
    description: str = ""
    parameters: list[Parameter] = field(default_factory=list)
    returns: list[Returned] = field(default_factory=list)
    raises: list[Raised] = field(default_factory=list)
    examples: list[Example] = field(default_factory=list)
    notes: str = ""
    see_also: list[str] = field(default_factory=list)


@dataclass
class Record:
    """One public object: `id` is its shortest public path, `aliases` its other public paths, sorted.

    `file` is relative to the folder the package was found in; empty, with `line` 0, for what has no Python source.
    """

    id: str
    package: str
    version: str
    kind: str
    aliases: list[str]
    signature: str
    sections: Sections
    file: str = ""
    line: int = 0
    family: str = ""

    @property
    def symbols(self) -> list[str]:
        """Every public path of the object, the id first."""
        return [self.id, *self.aliases]

    @property
    def name(self) -> str:
        return self.id.rpartition(".")[2]

    def to_json(self) -> dict[str, object]:
        """The flat mapping written to records.jsonl."""
        row = asdict(self)
        sections = row.pop("sections")
        return {**row, **sections}

    @classmethod
    def from_json(cls, row: dict[str, Any]) -> "Record":
        """The inverse of `to_json`."""
        own = {item.name: row[item.name] for item in fields(cls) if item.name != "sections"}
        items: dict[str, Any] = {
            "parameters": [Parameter(**item) for item in row["parameters"]],
            "returns": [Returned(**item) for item in row["returns"]],
            "raises": [Raised(**item) for item in row["raises"]],
            "examples": [Example(**item) for item in row["examples"]],
        }
        rest: dict[str, Any] = {key: row[key] for key in ("summary", "description", "notes", "see_also")}
        return cls(**own, sections=Sections(**{**items, **rest}))
