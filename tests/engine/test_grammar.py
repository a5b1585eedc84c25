"""Structured answers over random logits: what ends by itself keeps to its structure, judged by other libraries."""

import json
import re
import time
from functools import cache

import jsonschema
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tradewind.engine.answer import Answer
from tradewind.engine.grammar import ANY_OBJECT, LONGEST, BadStructure, Grammar, Grammars, Structure
from tradewind.engine.requests import Request
from tradewind.engine.sampling import SamplingParams
from tradewind.engine.text import ByteTokenizer, Tokenizer
from tradewind.model.tokenizer import Tokenizer as Model

PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 6},
        "mood": {"enum": ["fröhlich", "悲しい", "😀"]},
        "age": {"type": "integer", "minimum": 0, "maximum": 120},
        "near": {"type": "array", "items": {"type": "number"}, "maxItems": 2},
    },
    "required": ["name", "mood", "age"],
    "additionalProperties": False,
}
SCHEMAS = [
    PERSON,
    {"type": "string", "pattern": "^[äöü]{2,5}$"},
    {"type": "string", "minLength": 2, "maxLength": 4},
    {"anyOf": [{"type": "null"}, {"type": "boolean"}, {"const": {"ключ": [1, "é"]}}]},
    {"type": "array", "items": {"$ref": "#/$defs/pair"}, "minItems": 1, "maxItems": 2,
     "$defs": {"pair": {"type": "array", "prefixItems": [{"type": "boolean"}, {"type": "integer", "multipleOf": 7,
      "maximum": 999, "minimum": 0}], "minItems": 2, "items": False}}},
]  # fmt: skip
TEXTS = ["fröhlich 悲しい 😀😀 é", '{"name": "ä", "age": 3, "near": [1.5]}', "true false null äöü"]


@cache
def tokenizer(name: str) -> Tokenizer:
    """One token a byte, or a byte-pair encoding whose tokens hold several characters and parts of them."""
    return ByteTokenizer() if name == "bytes" else Model.train(TEXTS * 3, 330)


@cache
def grammars(name: str) -> Grammars:
    return Grammars(tokenizer(name))


def compiled(structure: Structure, name: str = "bytes") -> Grammar:
    return grammars(name).compile(structure)


def answer(structure: Structure, name: str, seed: int, max_tokens: int = 400, **more: object) -> tuple[str, str]:
    """Text and finish reason of an answer whose logits are noise: any token may come, at any place."""
    request = Request((1,), max_tokens, SamplingParams(seed=seed), grammar=compiled(structure, name), **more)  # type: ignore[arg-type]
    made, noise = Answer(request, 0, tokenizer(name)), np.random.default_rng(seed)
    text = ""
    while made.finish_reason is None:
        delta = made.accept(noise.normal(0, 4, tokenizer(name).vocab_size).astype(np.float32))
        text += delta.text if delta else ""
    return text, made.finish_reason


@settings(max_examples=60, deadline=None)
@given(schema=st.sampled_from(SCHEMAS), name=st.sampled_from(["bytes", "pairs"]), seed=st.integers(0, 10**6))
def test_whatever_the_logits_the_answer_validates(schema: dict[str, object], name: str, seed: int) -> None:
    text, reason = answer(Structure("json_schema", json.dumps(schema)), name, seed)
    assert reason == "stop"
    jsonschema.validate(json.loads(text), schema)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10**6), name=st.sampled_from(["bytes", "pairs"]))
def test_patterns_choices_and_grammars(seed: int, name: str) -> None:
    pattern = "[a-c]{2,4}|№[0-9]+é"
    assert re.fullmatch(pattern, answer(Structure("regex", pattern), name, seed)[0])
    choices = ['say "hi"\n', "ключ", "\\d", "ключи", "\x01"]
    assert answer(Structure("choice", json.dumps(choices)), name, seed) in [(choice, "stop") for choice in choices]
    for grammar in ('start: "<" /[a-z]/ ">" start | "!"', 'root ::= "<" [a-z] ">" root | "!"'):
        assert re.fullmatch("(<[a-z]>)*!", answer(Structure("grammar", grammar), name, seed)[0])


def test_an_object_is_an_object() -> None:
    for seed in range(20):
        text, reason = answer(ANY_OBJECT, "bytes", seed)
        if reason == "stop":
            assert isinstance(json.loads(text), dict)
        assert text.startswith("{")


def test_what_max_tokens_cuts_is_a_beginning() -> None:
    structure = Structure("json_schema", json.dumps(PERSON))
    for seed in range(10):
        whole, _ = answer(structure, "pairs", seed)
        text, reason = answer(structure, "pairs", seed, max_tokens=7)
        assert reason == "length"
        assert whole.startswith(text)


def test_a_stop_string_ends_it_and_ignore_eos_does_not_lengthen_it() -> None:
    assert answer(Structure("choice", '["one, two"]'), "pairs", 0, stop=(",",)) == ("one", "stop")
    assert answer(Structure("choice", '["one, two"]'), "pairs", 0, ignore_eos=True) == ("one, two", "stop")
    assert set(answer(Structure("regex", "a*"), "bytes", 0, ignore_eos=True)[0]) <= {"a"}


def test_text_held_back_for_a_stop_string_is_shown_at_the_end() -> None:
    assert answer(Structure("choice", '["a stop"]'), "bytes", 0, stop=("stopping",)) == ("a stop", "stop")


def test_an_end_is_allowed_only_where_the_answer_is_whole() -> None:
    matcher = compiled(Structure("regex", "ab?")).matcher()
    ends = list(ByteTokenizer.eos_token_ids)
    assert np.flatnonzero(matcher.allowed()).tolist() == [ord("a")]
    assert not matcher.advance(ord("a"))
    assert np.flatnonzero(matcher.allowed()).tolist() == [ord("b"), *ends]
    assert matcher.advance(ord("b"))


def test_between_tokens_of_json_stands_one_space_at_most() -> None:
    """A model that likes white space would spend its tokens on it."""
    matcher = compiled(ANY_OBJECT).matcher()
    matcher.advance(ord("{"))
    first = matcher.allowed()
    assert (first[ord(" ")], first[ord("\n")], first[ord("}")]) == (True, False, True)
    matcher.advance(ord(" "))
    second = matcher.allowed()
    assert (second[ord(" ")], second[ord("\n")], second[ord("}")]) == (False, False, True)


def test_answers_of_one_grammar_do_not_share_their_place() -> None:
    grammar = compiled(Structure("choice", '["ab"]'))
    first, second = grammar.matcher(), grammar.matcher()
    first.advance(ord("a"))
    assert np.flatnonzero(first.allowed()).tolist() == [ord("b")]
    assert np.flatnonzero(second.allowed()).tolist() == [ord("a")]


def test_a_property_may_be_called_as_a_keyword_is() -> None:
    schema = {"type": "object", "properties": {"multipleOf": {"const": 1}}, "required": ["multipleOf"]}
    matcher = compiled(Structure("json_schema", json.dumps(schema | {"additionalProperties": False}))).matcher()
    assert [matcher.advance(token) for token in b'{"multipleOf":1}'][-1]


def test_one_structure_is_compiled_once() -> None:
    assert compiled(ANY_OBJECT) is compiled(ANY_OBJECT)


BAD = {
    "not JSON": ("json_schema", "{"),
    "no schema": ("json_schema", "[]"),
    "unknown type": ("json_schema", '{"type": "strin"}'),
    "not enforced": ("json_schema", '{"type": "array", "uniqueItems": true}'),
    "remote": ("json_schema", '{"$ref": "http://127.0.0.1:9/x"}'),
    "endless": ("json_schema", '{"$ref": "#"}'),
    "contradiction": ("json_schema", '{"type": "integer", "minimum": 5, "maximum": 1}'),
    "large multiple": ("json_schema", '{"type": "integer", "multipleOf": 1000003}'),
    "many multiples": ("json_schema", '{"allOf": [{"multipleOf": 97}, {"multipleOf": 89}]}'),
    "odd multiple": ("json_schema", '{"items": [{"multipleOf": 0.1}]}'),
    "many fields": ("json_schema", json.dumps({"type": "object", "properties": {f"p{i}": {} for i in range(1001)}})),
    "deep": ("json_schema", '{"items":' * 500 + "{}" + "}" * 500),
    "very deep": ("json_schema", '{"items":' * 6000 + "{}" + "}" * 6000),
    "too long": ("json_schema", json.dumps({"enum": ["x" * LONGEST]})),
    "unclosed": ("regex", "("),
    "look-ahead": ("regex", "(?=a)b"),
    "no start": ("grammar", 'a: "b"'),
    "no rule": ("grammar", "start: x"),
    "no grammar": ("grammar", ""),
    "neither": ("grammar", "cmpl"),
    "nested schema": ("grammar", 'start: %json {"multipleOf": 1000003}'),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_structures_are_refused(case: str) -> None:
    kind, source = BAD[case]
    start = time.process_time()
    with pytest.raises(BadStructure) as caught:
        compiled(Structure(kind, source))  # type: ignore[arg-type]
    assert 0 < len(str(caught.value)) <= 300
    assert "\n" not in str(caught.value)
    assert time.process_time() - start < 10  # bounded: the worst of these would take minutes


def test_a_bad_regex_is_told_with_its_cause() -> None:
    with pytest.raises(BadStructure, match=r"regex parse error: unclosed character class$"):
        compiled(Structure("regex", "(["))


def test_a_structure_that_proves_too_complex_on_the_way_says_so() -> None:
    many_fields = json.dumps({"type": "object", "properties": {f"p{i}": {} for i in range(900)}})
    with pytest.raises(BadStructure, match="max is 2000"):
        answer(Structure("json_schema", many_fields), "bytes", 0)
