"""Passages: bounded, with what is asked for kept in."""

from hypothesis import given, settings
from hypothesis import strategies as st

from tradewind.corpus.code_tasks import code_tasks
from tradewind.corpus.families import assign_families
from tradewind.corpus.passages import MAX_PASSAGE, MAX_SIGNATURE, argument_name, short_signature, show, split_arguments
from tradewind.corpus.records import Example, Sections

from .synthetic import record, records


def test_arguments_of_a_signature():
    signature = "(a, /, b=(1, 2), *, c='x, (y', d={'k': [1, 2]}, **rest)"
    assert split_arguments(signature) == ["a", "/", "b=(1, 2)", "*", "c='x, (y'", "d={'k': [1, 2]}", "**rest"]
    assert [argument_name(a) for a in split_arguments(signature)] == ["a", "/", "b", "", "c", "d", "rest"]


@settings(max_examples=50, deadline=None)
@given(st.lists(st.from_regex(r"[a-z]{1,9}", fullmatch=True), unique=True, max_size=60), st.data())
def test_kept_arguments_survive_shortening(names, data):
    keep = set(data.draw(st.lists(st.sampled_from(names), max_size=4))) if names else set()
    short = short_signature(f"({', '.join(f'{name}=None' for name in names)})", keep)
    assert keep <= {argument_name(a) for a in split_arguments(short)}
    assert len(short) <= MAX_SIGNATURE + 10 * len(names[:1]) + 40


def test_passages_are_bounded_and_start_with_the_symbol():
    for r in records(100):
        shown = show(r)
        assert shown.text.startswith(r.id + "(")
        assert len(shown.text) <= MAX_PASSAGE + 100
        for item in shown.parameters:
            assert f"- {item.name}" in shown.text


def test_code_tasks_define_what_they_use():
    sections = Sections(
        summary="Add one to a number.",
        examples=[
            Example("x = 1"),
            Example("bump(x)", "2"),
            Example("bump(missing)", "3"),
            Example("bump(x)", "<obj at 0x1>"),
        ],
    )
    found = [record("pack", "bump", sections)]
    assign_families(found)
    tasks = list(code_tasks(found, {found[0].family: "train"}))
    assert [(t["solution"], t["expected"], t["context"]) for t in tasks] == [
        ("bump(x)", "2", "import pack\nfrom pack import bump\nx = 1")
    ]
