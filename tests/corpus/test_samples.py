"""Properties of the samples: no leakage between the sides, answers verbatim in the passage, kinds in equal parts."""

import json
import re
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tradewind.corpus.build import write_corpus
from tradewind.corpus.families import assign_families, split_of
from tradewind.corpus.passages import first_sentence
from tradewind.corpus.phrasings import HELD_OUT, TRAIN
from tradewind.corpus.prompt import REFUSAL, SYSTEM, user_message
from tradewind.corpus.questions import KINDS
from tradewind.corpus.records import Parameter, Record, Sections
from tradewind.corpus.samples import MIN_SECTIONS, SampleConfig, make_samples

from .synthetic import record, records

CONFIG = SampleConfig(200, 4, 3, 5, 0.1, 0.3, 0)


@pytest.fixture(scope="module")
def made() -> tuple[list[Record], dict[str, list[dict]]]:
    found = records()
    assign_families(found)
    return found, make_samples(found, CONFIG)


def every(samples):
    return [row for rows in samples.values() for row in rows]


def answered(row):
    """(question message, answer) of every turn."""
    turns = row["messages"][1:]
    return [(ask["content"], reply["content"]) for ask, reply in zip(turns[::2], turns[1::2], strict=True)]


def test_every_kind_in_equal_parts(made):
    _, samples = made
    assert Counter(row["kind"] for row in samples["test"]) == dict.fromkeys(KINDS, 5)
    assert Counter(row["kind"] for row in samples["validation"]) == dict.fromkeys(KINDS, 3)


def test_training_asks_every_kind(made):
    _, samples = made
    asked = Counter(kind for row in samples["train"] for kind in row["kinds"])
    assert set(asked) == {*KINDS, "earlier"}
    common = [asked[kind] for kind in KINDS if kind not in ("which", "raises")]
    assert max(common) - min(common) <= 0.1 * max(common)


def runs_of_four(wording):
    words = re.findall(r"[a-z'-]+|\{.\}", wording.lower())
    return {tuple(words[at : at + 4]) for at in range(len(words) - 3)}


@pytest.mark.parametrize("group", HELD_OUT)
def test_no_training_wording_is_near_a_held_out_one(group):
    assert not set(TRAIN[group]) & set(HELD_OUT[group])
    held_out = set().union(*map(runs_of_four, HELD_OUT[group]))
    assert not [wording for wording in TRAIN[group] if runs_of_four(wording) & held_out]


@pytest.mark.parametrize("group", TRAIN)
def test_wordings_of_a_group_have_the_same_fields_and_occur_once(group):
    wordings = [*TRAIN[group], *HELD_OUT.get(group, ())]
    assert len({frozenset(re.findall(r"\{.\}", wording)) for wording in wordings}) == 1
    assert len(set(wordings)) == len(wordings)


def test_no_symbol_alias_or_family_on_two_sides(made):
    found, samples = made
    by_id = {r.id: r for r in found}
    sides: dict[str, set[str]] = {}
    for split, rows in samples.items():
        shown = {line.partition("(")[0] for row in rows for line in row["passage"].split("\n")} & set(by_id)
        gold = {symbol for row in rows for symbol in row["symbols"]}
        assert gold <= shown
        sides[split] = {name for symbol in shown for name in (*by_id[symbol].symbols, "family " + by_id[symbol].family)}
    assert not sides["train"] & sides["test"]
    assert not sides["train"] & sides["validation"]
    assert not sides["validation"] & sides["test"]


def test_no_passage_on_two_sides(made):
    _, samples = made
    passages = {split: {row["passage"] for row in rows} for split, rows in samples.items()}
    assert not passages["train"] & passages["test"]
    assert not passages["train"] & passages["validation"]


def test_answers_stand_in_the_passage(made):
    for row in every(made[1]):
        for _, answer in answered(row):
            assert answer == REFUSAL or answer in row["passage"]


def test_answerable_means_not_refused(made):
    for row in every(made[1]):
        assert row["answerable"] == (row["answer"] != REFUSAL) == (row["kind"] != "unanswerable")


def test_messages_are_the_sample(made):
    for row in every(made[1]):
        turns = answered(row)
        assert row["messages"][0] == {"role": "system", "content": SYSTEM}
        assert turns[0][0].startswith(row["passage"] + "\n\n")
        assert not any(row["passage"] in question for question, _ in turns[1:])
        assert turns[-1][1] == row["answer"]
        assert turns[-1][0].endswith(row["question"])
        assert len(turns) == len(row["kinds"])


def test_exam_samples_have_one_gold_answer(made):
    for split in ("test", "validation"):
        for row in made[1][split]:
            assert len(answered(row)) == (2 if row["kind"] == "multi_turn" else 1)
            assert len(row["symbols"]) == 1


def test_exam_passages_have_enough_sections(made):
    headings = ("Parameters:", "Returns:", "Raises:", "Example:")
    for row in made[1]["test"]:
        blocks = row["passage"].split("\n\n")
        sections = 1 + sum(line in headings for line in row["passage"].split("\n"))
        detail = blocks[0].split("\n")[2:3]
        sections += bool(detail and detail[0] not in headings)
        assert sections >= MIN_SECTIONS or (row["kind"] in ("which", "unanswerable") and len(blocks) >= 3)


def test_no_question_twice_in_one_conversation(made):
    for row in made[1]["train"]:
        questions = [question for question, _ in answered(row)]
        assert len(questions) == len(set(questions))


def test_strangers_are_not_in_the_passage(made):
    """A refused parameter question must not be answerable: its parameter's text stands nowhere in the passage."""
    parameters = {f"extra_{i}" for i in range(40)}
    for row in every(made[1]):
        for question, answer in answered(row):
            words = set(question.rpartition("\n\n")[2].replace("?", " ").replace(",", " ").split())
            if answer == REFUSAL and words & parameters:
                assert f"- {(words & parameters).pop()} (" not in row["passage"]


def test_two_builds_are_byte_identical(tmp_path):
    for name in ("one", "two"):
        write_corpus(records(200), CONFIG, tmp_path / name)
    for path in sorted((tmp_path / "one").iterdir()):
        assert path.read_bytes() == (tmp_path / "two" / path.name).read_bytes()
    summary = json.loads((tmp_path / "one" / "summary.json").read_text())
    assert summary["objects"] == 200
    assert set(summary["packages"]) == {"alpha", "beta", "gamma"}


def test_first_sentence_is_the_summary(made):
    row = next(row for row in made[1]["test"] if row["kind"] == "summary")
    assert first_sentence(row["passage"]) == row["answer"]


def test_user_message_without_passage_is_the_question():
    assert user_message("", "Why?") == "Why?"
    assert user_message("Text.", "Why?") == "Text.\n\nWhy?"


def test_near_duplicates_are_one_family():
    text = "Compute the singular value decomposition of a matrix or of a stack of matrices in double precision."
    same = Sections(summary=text, parameters=[Parameter("a", "array", "", "The matrix to be decomposed.")])
    near = Sections(summary=text.replace("double", "single"), parameters=same.parameters)
    far = Sections(summary="Draw a line between two points.", parameters=[Parameter("b", "", "", "Where it ends.")])
    found = [record("numpy", "svd", same), record("other", "decompose", near), record("other", "line", far)]
    assign_families(found)
    assert found[0].family == found[1].family != found[2].family


@pytest.mark.parametrize("mirror", ["jax.numpy", "scipy", "jax.scipy"])
def test_mirrored_functions_are_one_family(mirror):
    found = [
        record("numpy", "linalg.svd", Sections("Decompose it.")),
        record(mirror, "linalg.svd", Sections("Factor.")),
    ]
    assign_families(found)
    assert found[0].family == found[1].family


@settings(max_examples=50, deadline=None)
@given(st.lists(st.text(min_size=1, max_size=12), unique=True, max_size=30))
def test_a_family_keeps_its_side(families):
    """The side depends on the family's name alone, and larger shares only move families out of train."""
    for family in families:
        assert split_of(family, 0.1, 0.2) == split_of(family, 0.1, 0.2)
        if split_of(family, 0.1, 0.2) == "test":
            assert split_of(family, 0.1, 0.3) == "test"
        assert split_of(family, 0.0, 0.0) == "train"
        assert split_of(family, 0.0, 1.0) == "test"
