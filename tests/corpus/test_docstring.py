"""Docstring styles and markup."""

import time

import pytest

from tradewind.corpus import docstring
from tradewind.corpus.markup import first_sentence_of, looks_broken, paragraphs, plain


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("See :func:`numpy.linalg.svd` and :class:`~a.b.C`.", "See numpy.linalg.svd and C."),
        ("A ``code`` and *word* and **bold** one [1]_ here.", "A code and word and bold one here."),
        ("The `guide <https://a.example/b>`_ says so.", "The guide says so."),
        ("Two\n   lines.", "Two lines."),
        ("Pass *args* and 2 * 3 * 4.", "Pass args and 2 * 3 * 4."),
        ("See :class:`_query.Query` for more.", "See Query for more."),
    ],
)
def test_markup_is_removed(text, wanted):
    assert plain(text) == wanted


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("One. Two.", "One."),
        ("Use e.g. this one. Then.", "Use e.g. this one."),
        ("Uses version 1.2 of it. Then.", "Uses version 1.2 of it."),
        ("No end", "No end"),
    ],
)
def test_first_sentence(text, wanted):
    assert first_sentence_of(text) == wanted


@pytest.mark.parametrize("text", ["", "%(name)s is it", "..", "a | b |", ">>> x", "* one * Two"])
def test_broken_texts_are_seen(text):
    assert looks_broken(text)


def test_directives_and_code_are_no_paragraphs():
    text = "First.\n\n.. note::\n   Hidden.\n\nSecond:\n\n>>> 1 + 1\n2\n\n```python\nx\n```\n\nThird."
    assert paragraphs(text) == ["First.", "Second:", "Third."]


def test_the_signature_line_of_a_compiled_function():
    text = "add(x1, x2, /, out=None[, dtype])\n\nAdd two things.\n"
    assert docstring.split_signature(text) == ("(x1, x2, /, out=None)", "Add two things.\n")
    assert docstring.split_signature("Adds (two) things.") == ("", "Adds (two) things.")


def test_examples_are_parsed_not_run():
    found = docstring.examples("Text.\n\n>>> x = open('/no/such/file')  # doctest: +SKIP\n>>> x.read()\n'a'\n")
    assert [(e.source, e.want) for e in found] == [("x = open('/no/such/file')", ""), ("x.read()", "'a'")]


def test_malformed_examples_give_none():
    assert docstring.examples(">>>x\n") == []


def test_free_text_in_a_returns_section_is_one_text():
    text = "Do it.\n\nReturns\n-------\nA list of all the cycles found\nin the graph, as lists.\n"
    returned = docstring.parse(text).returns
    assert [r.text for r in returned] == ["A list of all the cycles found in the graph, as lists."]


@pytest.mark.parametrize("unit", ["f(", ":a", "`", "*a ", "<a ", "[a", "|A", "$", "a.", "_a.", ":a:`", "\\", "- "])
def test_hostile_docstrings_take_no_time(unit):
    """No pattern backtracks out of hand: a long run of any opening mark is read in linear or mildly quadratic time."""
    text = unit * 4000
    started = time.process_time()
    docstring.parse(docstring.split_signature(text)[1])
    assert time.process_time() - started < 2
