"""Wrong pairs that share nearly all their words: two names in the other order, `and` for `or`, another question word.

| class | the two questions |
|---|---|
| reversed | two objects, two parameters, or two parts of a documented task change places ("convert X to Y") |
| and_or | a sentence of the documentation, and the same with one `and` for `or` or the other way round |
| question_word | one question, asked with another of how, why, when, where |

The names and sentences are the corpus'; what is asked about two of them is made up, so that only the difference between
the two questions means anything. All count as wrong by making. Not checked: whether both orders happen to have one
answer, or whether a question with another question word is one that somebody would ask.
"""

import random
import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from itertools import chain, zip_longest

from studies.caching.semantic_pairs import Pair, sentences, spellings
from tradewind.caching.semantic import MAX_QUESTION
from tradewind.corpus.records import Record

SWAPPED = ("reversed", "and_or", "question_word")
TWO_CLASSES = (
    "How do I convert {x} to {y}?", "How do I turn {x} into {y}?", "How do I merge {x} into {y}?",
    "How do I copy the settings from {x} to {y}?", "Does {x} inherit from {y}?", "Can {x} hold {y}?",
)  # fmt: skip
TWO_FUNCTIONS = (
    "Must I call {x} before {y}?", "Does {x} call {y}?", "Is {x} faster than {y}?", "Can I replace {x} by {y}?",
    "What does {x} do that {y} cannot?", "How do I pass the result of {x} to {y}?",
)  # fmt: skip
TWO_PARAMETERS = (
    "Does {x} override {y} in {s}?", "Is {x} applied before {y} in {s}?", "Must {x} be larger than {y} in {s}?",
    "How do I derive {x} from {y} in {s}?",
)  # fmt: skip
QUESTION_WORDS = ("How", "Why", "When", "Where")
_VERBS = "add|append|apply|assign|attach|bind|convert|copy|link|map|merge|move|send|transform"
_TASK = re.compile(rf"How do I ({_VERBS}) ((?:\S+ ){{1,4}})(to|into|onto|from) (\S+(?: \S+){{0,3}})\?")
_JOINED = re.compile(r"(?<!whether) (and|or) (?!not )")


def swapped(records: Sequence[Record], count: int, rng: random.Random) -> list[Pair]:
    """At most `count` pairs of each class."""
    texts = sorted(set(sentences(records)))
    rng.shuffle(texts)
    makers = {"reversed": _reversed, "and_or": _and_or, "question_word": _question_words}
    out: list[Pair] = []
    for kind, make in makers.items():
        found: dict[str, Pair] = {}
        for tag, asked, known in make(records, texts, rng):
            if len(found) == count:
                break
            if asked != known and max(len(asked), len(known)) <= MAX_QUESTION:
                found.setdefault(asked, Pair(kind, tag, asked, known))
        out += found.values()
    return out


Made = Iterator[tuple[str, str, str]]
"""Tag, and the two questions."""


def _in_turn(*sources: Made) -> Made:
    """One of each, until the last ends."""
    return (made for made in chain.from_iterable(zip_longest(*sources)) if made is not None)


def _reversed(records: Sequence[Record], texts: Sequence[str], rng: random.Random) -> Made:
    return _in_turn(
        _of_tasks(texts),
        _of_objects([one for one in records if one.kind == "class"], TWO_CLASSES, rng),
        _of_objects([one for one in records if one.kind == "function"], TWO_FUNCTIONS, rng),
        _of_parameters(records, rng),
    )


def _of_tasks(texts: Sequence[str]) -> Made:
    for text in texts:
        found = _TASK.fullmatch(text)
        if found and "other" not in text:  # "add one to another" is the same both ways round
            verb, one, link, two = (part.strip() for part in found.groups())
            yield f"{verb} {link}", text, f"How do I {verb} {two} {link} {one}?"


def _of_objects(records: Sequence[Record], templates: Sequence[str], rng: random.Random) -> Made:
    """Each object with another one of its package."""
    by_package: dict[str, list[Record]] = defaultdict(list)
    for one in records:
        by_package[one.package].append(one)
    for one in rng.sample(list(records), len(records)):
        spelling = rng.randrange(2)
        x, y = (spellings(record)[spelling] for record in (one, rng.choice(by_package[one.package])))
        template = rng.choice(templates)
        if x != y:
            yield template, template.format(x=x, y=y), template.format(x=y, y=x)


def _of_parameters(records: Sequence[Record], rng: random.Random) -> Made:
    for record in rng.sample(list(records), len(records)):
        names = sorted({item.name for item in record.sections.parameters if item.name.isidentifier()})
        if len(names) > 1:
            x, y = rng.sample(names, 2)
            template, symbol = rng.choice(TWO_PARAMETERS), rng.choice(spellings(record))
            yield template, template.format(x=x, y=y, s=symbol), template.format(x=y, y=x, s=symbol)


def _and_or(records: Sequence[Record], texts: Sequence[str], rng: random.Random) -> Made:
    def turned(word: str, other: str) -> Made:
        for text in texts:
            places = [found for found in _JOINED.finditer(text) if found[1] == word]
            if places:
                at = rng.choice(places)
                yield word, text, f"{text[: at.start(1)]}{other}{text[at.end(1) :]}"

    return _in_turn(turned("and", "or"), turned("or", "and"))


def _question_words(records: Sequence[Record], texts: Sequence[str], rng: random.Random) -> Made:
    def asked(bodies: Iterator[str]) -> Made:
        for body in bodies:
            one, other = rng.sample(QUESTION_WORDS, 2)
            yield f"{one}/{other}", f"{one} {body}", f"{other} {body}"

    drawn = rng.sample(list(records), len(records))
    raising = [(record, rng.choice(record.sections.raises)) for record in drawn if record.sections.raises]
    taking = [(record, rng.choice(record.sections.parameters)) for record in drawn if record.sections.parameters]
    return _in_turn(
        asked(text.removeprefix("How ") for text in texts if text.startswith("How ")),
        asked(f"does {rng.choice(spellings(record))} raise {one.type}?" for record, one in raising),
        asked(f"do I set {one.name} of {rng.choice(spellings(record))}?" for record, one in taking),
    )
