"""What two questions must share before one's answer may serve the other, however near their vectors are.

Sentence encoders put a question and its reversal closer together than many paraphrases (GPTCache issue 694), so these
are compared as words: numbers, negations, words of opposite pairs, and what looks like a name in code. Each is a
multiset; any difference is a reason to refuse. Paraphrases that differ in one of these are refused too ("if I do not
pass it" against "by default"): that is the price, and the study states it.
`strict` compares the words and symbols in their order, but for FILLERS, the capital of the first letter and what ends a
sentence. What is left to it are questions that say the same in the same words: hardly a paraphrase passes, and a wrong
pair passes only through what these three leave out.
Not covered: an object named like a filler, or by the first word but for its capital. Without `strict` also: an opposite
that no table lists, a swap of two arguments ("convert x to y"), and/or, another question word, a name that is a plain
English word and stands unquoted, other languages than English.
"""

import re
from collections import Counter
from collections.abc import Callable

NUMBER_WORDS = {
    "zero": "0", "one": "1", "two": "2", "three": "3", "four": "4", "five": "5", "six": "6", "seven": "7",
    "eight": "8", "nine": "9", "ten": "10", "once": "1", "twice": "2", "single": "1", "double": "2", "half": "1/2",
    "second": "2", "third": "3", "fourth": "4",
}  # fmt: skip
"""`first` is an opposite of `last` rather than a number."""
_NEGATIONS = "not no never none without cannot nor neither except unless excluding non exclude excludes excluded"
NEGATIONS = frozenset(_NEGATIONS.split())
OPPOSITES: tuple[tuple[str, str], ...] = (
    ("enable", "disable"), ("enabled", "disabled"), ("enables", "disables"), ("enabling", "disabling"),
    ("with", "without"), ("include", "exclude"), ("includes", "excludes"), ("included", "excluded"),
    ("including", "excluding"), ("inclusive", "exclusive"), ("true", "false"), ("on", "off"), ("yes", "no"),
    ("raise", "ignore"), ("raises", "ignores"), ("raised", "ignored"), ("min", "max"), ("minimum", "maximum"),
    ("minimize", "maximize"), ("minimal", "maximal"), ("smallest", "largest"), ("smaller", "larger"),
    ("lower", "upper"), ("lowest", "highest"), ("low", "high"), ("less", "more"), ("least", "most"),
    ("fewer", "greater"), ("ascending", "descending"), ("increasing", "decreasing"), ("increase", "decrease"),
    ("increases", "decreases"), ("first", "last"), ("before", "after"), ("start", "end"), ("begin", "finish"),
    ("left", "right"), ("top", "bottom"), ("row", "column"), ("rows", "columns"), ("horizontal", "vertical"),
    ("horizontally", "vertically"), ("forward", "backward"), ("add", "remove"), ("adds", "removes"),
    ("added", "removed"), ("insert", "delete"), ("inserts", "deletes"), ("append", "prepend"), ("push", "pop"),
    ("load", "save"), ("loads", "saves"), ("read", "write"), ("reads", "writes"), ("open", "close"),
    ("opened", "closed"), ("encode", "decode"), ("compress", "decompress"), ("serialize", "deserialize"),
    ("input", "output"), ("inputs", "outputs"), ("source", "target"), ("positive", "negative"), ("odd", "even"),
    ("any", "all"), ("always", "never"), ("required", "optional"), ("allow", "forbid"), ("allowed", "forbidden"),
    ("accept", "reject"), ("valid", "invalid"), ("same", "different"), ("equal", "unequal"), ("lazy", "eager"),
    ("dense", "sparse"), ("local", "global"), ("public", "private"), ("synchronous", "asynchronous"),
    ("supported", "unsupported"), ("sorted", "unsorted"), ("directed", "undirected"), ("weighted", "unweighted"),
    ("real", "complex"), ("real", "imaginary"), ("sum", "product"), ("mean", "median"), ("union", "intersection"),
    ("inner", "outer"), ("parent", "child"), ("success", "failure"), ("pass", "fail"), ("lock", "unlock"),
    ("activate", "deactivate"), ("attach", "detach"), ("connect", "disconnect"), ("visible", "hidden"),
    ("show", "hide"), ("present", "absent"), ("early", "late"), ("past", "future"), ("old", "new"), ("up", "down"),
)  # fmt: skip
"""Pairs of words that turn an answer round; either word of a pair must stand in both questions as often, or in none."""

FILLERS = frozenset({"a", "an", "the", "is", "are", "do", "does", "please"})
"""Words that two questions may differ in under `strict`: articles, the present tense of `be` and `do`, and politeness.
None of these turns an answer round while the words beside it stay in their order. Prepositions, conjunctions, question
words, pronouns, modal verbs and other tenses do ("to/from", "and/or", "why/when", "can I/can it", "can/should")."""

_POLAR = frozenset(word for pair in OPPOSITES for word in pair)
_QUOTED = re.compile(r"`([^`]+)`|\"([^\"]+)\"|(?<!\w)'([^']+)'(?!\w)")
_SYMBOLS = re.compile(r"\w+(?:'\w+)*|!(?=[\w=(\[])|[^\w\s,;?:.!\"'`]")
_WORD = re.compile(r"[^\s,;:?!()\[\]{}\"'`]+(?:'[a-z]+)?")
_NUMBER = re.compile(r"\d+(?:\.\d+)*(?:e[+-]?\d+)?", re.IGNORECASE)
_SIGNED = re.compile(r"(?<![\w.])-(?=\d)")
_CODE = re.compile(r"\w\.\w|\w_|_\w|[a-z][A-Z]|[A-Z]{2}|^[A-Z]\w*[A-Z]|\d")


def differs(asked: str, known: str, strict: bool = False) -> str | None:
    """Why the answer to `known` must not serve `asked`: `numbers`, `negation`, `polarity`, `identifiers` or (`strict`)
    `words`; None where nothing is found."""
    for reason, part in CHECKS.items():
        if part(asked) != part(known) and (strict or reason != "words"):
            return reason
    return None


def numbers(text: str) -> Counter[str]:
    """Every run of digits with its sign, inside of words too (`float32`, `1-D`), and numbers as words."""
    found = Counter(match.group() for match in _NUMBER.finditer(text))
    found["-"] = len(_SIGNED.findall(text))
    found.update(NUMBER_WORDS[word] for word in _plain(text) if word in NUMBER_WORDS)
    return +found


def negations(text: str) -> Counter[str]:
    """How often something is denied: all negations count as one word, as `n't` and `not` do."""
    return +Counter({"not": sum(word in NEGATIONS or word.endswith("n't") for word in _plain(text))})


def polar_words(text: str) -> Counter[str]:
    return Counter(word for word in _plain(text) if word in _POLAR)


def identifiers(text: str) -> Counter[str]:
    """What is quoted, and words that look like code: dots, underscores, inner capitals, digits. Each counts once;
    `numpy.linalg.svd` and `svd` are two, for `svd` may be another library's."""
    quoted = [next(filter(None, found)) for found in _QUOTED.findall(text) if any(found)]
    words = [word.strip(".") for word in _WORD.findall(text)]
    return Counter({*quoted, *(word for word in words if _CODE.search(word))})


def words(text: str) -> tuple[str, ...]:
    """All words but fillers, and all symbols but those that end or divide a sentence, in order; capitals count but for
    the first letter."""
    said = _SYMBOLS.findall(text[:1].lower() + text[1:].replace("\u2019", "'"))
    return tuple(word for word in said if word.lower() not in FILLERS)


def _plain(text: str) -> list[str]:
    return [word.strip(".-_").lower() for word in _WORD.findall(text.replace("\u2019", "'"))]


CHECKS: dict[str, Callable[[str], Counter[str] | tuple[str, ...]]] = {
    "numbers": numbers,
    "negation": negations,
    "polarity": polar_words,
    "identifiers": identifiers,
    "words": words,
}
