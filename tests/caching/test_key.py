from dataclasses import fields, replace

from hypothesis import given
from hypothesis import strategies as st

from tradewind.caching.key import UNKEYED, key_of, reproducible
from tradewind.engine.grammar import Grammars, Structure
from tradewind.engine.requests import Request
from tradewind.engine.sampling import SamplingParams
from tradewind.engine.text import ByteTokenizer

PLAIN = Request((1, 2, 3), 8, SamplingParams(temperature=0))
OTHERS = {
    "prompt": (1, 2, 4),
    "max_tokens": 9,
    "sampling": SamplingParams(temperature=0, logprobs=0),
    "n": 2,
    "stop": ("x",),
    "ignore_eos": True,
    "adapter": "a",
    "grammar": Grammars(ByteTokenizer()).compile(Structure("regex", "a+")),
    "tenant": "t",
    "priority": 1,
    "deadline": 1.0,
    "cache_salt": "s",
    "prompt_logprobs": 0,
    "resumed": (1,),
    "first_index": 1,
    "admitted": True,
}


def test_every_field_that_changes_an_answer_changes_the_key() -> None:
    assert set(OTHERS) == {one.name for one in fields(Request)}
    keys = {name: key_of(replace(PLAIN, **{name: value}), "id") for name, value in OTHERS.items()}
    same = {name for name, key in keys.items() if key == key_of(PLAIN, "id")}
    assert same == set(UNKEYED)
    split = [key for name, key in keys.items() if name not in same]
    assert len(set(split)) == len(split)


def test_the_key_is_of_the_model() -> None:
    assert key_of(PLAIN, "one") != key_of(PLAIN, "other")


def test_structures_of_one_kind_and_source_are_one_key() -> None:
    def asked(source: str) -> bytes:
        grammar = Grammars(ByteTokenizer()).compile(Structure("regex", source))
        return key_of(replace(PLAIN, grammar=grammar), "id")

    assert asked("a+") == asked("a+") != asked("b+")


@given(seed=st.none() | st.integers(0, 2**64 - 1), top_p=st.floats(0, 1), top_k=st.integers(0, 99))
def test_greedy_answers_do_not_depend_on_what_only_draws_look_at(seed: int | None, top_p: float, top_k: int) -> None:
    asked = replace(PLAIN, sampling=SamplingParams(temperature=0, seed=seed, top_p=top_p, top_k=top_k))
    assert key_of(asked, "id") == key_of(PLAIN, "id")
    assert reproducible(asked)


def test_sampled_answers_depend_on_all_of_it() -> None:
    def drawn(**given: float) -> Request:
        return replace(PLAIN, sampling=SamplingParams(temperature=0.5, **given))  # type: ignore[arg-type]

    keys = [key_of(drawn(**one), "id") for one in ({}, {"seed": 1}, {"seed": 2}, {"seed": 1, "top_p": 0.5})]
    assert len(set(keys)) == 4
    assert reproducible(drawn(seed=1))
    assert not reproducible(drawn())
