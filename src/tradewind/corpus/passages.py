"""A record -> the passage a question is asked about: readable plain text of bounded length, sections in a fixed order.

What a passage shows is kept beside its text (`Shown`), so that every answer can be taken from what is shown, verbatim.
Lengths are in characters; about four make a token of the base.
"""

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

from tradewind.corpus.markup import first_sentence_of, looks_broken
from tradewind.corpus.records import Parameter, Raised, Record, Returned

MAX_TEXT = 150  # characters of one item's text; what is longer is cut and never asked for
MAX_PASSAGE = 760
MAX_SIGNATURE = 180
_CUT = " ..."
_HEADINGS = ("Parameters:", "Returns:", "Raises:", "Example:")


@dataclass
class Shown:
    """One record as shown: its text, and the items that stand in it uncut and may therefore be asked for."""

    record: Record
    text: str
    summary: str = ""
    parameters: list[Parameter] = field(default_factory=list)
    returns: list[Returned] = field(default_factory=list)
    raises: list[Raised] = field(default_factory=list)
    example: list[str] = field(default_factory=list)

    @property
    def sections(self) -> int:
        """How many of summary, detail, parameters, returns, raises and example the passage has."""
        lines = self.text.split("\n")
        body = next((i for i, line in enumerate(lines) if line in _HEADINGS), len(lines)) - 1
        return sum(line in _HEADINGS for line in lines) + min(body, 2)


def first_sentence(passage: str) -> str:
    """The first sentence of the passage's summary (its second line): the baseline that reads no question."""
    lines = passage.split("\n")
    return first_sentence_of(lines[1] if len(lines) > 1 else lines[0])


def show(record: Record, limit: int = MAX_PASSAGE, order: Sequence[str] = ()) -> Shown:
    """The passage of one record, at most about `limit` characters; parameters named in `order` stay before others."""
    sections = record.sections
    shown = Shown(record, "", summary=_short(sections.summary))
    head = [summary_line(sections.summary)]
    if detail := _short(first_sentence_of(sections.description)):
        head.append(detail)
    tail: list[str] = []
    _show_returns(shown, tail)
    _show_raises(shown, tail)
    _show_example(shown, tail)
    room = limit - sum(len(line) + 1 for line in [*head, *tail]) - min(len(record.signature), MAX_SIGNATURE)
    middle = _show_parameters(shown, room, order)
    signature = record.id + short_signature(record.signature, [p.name for p in shown.parameters])
    shown.text = "\n".join([signature, *head, *middle, *tail])
    return shown


def brief(record: Record) -> str:
    """Two lines: signature and summary."""
    return f"{record.id}{short_signature(record.signature, ())}\n{summary_line(record.sections.summary)}"


def summary_line(text: str) -> str:
    return _short(text) or _cut(text)


def split_arguments(signature: str) -> list[str]:
    """The top-level arguments of a signature `(a, b=(1, 2), *, c='x, y')`, as text."""
    parts, depth, quote, start = [], 0, "", 1
    for i, char in enumerate(signature):
        if quote:
            quote = "" if char == quote else quote
        elif char in "'\"":
            quote = char
        elif char in "([{":
            depth += 1
        elif char in ")]}":
            depth -= 1
        if not quote and ((char == "," and depth == 1) or (char == ")" and depth == 0)):
            parts.append(signature[start:i].strip())
            start = i + 1
    return [part for part in parts if part]


def short_signature(signature: str, keep: Collection[str]) -> str:
    """The signature within MAX_SIGNATURE characters: arguments in `keep` stay, others give way to `...`."""
    if len(signature) <= MAX_SIGNATURE:
        return signature
    arguments = split_arguments(signature)
    room = MAX_SIGNATURE - sum(len(a) + 2 for a in arguments if argument_name(a) in keep)
    kept, left_out = [], False
    for argument in arguments:
        wanted = argument_name(argument) in keep
        if not wanted:
            room -= len(argument) + 2
        if wanted or room > 0:
            kept.append(argument)
            left_out = False
        elif not left_out:
            kept.append("...")
            left_out = True
    return f"({', '.join(kept)})"


def argument_name(argument: str) -> str:
    return argument.partition("=")[0].strip().lstrip("*")


def _show_parameters(shown: Shown, room: int, order: Sequence[str]) -> list[str]:
    every = shown.record.sections.parameters
    ranked = sorted(range(len(every)), key=lambda i: (every[i].name not in order, i))
    chosen: dict[int, tuple[Parameter, str]] = {}
    for i in ranked:
        item = Parameter(every[i].name, every[i].type, every[i].default, _short(every[i].text))
        line = f"- {item.name}" + (f" ({item.type})" if item.type else "")
        line += f": {item.text or _cut(every[i].text)}" if every[i].text else ""
        if chosen and len(line) + 1 > room:
            break
        room -= len(line) + 1
        chosen[i] = item, line
    shown.parameters = [chosen[i][0] for i in sorted(chosen)]
    return ["Parameters:", *(chosen[i][1] for i in sorted(chosen))] if chosen else []


def _show_returns(shown: Shown, lines: list[str]) -> None:
    items = shown.record.sections.returns[:3]
    if not items:
        return
    lines.append("Returns:")
    for item in items:
        text = _short(item.text)
        label = " ".join(
            part for part in (item.name, f"({item.type})" if item.type and item.text else item.type) if part
        )
        if item.name and item.type and not item.text:
            label = f"{item.name} ({item.type})"
        lines.append("- " + ": ".join(part for part in (label, text or _cut(item.text)) if part))
        if text or not item.text:
            shown.returns.append(Returned(item.name, item.type, text))


def _show_raises(shown: Shown, lines: list[str]) -> None:
    items = [item for item in shown.record.sections.raises if item.text][:3]
    if items:
        lines.append("Raises:")
    for item in items:
        text = _short(item.text)
        lines.append(f"- {item.type}: {text or _cut(item.text)}")
        if text:
            shown.raises.append(Raised(item.type, text))


def _show_example(shown: Shown, lines: list[str]) -> None:
    """Up to three one-line statements ending with the first that uses the object."""
    call = re.compile(rf"(?<!\w){re.escape(shown.record.name)}(?!\w)")
    statements = [example.source for example in shown.record.sections.examples]
    for i, statement in enumerate(statements):
        if (
            call.search(statement)
            and "\n" not in statement
            and 8 <= len(statement) <= 110
            and "import " not in statement
        ):
            before = [s for s in statements[max(0, i - 2) : i] if _is_setup(s)]
            shown.example = [*before, statement]
            lines += ["Example:", *(f">>> {line}" for line in shown.example)]
            return


def _is_setup(statement: str) -> bool:
    return (
        "\n" not in statement and len(statement) <= 90 and "import " not in statement and not statement.isidentifier()
    )


def _short(text: str) -> str:
    """The first sentence of a text if it is whole and short enough to be an answer, else nothing."""
    sentence = first_sentence_of(text)
    whole = len(sentence) <= MAX_TEXT and not looks_broken(sentence) and not sentence.endswith((":", ",", "(", ";"))
    balanced = sentence.count("(") == sentence.count(")") and sentence.count("[") == sentence.count("]")
    return sentence if whole and balanced else ""


def _cut(text: str) -> str:
    return text[: MAX_TEXT - 30].rsplit(" ", 1)[0].rstrip(" ,;:(") + _CUT if text else ""
