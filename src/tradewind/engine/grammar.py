"""Structured answers: which tokens may come next so that an answer keeps to a schema, a pattern or a grammar.

The life of a structure:
1. `Grammars.compile(structure)` reads it once, outside the engine's thread: bounded, cached, or refused as
   `BadStructure`.
2. Each answer takes a `Matcher` of its own from `grammar.matcher()`.
3. Before a token is sampled `allowed()` says which may be, the ends of a text among them only where the answer is whole;
   then `advance(token)`. It is true where nothing can follow: the answer ends there, and no end token is needed.

An answer that ends so, or by an end token, keeps to its structure whatever the logits are. One cut by max_tokens
(`length`) or by a stop string is the beginning of such an answer.

Of the schemas: every keyword counts, with `strict` or without, and one that is not enforced (`uniqueItems`, unknown
formats, look-around in patterns) is refused. Between tokens of JSON one space may stand and no line end, as models that
like white space would spend their tokens on it. Choices are whole texts; grammars are Lark's (as llguidance reads it) or
llama.cpp's GBNF.

Cost, measured on one core with SmolLM2's 49,152 tokens: a mask 4 us in the middle and 0.4 ms at worst for an object of
three fields, its unpacking not counted; compiling that schema 0.7 ms, a matcher 0.06 ms, the vocabulary 0.2 s once.
Not covered: structural tags, remote references, fast-forward of tokens that are forced.
"""

import json
import math
import threading
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

import numpy as np
from llguidance import LLMatcher, LLParserLimits, LLTokenizer, grammar_from
from llguidance.numpy import allocate_token_bitmask, fill_next_token_bitmask
from numpy.typing import NDArray

from tradewind.engine.text import Tokenizer

Allowed = NDArray[np.bool_]
"""[vocabulary], true where a token may come next."""
Kind = Literal["json_schema", "regex", "choice", "grammar"]
LONGEST = 1 << 16
"""Characters of a structure: the library's own limits do not bound how long it reads one."""
FIELDS = 1000
"""Properties over all the objects of a schema: 800 take 0.05 s to compile, 3,000 more than 10 s."""
MULTIPLES = 1000
"""The product of a schema's `multipleOf`s: each becomes an automaton with as many states."""
KEPT = 64
"""Structures kept compiled."""
JSON_SPACE = " ?"
LIMITS = LLParserLimits(
    initial_lexer_fuel=200_000,
    step_lexer_fuel=100_000,
    step_max_items=20_000,
    max_lexer_states=20_000,
    max_grammar_size=50_000,
    verbose_errors=False,
)
"""A fifth of the library's defaults and less: a structure is a client's, and a step of one delays every answer."""


class BadStructure(ValueError):
    """A structure that cannot be kept to: not valid, not supported, or too complex, when read or on the way."""


@dataclass(frozen=True)
class Structure:
    """source: the schema or the list of choices as JSON, the pattern, or the grammar."""

    kind: Kind
    source: str


ANY_OBJECT = Structure("json_schema", '{"type":"object"}')


class Matcher:
    """Where one answer stands in its grammar. Raises BadStructure where the grammar turns out too complex."""

    def __init__(self, matcher: LLMatcher, vocab_size: int) -> None:
        self._matcher, self._vocab_size = matcher, vocab_size
        self._bits = allocate_token_bitmask(1, vocab_size)

    def allowed(self) -> Allowed:
        fill_next_token_bitmask(self._matcher, self._bits)
        self._check()
        bits = np.unpackbits(self._bits[0].view(np.uint8), bitorder="little", count=self._vocab_size)
        return bits.view(np.bool_)

    def advance(self, token: int) -> bool:
        """Take a token that was allowed. True where the answer is whole and nothing may follow."""
        self._matcher.consume_token(token)
        self._check()
        return self._matcher.is_stopped()

    def _check(self) -> None:
        if self._matcher.is_error():
            raise BadStructure(_shortly(self._matcher.get_error()))


class Grammar:
    """A compiled structure, shared by the answers that keep to it."""

    def __init__(self, structure: Structure, start: LLMatcher, vocab_size: int) -> None:
        self.structure = structure
        self._start, self._vocab_size = start, vocab_size

    def matcher(self) -> Matcher:
        return Matcher(self._start.deep_copy(), self._vocab_size)


class Grammars:
    """Compiles structures over one tokenizer. Callable from any thread; one is compiled at a time."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._vocabulary: LLTokenizer | None = None
        self._one = threading.Lock()
        self._compiled = lru_cache(KEPT)(self._compile)

    def compile(self, structure: Structure) -> Grammar:
        """Raises BadStructure. Takes milliseconds mostly, up to a second for the largest: not for an event loop."""
        with self._one:
            return self._compiled(structure)

    def _compile(self, structure: Structure) -> Grammar:
        if len(structure.source) > LONGEST:
            raise BadStructure(f"it has more than {LONGEST} characters")
        if self._vocabulary is None:
            self._vocabulary = vocabulary(self._tokenizer)
        try:
            source = READERS[structure.kind](structure.source)
        except BadStructure:
            raise
        except Exception as error:  # the library's readers raise bare Exceptions
            raise BadStructure(_shortly(str(error))) from None
        start = LLMatcher(self._vocabulary, source, log_level=0, limits=LIMITS)
        if start.is_error():
            raise BadStructure(_shortly(start.get_error()))
        grammar = Grammar(structure, start, self._tokenizer.vocab_size)
        if not grammar.matcher().allowed().any():  # some errors show at the first token only
            raise BadStructure("no text keeps to it")
        return grammar


class _Vocabulary:
    """What llguidance asks of a tokenizer."""

    is_tokenizer_wrapper = True
    bos_token_id = None

    def __init__(self, tokenizer: Tokenizer) -> None:
        specials = frozenset(tokenizer.special_ids)
        self._encode = tokenizer.encode
        self.eos_token_id = tokenizer.eos_token_ids[0]
        self.special_token_ids = sorted(specials)
        self.tokens = [
            f"<|special {token}|>".encode() if token in specials else tokenizer.token_bytes(token)
            for token in range(tokenizer.vocab_size)
        ]

    def __call__(self, text: str | bytes) -> list[int]:
        return self._encode(text if isinstance(text, str) else text.decode("utf-8", "replace"))


def vocabulary(tokenizer: Tokenizer) -> LLTokenizer:
    return LLTokenizer(
        _Vocabulary(tokenizer),  # type: ignore[arg-type] # a duck of its TokenizerWrapper
        n_vocab=tokenizer.vocab_size,
        eos_token=list(tokenizer.eos_token_ids),
    )


def _json_schema(source: str) -> str:
    nodes = _nodes(json.loads(source))
    if sum(len(node["properties"]) for node in nodes if isinstance(node.get("properties"), dict)) > FIELDS:
        raise BadStructure(f"a schema has at most {FIELDS} properties")
    # An object there is the schema of a property that has this name.
    multiples = [node["multipleOf"] for node in nodes if not isinstance(node.get("multipleOf", {}), dict)]
    if not all(isinstance(one, int) and one > 0 for one in multiples) or math.prod(multiples) > MULTIPLES:
        raise BadStructure(f"multipleOf is enforced for whole numbers whose product is at most {MULTIPLES}")
    return LLMatcher.grammar_from_json_schema(source, overrides={"whitespace_pattern": JSON_SPACE})


def _nodes(schema: Any) -> list[dict[str, Any]]:
    """Every object inside a schema, and the schema itself."""
    inner = schema if isinstance(schema, list) else list(schema.values()) if isinstance(schema, dict) else []
    found = [node for one in inner for node in _nodes(one)]
    return [*found, schema] if isinstance(schema, dict) else found


def _choice(source: str) -> str:
    texts = json.loads(source)
    return LLMatcher.grammar_from_lark("start: " + " | ".join(json.dumps(text, ensure_ascii=False) for text in texts))


def _grammar(source: str) -> str:
    if "%json" in source:
        raise BadStructure("%json is not supported inside a grammar: give a JSON schema instead")
    return grammar_from("grammar", source)


READERS: dict[Kind, Callable[[str], str]] = {
    "json_schema": _json_schema,
    "regex": LLMatcher.grammar_from_regex,
    "choice": _choice,
    "grammar": _grammar,
}


def _shortly(text: str) -> str:
    """On one line: the first, and the cause that the library names further down."""
    first, *more = text.split("\n")
    cause = next((line.removeprefix("error: ") for line in more if line.startswith("error: ")), "")
    return " ".join(part for part in (first[: 298 - len(cause)], cause) if part)[:300] or "it cannot be read"
