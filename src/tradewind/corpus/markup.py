"""Docstring markup -> plain text: roles, links, directives, footnotes, inline maths and HTML are removed or unwrapped.

It works on text alone, by patterns: nested markup and tables are not parsed, a text that still looks broken is left to
the caller to drop (`looks_broken`).
"""

import re

_RULES: tuple[tuple[re.Pattern[str], str], ...] = tuple(
    (re.compile(pattern), replacement)
    for pattern, replacement in [
        (r":(?:[\w+-]{1,24}:){1,3}`~([^`<>]*?)`", r"\1"),  # :class:`~a.b.C`, shortened below
        (r":(?:[\w+-]{1,24}:){1,3}`!?([^`<>]+?)\s*<[^`<>]*>`", r"\1"),
        (r":(?:[\w+-]{1,24}:){1,3}`!?([^`]*)`", r"\1"),
        (r"`([^`<>]+?)\s*<[^`<>]+>`__?", r"\1"),
        (r"`([^`]+)`__?(?![\w`])", r"\1"),
        (r"``([^`]*)``", r"\1"),
        (r"\[([^\][]+)\]\(https?://[^)\s]*\)", r"\1"),
        (r"\s*\[#?\w{0,12}\]_", ""),
        (r"`([^`]*)`", r"\1"),
        (r"(?<![\w*])\*\*([^*\s](?:[^*]*[^*\s])?)\*\*(?![\w*])", r"\1"),
        (r"\(\*(\w+)\*\)", r"(\1)"),
        (r"(?<![\w.])_[a-z_]+\.(?=[A-Za-z])", ""),  # :class:`_query.Query`: a private module as link target
        (r"(?<![\w*(\[,])\*([^*\s](?:[^*,]*[^*\s,])?)\*(?![\w*])", r"\1"),
        (r"(?<![\w.])~(?=[A-Za-z])|(?<![\w.~/)\]])\.(?=[A-Z]\w)", ""),  # ~a.b.C and .C: short forms of a link
        (r"\$([\w(), +*/=<>!%|{}.^-]{1,40})\$", r"\1"),
        (r"\b_typing_(?=[A-Z])", ""),
        (r"\|([A-Z]\w+(?:\.\w+)*)\|", r"\1"),
        (r"</?(?:code|b|i|em|strong|br|p|a|tt|sup|sub)\b[^>]*>", ""),
        (r"\\([_*`|\\])", r"\1"),
    ]
)
_TILDE = re.compile(r"(:(?:[\w+-]{1,24}:){1,3}`)~([^`<>]*?)(`)")
_DIRECTIVE = re.compile(r"^(\s*)\.\.\s+[\w:+-]+::.*$")
_BROKEN = re.compile(
    r"%\(\w+\)|\{\w*\}\s*\{|::\s*$|\\[a-z]{3,}|\$\$|^\W*$|^\.\. |>>> |\|$|^[*•-] | \* [A-Z'\"]|_{3,}|={4,}|\+-|`|:\w+:"
)
_INLINE_DIRECTIVES = re.compile(r"\s*\.\. [\w-]+::.*$")


def plain(text: str) -> str:
    """One paragraph of plain text: markup removed, white space collapsed."""
    return re.sub(r"\s+", " ", inline(drop_directives(text))).strip()


def inline(text: str) -> str:
    """Inline markup removed, line structure kept."""
    text = _TILDE.sub(lambda m: m[1] + m[2].rpartition(".")[2] + m[3], text)
    for pattern, replacement in _RULES:
        text = pattern.sub(replacement, text)
    return text


def drop_directives(text: str) -> str:
    """Text without explicit-markup blocks (`.. note::` and what is indented below it)."""
    kept: list[str] = []
    depth: int | None = None
    for line in text.split("\n"):
        indent = len(line) - len(line.lstrip())
        if depth is not None and (not line.strip() or indent > depth):
            continue
        depth = None
        if match := _DIRECTIVE.match(line):
            depth = len(match[1])
            continue
        kept.append(_INLINE_DIRECTIVES.sub("", line))
    return "\n".join(kept)


def paragraphs(text: str) -> list[str]:
    """The plain paragraphs of a text, code blocks (indented, `>>>`, fenced) left out, empty ones dropped."""
    found: list[str] = []
    fenced = False
    for block in re.split(r"\n\s*\n", drop_directives(text)):
        fences = block.count("```")
        inside, fenced = fenced, fenced ^ bool(fences % 2)
        if inside or fences or block.lstrip("\n")[:4] == "    " or ">>>" in block:
            continue
        cleaned = plain(block)
        if cleaned.endswith("::"):  # announces a code block
            cleaned = cleaned[:-1] if len(cleaned.split()) > 5 else ""
        if cleaned:
            found.append(cleaned)
    return found


_SENTENCE_END = re.compile(
    r"(?<!\be\.g)(?<!\bi\.e)(?<!\bcf)(?<!\bvs)(?<!\betc)(?<!\bal)(?<!\bno)(?<!\bEq)(?<!\bRef)(?<!\bapprox)(?<!\bw\.r\.t)"
    r"[.!?](?=[\s)]|$)(?!\s+[a-z0-9(])"
)


def first_sentence_of(text: str) -> str:
    """The first sentence of a plain text, with its full stop; the whole text where no sentence ends in it."""
    match = _SENTENCE_END.search(text)
    return text[: match.end()].strip() if match else text.strip()


def looks_broken(text: str) -> bool:
    """Whether markup, a template hole or nothing readable is left in a text that should be plain."""
    return not text or bool(_BROKEN.search(text)) or sum(c.isalpha() for c in text) < 0.4 * len(text)
