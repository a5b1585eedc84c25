"""Pairs of questions for the semantic study: the same in other words, almost the same and not, unrelated.

Made from the documentation records by the corpus' own wordings. Two sides share no family of records: thresholds are
chosen on `validation`, reported on `test` (the encoder was trained on neither).

| class | the two questions | the answer of one for the other |
|---|---|---|
| paraphrase | one intent in two wordings | right |
| respelled | the same, and `numpy.linalg.svd` for `svd` or the other way round | right |
| other_symbol | one wording, another object (with the same parameter where there is one) | wrong |
| other_parameter | one wording and object, another parameter: the same passage | wrong |
| other_kind | one object and parameter, another wish (default for type, ...): the same passage | wrong |
| polarity, number | a sentence of the documentation, and the same with one word turned round | wrong |

Pairs that differ in their order, in and/or or in the question word: `semantic_swaps`.
Where the gold answers of a pair that should be wrong agree all the same (`None` twice), it is left out and counted.
Not checked: whether a turned sentence is still good English, or happens to be true as well.
"""

import random
import re
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from tradewind.caching.guard import OPPOSITES
from tradewind.caching.semantic import MAX_QUESTION
from tradewind.caching.shadow import agreement
from tradewind.corpus.families import split_of
from tradewind.corpus.passages import Shown
from tradewind.corpus.phrasings import HELD_OUT, TRAIN
from tradewind.corpus.questions import good_line, has_default, has_type, returned_answer, task, telling
from tradewind.corpus.records import Record
from tradewind.corpus.samples import eligible

RIGHT = ("paraphrase", "respelled")
WRONG = ("other_symbol", "other_parameter", "other_kind", "polarity", "number")
WITH_PARAMETER = ("default", "parameter", "type")

FLIPS = """
enable disable, enabled disabled, with without, include exclude, included excluded, minimum maximum, min max,
smallest largest, lower upper, ascending descending, increasing decreasing, True False, raise ignore, raised ignored,
first last, before after, start end, left right, row column, rows columns, positive negative, required optional,
same different, all any, add remove, input output, inputs outputs, always never, less greater, real imaginary,
is is_not, are are_not, will will_not, must must_not, should should_not, can cannot,
shallow deep, short long, static dynamic, mutable immutable, known unknown, finite infinite, symmetric asymmetric,
absolute relative, implicit explicit, nested flat, numerator denominator, discrete continuous, continuous discrete,
narrow wide, hard soft, rising falling, client server, training test, days hours, strict loose, mean variance,
sine cosine, vector matrix, string integer, list tuple, key value, keys values, bytes string, x y, width height
"""
"""Word and its opposite (`_` for a blank), both ways round; from `shallow deep` on, pairs that the guard does not
list."""
NUMBERS = (
    (r"\baxis([ =])0\b", r"axis\g<1>1"), (r"\baxis([ =])1\b", r"axis\g<1>0"), (r"\b1(-?)([dD])\b", r"2\1\2"),
    (r"\b2(-?)([dD])\b", r"3\1\2"), (r"\b(float|int|uint|complex)32\b", r"\g<1>64"),
    (r"\b(float|int|uint|complex)64\b", r"\g<1>32"), (r"\bone\b", "two"), (r"\btwo\b", "three"),
    (r"\bthree\b", "four"), (r"\b0\b", "1"), (r"\b1\b", "2"), (r"\b2\b", "3"), (r"\b3\b", "5"), (r"\b10\b", "100"),
    (r"\b(\d+)\.(\d+)\b", r"\1.\g<2>5"),
)  # fmt: skip


@dataclass(frozen=True, eq=False)
class Intent:
    """What somebody wants to know. symbol: as spoken; parts: `p` or `e` of the wording."""

    group: str
    record: Record
    symbol: str
    parts: tuple[tuple[str, str], ...]
    gold: str
    passage: str

    def wordings(self) -> list[str]:
        return [one.format(s=self.symbol, **dict(self.parts)) for one in TEMPLATES[self.group]]


TEMPLATES = {
    group: (*TRAIN[group], *HELD_OUT.get(group, ()))
    for group in ("summary", "default", "parameter", "type", "returns", "raises", "how")
}


@dataclass(frozen=True)
class Pair:
    """kind: a class above; tag: the group, or the words turned round; listed: whether the guard's table has them."""

    kind: str
    tag: str
    asked: str
    known: str
    listed: bool = True


def sides(records: Sequence[Record], validation: float, test: float) -> dict[str, list[Record]]:
    """Records by split, as the corpus splits them."""
    out: dict[str, list[Record]] = defaultdict(list)
    for record in records:
        out[split_of(record.family, validation, test)].append(record)
    return out


def intents(records: Sequence[Record], rng: random.Random, most: int) -> list[Intent]:
    """The intents of at most `most` records, in random order; symbols are spoken in full or by the last part."""
    out: list[Intent] = []
    for shown in eligible(rng.sample(list(records), min(most, len(records))), "semantic"):
        symbol = rng.choice(spellings(shown.record))
        out += [one for one in _of(shown, symbol) if all(len(text) <= MAX_QUESTION for text in one.wordings())]
    rng.shuffle(out)
    return out


def spellings(record: Record) -> list[str]:
    return [
        record.id,
        ".".join(record.id.split(".")[-2 if record.kind in ("method", "property", "attribute") else -1 :]),
    ]


def _of(shown: Shown, symbol: str) -> Iterator[Intent]:
    def intent(group: str, gold: str, **parts: str) -> Intent:
        return Intent(group, shown.record, symbol, tuple(parts.items()), gold, shown.text)

    if telling(shown.summary):
        yield intent("summary", shown.summary)
    for item in shown.parameters:
        if has_default(item, shown):
            yield intent("default", item.default, p=item.name)
        if telling(item.text):
            yield intent("parameter", item.text, p=item.name)
        if has_type(item):
            yield intent("type", item.type, p=item.name)
    if len(shown.record.sections.returns) == 1 and shown.returns and (answer := returned_answer(shown.returns[0])):
        yield intent("returns", answer)
    if len(shown.record.sections.raises) == 1 and shown.raises and telling(shown.raises[0].text):
        yield intent("raises", shown.raises[0].text, e=shown.raises[0].type)
    if shown.example and good_line(shown.example[-1]):
        yield intent("how", shown.example[-1])


def pairs(
    records: Sequence[Record], pool: Sequence[Intent], count: int, rng: random.Random
) -> tuple[list[Pair], dict[str, int]]:
    """At most `count` pairs of each class; class -> pairs left out as harmless. pool: intents of the records."""
    harmless: dict[str, int] = dict.fromkeys(WRONG, 0)
    out: list[Pair] = []
    order = balanced(pool, rng)
    wording = {one: rng.randrange(len(one.wordings())) for one in order}
    for kind, other in _others(pool, rng).items():
        found: list[Pair] = []
        for one in order:
            known = other(one)
            if known is None or len(found) == count:
                continue
            if kind in WRONG and agreement(known.gold, one.gold).close:
                harmless[kind] += 1
                continue
            asked, known_text = _texts(one, known, kind, wording[one], rng)
            if asked != known_text:
                found.append(Pair(kind, one.group, asked, known_text))
        out += found
    for kind, flip in (("polarity", _polarity), ("number", _number)):
        out += flipped(records, kind, flip, count, rng)
    return out, harmless


def balanced(pool: Sequence[Intent], rng: random.Random) -> list[Intent]:
    """Groups in turn, so that parameters, which most intents are about, do not outweigh the rest."""
    groups: dict[str, list[Intent]] = defaultdict(list)
    for one in rng.sample(list(pool), len(pool)):
        groups[one.group].append(one)
    longest = max(map(len, groups.values()))
    return [members[i] for i in range(longest) for members in groups.values() if i < len(members)]


def _texts(one: Intent, known: Intent, kind: str, at: int, rng: random.Random) -> tuple[str, str]:
    """`one` is asked in wording `at`; a right pair differs in its wording, a wrong one only in what it asks for."""
    asked, others = one.wordings(), known.wordings()
    if kind in RIGHT:
        return asked[at], others[rng.choice([i for i in range(len(others)) if i != at])]
    return asked[at], others[at if one.group == known.group else rng.randrange(len(others))]


def _others(pool: Sequence[Intent], rng: random.Random) -> dict[str, Callable[[Intent], Intent | None]]:
    """Class -> the intent that goes with a given one."""
    alike, same_object = defaultdict(list), defaultdict(list)
    for one in pool:
        alike[one.group, one.parts, one.record.package].append(one)
        same_object[one.record.id].append(one)

    def pick(found: list[Intent]) -> Intent | None:
        return rng.choice(found) if found else None

    def respelled(one: Intent) -> Intent | None:
        return pick([replace(one, symbol=other) for other in spellings(one.record) if other != one.symbol])

    def other_symbol(one: Intent) -> Intent | None:
        found = alike[one.group, one.parts, one.record.package]
        return pick([o for o in found if o.symbol != one.symbol and o.record is not one.record])

    def other_parameter(one: Intent) -> Intent | None:
        found = [o for o in same_object[one.record.id] if o.group == one.group and o.parts != one.parts]
        return pick(found) if one.group in WITH_PARAMETER else None

    def other_kind(one: Intent) -> Intent | None:
        same = [o for o in same_object[one.record.id] if o.group != one.group]
        with_it = [o for o in same if o.parts == one.parts]
        return pick(with_it if one.group in WITH_PARAMETER else same)

    return {
        "paraphrase": lambda one: one, "respelled": respelled, "other_symbol": other_symbol,
        "other_parameter": other_parameter, "other_kind": other_kind,
    }  # fmt: skip


Flip = Callable[[str, random.Random], tuple[str, str, bool] | None]


def flipped(records: Sequence[Record], kind: str, flip: Flip, count: int, rng: random.Random) -> list[Pair]:
    """Questions about documentation sentences, each with one word turned round; no pair of words more than a tenth."""
    out: list[Pair] = []
    used: dict[str, int] = defaultdict(int)
    for asked in rng.sample(found := sorted(set(sentences(records))), len(found)):
        made = flip(asked, rng)
        if len(out) == count:
            break
        if made and used[made[1]] < max(1, count // 10):
            known, tag, listed = made
            used[tag] += 1
            out.append(Pair(kind, tag, asked, known, listed))
    return out


def sentences(records: Sequence[Record]) -> Iterator[str]:
    """Questions made of what the documentation says, not in random order and some of them twice."""
    for record in records:
        sections = record.sections
        if doing := task(sections.summary):
            yield f"How do I {doing}?"
        texts = [*re.split(r"(?<=\.)\s", sections.description)[:3], *(item.text for item in sections.parameters)]
        for text in texts:
            if 6 <= len(text.split()) <= 30 and len(text) < MAX_QUESTION - 20 and text[:1].isalpha():
                yield f"Is it right that {text[0].lower() if text[1:2].islower() else text[0]}{text[1:].rstrip('.')}?"


def _flips() -> list[tuple[str, str, bool]]:
    listed = {frozenset(pair) for pair in OPPOSITES}
    out = []
    for pair in FLIPS.replace("\n", " ").split(","):
        one, other = pair.split()
        known = frozenset((one.lower(), other.lower())) in listed or other.endswith("not")
        out += [(one.replace("_", " "), other.replace("_", " "), known)]
        if not other.endswith("not"):
            out += [(other, one, known)]
    return out


TURNS = _flips()


def _polarity(text: str, rng: random.Random) -> tuple[str, str, bool] | None:
    """The sentence with one word turned round, the pair of words, whether the guard lists it."""
    _, _, body = text.partition(" that " if text.startswith("Is it") else " I ")
    start = len(text) - len(body)
    for word, other, listed in rng.sample(TURNS, len(TURNS)):
        if f" {word} " in body and f" {word} not " not in body:
            at = start + body.index(f" {word} ") + 1
            return f"{text[:at]}{other}{text[at + len(word) :]}", "/".join(sorted((word, other))), listed
    return None


def _number(text: str, rng: random.Random) -> tuple[str, str, bool] | None:
    for pattern, other in NUMBERS:
        changed = re.sub(pattern, other, text, count=1)
        if changed != text:
            return changed, pattern, True
    return None
