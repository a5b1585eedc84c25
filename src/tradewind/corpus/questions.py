"""Questions about one passage with their answers, verbatim from it; every kind is one small function.

A question is asked only if the passage shows its answer uncut. Unanswerable questions ask for what the passage does not
have although it plausibly might. What an answer means is not checked: documentation that is wrong stays wrong.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from tradewind.corpus.markup import looks_broken
from tradewind.corpus.passages import Shown, argument_name, split_arguments
from tradewind.corpus.phrasings import chance, pick
from tradewind.corpus.prompt import REFUSAL
from tradewind.corpus.records import Parameter, Record, Returned
from tradewind.corpus.words import STOP_WORDS, VERBS

KINDS = ("summary", "default", "parameter", "type", "returns", "raises", "which", "how", "multi_turn", "unanswerable")
MAX_ANSWER = 150  # characters
_UNTELLING = re.compile(r"^(?:see |same as|refer to|alias|ignored|unused|not used|deprecated|todo)", re.IGNORECASE)
_NO_VALUE = re.compile(
    r"no_?value|no_?default|deprecated|sentinel|missing|unset|<|object\(|\.\.\.|empty", re.IGNORECASE
)
_TYPE_WORDS = re.compile(
    r"\b(?:list|dict\w*|ints?|integers?|numbers?|str|strings?|floats?|bool\w*|true|false|arrays?|types?|functions?|callables?|tuples?|"
    r"sequences?|objects?|iterables?|instances?|class|names?|sets?|flags?|mapping|scalars?|tensors?|matrix|vector|path|if|whether)\b",
    re.IGNORECASE,
)
_OTHER_FACTS = re.compile(  # what wordings of `no_fact` ask for
    r"version|release|thread|\bgil\b|author|maintain|written|memory|complex|fast|speed|time|gpu|compil|numba|deprecat|"
    r"licen[cs]e|windows|platform|operating system|bug|issue|test|coverage|secur|trust|alternative|equivalent|matlab|"
    r"fortran|book|popular|private|helper|source file|beginner|removed",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Question:
    """`topic` is the parameter asked about, if any; `earlier` the turn that a multi-turn question refers to."""

    kind: str
    text: str
    answer: str
    symbols: tuple[str, ...]
    topic: str = ""
    earlier: tuple[str, str] | None = None

    @property
    def answerable(self) -> bool:
        return self.answer != REFUSAL


Asker = Callable[[Shown, str, bool], Iterator[Question]]


def asked(shown: Shown, key: str = "", held_out: bool = False) -> dict[str, list[Question]]:
    """Every question of every kind that the passage answers, by kind, in an order fixed by `key`."""
    found = {kind: list(ask(shown, key, held_out)) for kind, ask in ASKERS.items()}
    for kind, questions in found.items():
        # A default of None is what most signatures say; it comes first only one time in four.
        questions.sort(key=lambda q: (q.answer == "None" and chance(key, q.text) % 4 > 0, chance(key, kind, q.text)))
    return {kind: questions for kind, questions in found.items() if questions}


def _question(group: str, kind: str, shown: Shown, answer: str, key: str, held_out: bool, **parts: str) -> Question:
    symbol = spoken(shown.record, f"{key}{group}{parts}")
    text = pick(group, f"{key}{shown.record.id}{parts}", held_out).format(s=symbol, **parts)
    return Question(kind, text, answer, (shown.record.id,), parts.get("p", ""))


def spoken(record: Record, key: str) -> str:
    """How a question names a symbol: in full, or often by its last part or last two."""
    parts = record.id.split(".")
    if record.kind in ("method", "property", "attribute") and len(parts) > 2:
        return record.id if chance("spoken", key, record.id) % 2 else ".".join(parts[-2:])
    return record.id if chance("spoken", key, record.id) % 2 else parts[-1]


def _summary(shown: Shown, key: str, held_out: bool) -> Iterator[Question]:
    if telling(shown.summary):
        yield _question("summary", "summary", shown, shown.summary, key, held_out)


def _default(shown: Shown, key: str, held_out: bool) -> Iterator[Question]:
    for item in shown.parameters:
        if has_default(item, shown):
            yield _question("default", "default", shown, item.default, key, held_out, p=item.name)


def _parameter(shown: Shown, key: str, held_out: bool) -> Iterator[Question]:
    for item in shown.parameters:
        if telling(item.text):
            yield _question("parameter", "parameter", shown, item.text, key, held_out, p=item.name)


def _type(shown: Shown, key: str, held_out: bool) -> Iterator[Question]:
    for item in shown.parameters:
        if has_type(item):
            yield _question("type", "type", shown, item.type, key, held_out, p=item.name)


def _returns(shown: Shown, key: str, held_out: bool) -> Iterator[Question]:
    only = len(shown.record.sections.returns) == 1
    for item in shown.returns:
        answer = returned_answer(item)
        if only and answer:
            yield _question("returns", "returns", shown, answer, key, held_out)
        elif item.name and telling(item.text) and not only:
            yield _question("returned", "returns", shown, item.text, key, held_out, r=item.name)


def _raises(shown: Shown, key: str, held_out: bool) -> Iterator[Question]:
    types = [item.type for item in shown.record.sections.raises]
    for item in shown.raises:
        if types.count(item.type) == 1 and telling(item.text):
            if len(types) > 1 and chance("exception", key, item.text) % 2:
                yield _question("exception", "raises", shown, item.type, key, held_out, c=item.text)
            else:
                yield _question("raises", "raises", shown, item.text, key, held_out, e=item.type)


def _how(shown: Shown, key: str, held_out: bool) -> Iterator[Question]:
    if shown.example and good_line(shown.example[-1]):
        answer, doing = shown.example[-1], task(shown.summary)
        if doing and chance("how", key, shown.record.id) % 2:
            yield _question("how_task", "how", shown, answer, key, held_out, d=doing)
        else:
            yield _question("how", "how", shown, answer, key, held_out)


def _multi_turn(shown: Shown, key: str, held_out: bool) -> Iterator[Question]:
    """Follow-ups that only make sense after an earlier turn: "it" is the earlier turn's parameter or object."""
    rotated = sorted(shown.parameters, key=lambda item: chance("rotate", key, item.name))
    for item, other in zip(rotated, rotated[1:] + rotated[:1], strict=True):
        facts = {
            "default": item.default if has_default(item, shown) else "",
            "type": item.type if has_type(item) else "",
        }
        facts["parameter"] = item.text if telling(item.text) else ""
        known = [kind for kind, answer in facts.items() if answer]
        for first, then in zip(known, known[1:] + known[:1], strict=True):
            if first != then:
                before = _question(first, first, shown, facts[first], key, held_out, p=item.name)
                group = {"default": "follow_default", "type": "follow_type", "parameter": "follow_purpose"}[then]
                yield _follow(group, before, shown, facts[then], key, held_out, p=item.name)
        if facts["parameter"] and telling(other.text) and other is not item:
            before = _question("parameter", "parameter", shown, item.text, key, held_out, p=item.name)
            yield _follow("follow_parameter", before, shown, other.text, key, held_out, p=other.name)
    yield from _about_object(shown, key, held_out)


def _about_object(shown: Shown, key: str, held_out: bool) -> Iterator[Question]:
    if not telling(shown.summary):
        return
    before = _question("summary", "summary", shown, shown.summary, key, held_out)
    if len(shown.record.sections.returns) == 1 and shown.returns and (answer := returned_answer(shown.returns[0])):
        yield _follow("follow_returns", before, shown, answer, key, held_out)
    if len(shown.record.sections.raises) == 1 and shown.raises and telling(shown.raises[0].text):
        yield _follow("follow_raises", before, shown, shown.raises[0].text, key, held_out, e=shown.raises[0].type)
    if shown.example and good_line(shown.example[-1]):
        yield _follow("follow_how", before, shown, shown.example[-1], key, held_out)


def _follow(
    group: str, before: Question, shown: Shown, answer: str, key: str, held_out: bool, **parts: str
) -> Question:
    text = pick(group, f"{key}{shown.record.id}{answer}", held_out).format(**parts)
    return Question("multi_turn", text, answer, (shown.record.id,), parts.get("p", ""), (before.text, before.answer))


ASKERS: dict[str, Asker] = {
    "summary": _summary,
    "default": _default,
    "parameter": _parameter,
    "type": _type,
    "returns": _returns,
    "raises": _raises,
    "how": _how,
    "multi_turn": _multi_turn,
}


def unanswerable(shown: Shown, strangers: Sequence[str], key: str, held_out: bool = False) -> list[Question]:
    """Questions the passage does not answer: parameters of other functions (`strangers`), facts it leaves out."""
    record, sections = shown.record, shown.record.sections
    found: list[Question] = []

    def ask(group: str, **parts: str) -> None:
        found.append(_question(group, "unanswerable", shown, REFUSAL, key, held_out, **parts))

    for name in [name for name in strangers if name.lower() not in shown.text.lower()][:3]:
        ask(("default", "parameter", "type")[chance("stranger", key, record.id, name) % 3], p=name)
    for item in shown.parameters:
        if not item.type and not next((p.text for p in sections.parameters if p.name == item.name), ""):
            ask("parameter", p=item.name)
        elif not item.type and item.text and not _TYPE_WORDS.search(item.text):
            ask("type", p=item.name)
    if not sections.returns and record.kind in ("function", "method") and "return" not in shown.text.lower():
        ask("returns")
    if not sections.raises and record.kind != "module" and not re.search(r"rais|error|exception", shown.text, re.I):
        ask("raises", e=("ValueError", "TypeError", "KeyError")[chance("error", key, record.id) % 3])
    if "Example:" not in shown.text and record.kind in ("function", "class", "method"):
        ask("how")
    if not _OTHER_FACTS.search(shown.text):
        ask("no_fact")
    return sorted(found, key=lambda q: chance("unanswerable", key, q.text))


def which(shown: Sequence[Record], target: Record, key: str, held_out: bool = False) -> Question | None:
    """Asks which of several records fits some words of the target's summary; none where they do not tell it apart."""
    words = content_words(target.sections.summary, target.name)
    others = [set(content_words(r.sections.summary + " " + r.name.replace("_", " "))) for r in shown if r is not target]
    telling_words = [word for word in words if not any(word in other for other in others)]
    if len(words) < 3 or len(telling_words) < 2:
        return None
    kept = words if len(words) <= 4 else [w for w in words if w in telling_words or chance("word", key, w) % 2][:6]
    text = pick("which", f"{key}{target.id}", held_out).format(w=" ".join(kept))
    return Question("which", text, target.id, (target.id,))


def content_words(text: str, own: str = "") -> list[str]:
    """The words of a sentence that carry meaning, in order, once each, without the symbol's own name."""
    names = {own.lower(), *own.lower().split("_")} if own else set()
    seen: dict[str, None] = {}
    for word in re.findall(r"[A-Za-z][A-Za-z0-9-]{2,}", re.sub(r"\b\w+(?:\.\w+)+", "", text)):
        if word.lower() not in STOP_WORDS and word.lower() not in names:
            seen.setdefault(word.lower())
    return list(seen)


def telling(text: str) -> bool:
    """Whether a text can stand as an answer: some words, not too long, not a pointer to elsewhere."""
    return (
        8 <= len(text) <= MAX_ANSWER
        and len(text.split()) >= 3
        and not _UNTELLING.match(text)
        and not looks_broken(text)
    )


def has_default(item: Parameter, shown: Shown) -> bool:
    """Whether the passage's signature shows a plain default of the parameter."""
    if not item.default or len(item.default) > 40 or _NO_VALUE.search(item.default):
        return False
    line = shown.text.partition("\n")[0]
    arguments = split_arguments(line[line.index("(") :]) if "(" in line else []
    return any(argument_name(a) == item.name and a.partition("=")[2].strip() == item.default for a in arguments)


def has_type(item: Parameter) -> bool:
    return 2 < len(item.type) <= 60 and item.type.lower() not in ("any", "none", "type", "object", "optional")


def returned_answer(item: Returned) -> str:
    if telling(item.text):
        return item.text
    return item.type if not item.text and 2 < len(item.type) <= 60 and item.type not in ("Any", "Self", "self") else ""


def good_line(line: str) -> bool:
    return (
        8 <= len(line) <= 110 and not line.startswith(("#", "print(", "%", "@")) and line.count("(") == line.count(")")
    )


def task(summary: str) -> str:
    """ "Compute the inverse of a matrix." -> "compute the inverse of a matrix"; nothing where no verb leads."""
    first, _, rest = summary.rstrip(".").partition(" ")
    stem = first.lower()
    if stem not in VERBS and stem.endswith("s"):
        stem = stem[:-2] if stem.endswith(("sses", "shes", "ches", "xes")) else stem[:-1]
    words = rest.split()
    return f"{stem} {rest}" if stem in VERBS and 2 <= len(words) <= 14 and ":" not in rest else ""
