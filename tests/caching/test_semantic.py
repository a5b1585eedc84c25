"""The semantic cache: nothing crosses tenants or contexts, nothing changes an answer, memory stays within its budget."""

import asyncio
import hashlib
import tracemalloc
from contextlib import contextmanager

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tradewind.caching.neighbours import Neighbours
from tradewind.caching.semantic import MAX_PENDING, MAX_QUESTION, Question, SemanticCache, context_of, headers
from tradewind.caching.shadow import THRESHOLDS, Shadow, agreement
from tradewind.intervals import wilson

SIZE = 16
TENANTS, CONTEXTS, WORDS = ("a", "b", "c"), (b"one", b"two"), ("sum", "axis", "sort", "0", "not")


class Bag:
    """A toy encoder: the sum of a random vector for each word, so that order does not count."""

    dimensions = SIZE

    def __init__(self) -> None:
        self.calls = 0

    def embed(self, texts):
        self.calls += 1
        rows = np.array([sum(map(_vector, text.lower().split()), np.full(SIZE, 1e-3)) for text in texts])
        return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def _vector(word: str) -> np.ndarray:
    seed = int.from_bytes(hashlib.sha256(word.encode()).digest()[:4])
    return np.random.default_rng(seed).normal(size=SIZE)


class Broken(Bag):
    def __init__(self) -> None:
        super().__init__()
        self.gives: object = RuntimeError("no memory")

    def embed(self, texts):
        if isinstance(self.gives, Exception):
            raise self.gives
        return super().embed(texts) if self.gives is None else self.gives


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


@contextmanager
def opened(encoder=None, budget: int = 1 << 20, **options):
    cache = SemanticCache(encoder or Bag(), budget, **options)
    try:
        yield cache
    finally:
        cache.close()


def asked(question: str, tenant: str = "a", context: bytes = b"one") -> Question:
    return Question(tenant, context, question)


def observe(cache: SemanticCache, *turns: tuple[Question, str]) -> list:
    async def all_of_them() -> list:
        return [await cache.observe(question, answer, len(answer)) for question, answer in turns]

    return asyncio.run(all_of_them())


def messages(text: str, system: str = "Be brief.") -> list[dict[str, str]]:
    return [{"role": "system", "content": system}, {"role": "user", "content": text}]


@settings(max_examples=40, deadline=None)
@given(
    st.lists(
        st.tuples(st.sampled_from(TENANTS), st.sampled_from(CONTEXTS), st.lists(st.sampled_from(WORDS), min_size=1)),
        max_size=30,
    )
)
def test_what_is_found_is_of_the_same_tenant_and_context_and_is_the_nearest(turns):
    """Against a plain search of one's own past; every answer names its owner."""
    own: dict[tuple[str, bytes], dict[str, np.ndarray]] = {}
    bag = Bag()
    with opened() as cache:
        for tenant, context, words in turns:
            question = " ".join(words)[:MAX_QUESTION]
            (seen,) = observe(cache, (asked(question, tenant, context), f"{tenant}/{context.decode()}/{question}"))
            past = own.setdefault((tenant, context), {})
            (vector,) = bag.embed([question])
            near = seen.lookup.nearest
            if not past:
                assert near is None
            else:
                assert near.answer == f"{tenant}/{context.decode()}/{near.question}"
                assert near.question in past
                assert near.similarity == pytest.approx(max(float(v @ vector) for v in past.values()), abs=1e-5)
            assert seen.lookup.repeated == (question in past)
            past[question] = vector
        assert len(cache.past) == sum(map(len, own.values()))


def test_one_tenants_key_does_not_open_another_tenants_past_even_where_the_context_is_the_same():
    with opened(tenants=("b",)) as cache:
        observe(cache, (asked("sum axis", "a", b"same"), "a secret"))
        lookup = asyncio.run(cache.look_up(asked("sum axis", "b", b"same")))
    assert lookup.nearest is None and not lookup.repeated and cache.served(lookup) is None


@pytest.mark.parametrize("change", ["tenant", "model", "system", "passage", "sampling", "more fields"])
def test_everything_beside_the_question_is_part_of_the_context(change):
    given_ = {"tenant": "a", "model": "m", "system": "s", "passage": "p", "temperature": 0.0}
    other = given_ | {"temperature": 0.1} if change == "sampling" else given_ | {change: "other"}

    def context(what) -> bytes:
        sampling = {"temperature": what["temperature"]} | ({"seed": 1} if "more fields" in what else {})
        return context_of(
            what["tenant"], what["model"], messages(f"{what['passage']}\n\nWhy?", what["system"]), sampling
        ).context

    assert context(given_) == context(dict(given_)) != context(other)


def test_a_context_cannot_be_forged_by_moving_text_between_its_parts():
    one = context_of("a", "m", messages("x\n\nWhy?", system="s"), {})
    other = context_of("a", "m", messages("Why?", system="s\n\nx"), {})
    assert one.text == other.text == "Why?" and one.context != other.context


@pytest.mark.parametrize(
    "talk",
    [
        [],
        [{"role": "system", "content": "s"}],
        [*messages("a?"), {"role": "assistant", "content": "b"}],
        [*messages("a?"), {"role": "assistant", "content": "b"}, {"role": "user", "content": "c?"}],
        [{"role": "user", "content": "a?"}, {"role": "user", "content": "c?"}],
        messages("x" * (MAX_QUESTION + 1)),
        messages("passage\n\n "),
    ],
)
def test_conversations_long_questions_and_empty_ones_take_no_part(talk):
    assert context_of("a", "m", talk, {}) is None


def test_in_shadow_nobody_is_served_whatever_is_known():
    with opened(threshold=0.01, strict=False) as cache:
        observe(cache, (asked("sum axis"), "4"))
        for question in ("sum axis", "axis sum"):
            lookup = asyncio.run(cache.look_up(asked(question)))
            assert lookup.nearest.similarity > 0.99 and cache.served(lookup) is None


def test_a_tenant_that_opted_in_is_served_what_is_near_young_and_not_refused():
    clock = Clock()
    with opened(tenants=("a",), threshold=0.99, max_age_s=60, clock=clock) as cache:
        observe(cache, (asked("sum axis"), "4"), (asked("sum axis", "b"), "5"))
        clock.now += 59.0

        def serve(question: str, tenant: str = "a", max_age: int | None = None):
            return cache.served(asyncio.run(cache.look_up(asked(question, tenant))), max_age)

        found = serve("Sum axis")
        assert found.answer == "4" and found.tokens == 1 and found.age_s == 59.0
        assert serve("Sum axis", max_age=59) == found, "as old as the caller takes it"
        assert serve("Sum axis", max_age=58) is None, "older than the caller takes it"
        assert serve("Sum axis", max_age=1000) == found
        assert headers(found) == {"X-Cache": "semantic", "X-Cache-Similarity": "1.0000", "Age": "59"}
        assert serve("Sum axis", "b") is None, "did not opt in"
        assert serve("sort") is None, "not near"
        assert serve("axis sum") is None, "another order"
        cache.threshold = 0.1
        assert serve("sum axis 0") is None, "a number more"
        clock.now += 1.0
        assert serve("Sum axis") is None, "too old"
        assert serve("Sum axis", max_age=1000) is None, "the caller cannot ask for older ones than the cache gives"
        clock.now -= 1000.0
        assert serve("Sum axis").age_s == 0.0


def test_counts_by_similarity_say_what_each_threshold_would_have_done():
    shadow = Shadow()
    shadow.add(0.96, False, agreement("None", "none."))
    shadow.add(0.96, False, agreement("None", "True"))
    shadow.add(0.999, True, agreement("0", "1"))
    shadow.add(0.5, False, agreement("0", "0"))
    shadow.empty += 1
    rows = {(row["threshold"], row["guard"]): row for row in shadow.rows()}
    assert (rows[0.96, True]["hits"], rows[0.96, True]["wrong"], rows[0.96, True]["lookups"]) == (2, 1, 5)
    assert (rows[0.96, False]["hits"], rows[0.96, False]["wrong"]) == (3, 2)
    assert (rows[0.97, True]["hits"], rows[0.97, False]["wrong"]) == (0, 1)
    assert (rows[0.999, False]["hits"], rows[0.7, False]["hits"]) == (1, 3)
    assert rows[0.96, True]["wrong_interval"] == list(wilson(1, 2))
    assert [row["threshold"] for row in shadow.rows()][::2] == list(THRESHOLDS)


def test_the_shadow_scores_the_past_answer_against_the_generated_one_and_a_repetition_not_at_all():
    with opened(strict=False) as cache:
        first, second, third, fourth = observe(
            cache, (asked("copy axis"), "four"), (asked("axis copy"), "Four."), (asked("axis copy"), "four"),
            (asked("copy copy axis axis"), "five"),
        )  # fmt: skip
        assert first.agreed is None and second.agreed.same and third.agreed is None and not fourth.agreed.close
        assert fourth.lookup.nearest.similarity > 0.99
        assert (cache.shadow.empty, cache.shadow.repeated, cache.shadow.lookups) == (1, 1, 3)
        row = next(row for row in cache.shadow.rows() if row["threshold"] == 0.99 and row["guard"])
        assert (row["hits"], row["wrong"]) == (2, 1)


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from(TENANTS), st.integers(0, 60), st.integers(0, 400)), max_size=120),
    st.integers(0, 30_000),
)
def test_memory_stays_within_the_budget_and_is_counted_right(adds, budget):
    past = Neighbours(budget, SIZE)
    for tenant, number, length in adds:
        past.add(tenant, _unit(number), str(number), "x" * length, length, 0.0)
        assert past.nbytes <= budget
        known = past.same(tenant, str(number))
        if known is not None:
            found, similarity = past.nearest(tenant, _unit(number))
            assert found is known and similarity == pytest.approx(1)
    while past._used:
        past.remove(next(iter(past._used)))
    assert past.nbytes == 0 and not past._groups


def _unit(number: int) -> np.ndarray:
    vector = np.random.default_rng(number).normal(size=SIZE)
    return (vector / np.linalg.norm(vector)).astype(np.float32)


@pytest.mark.parametrize("groups", [1, 5_000])
def test_the_bytes_counted_are_at_least_those_taken(groups):
    vectors = np.random.default_rng(0).normal(size=(1_500, 384)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    tracemalloc.start()
    try:
        past = Neighbours(1 << 20, 384)
        for number, vector in enumerate(vectors):
            past.add(
                ("tenant", str(number % groups)),
                vector,
                f"question {number}",
                f"answer {number} " * 5,
                1000 + number,
                0.0,
            )
        taken = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    assert past.evicted > 0 and len(past) > 100
    assert taken <= past.nbytes <= 1 << 20


def test_the_least_recently_used_goes_first():
    past = Neighbours(6_000, SIZE)
    for number in range(3):
        past.add("a", _unit(number), str(number), "", 0, 0.0)
    past.touch(past.same("a", "0"))
    number = 3
    while not past.evicted:
        past.add("a", _unit(number), str(number), "", 0, 0.0)
        number += 1
    assert past.same("a", "0") and past.same("a", "1") is None


@pytest.mark.parametrize("gives", [RuntimeError("no memory"), np.full((1, SIZE), np.nan, np.float32),
                                   np.zeros((1, SIZE), np.float32), np.ones((1, 3), np.float32)])  # fmt: skip
def test_a_failing_encoder_is_counted_and_logged_once(gives, caplog):
    encoder = Broken()
    encoder.gives = gives
    with opened(encoder) as cache:
        assert observe(cache, (asked("a"), "1"), (asked("b"), "2")) == [None, None]
        assert (cache.failed, len(cache.past), len(caplog.records)) == (2, 0, 1)
        encoder.gives = None
        assert observe(cache, (asked("a"), "1"))[0].agreed is None
        assert len(caplog.records) == 2 and "back" in caplog.text


def test_what_the_encoder_cannot_keep_up_with_is_left_out():
    with opened() as cache:

        async def crowd() -> list:
            return await asyncio.gather(*(cache.observe(asked(f"q {n}"), "x", 1) for n in range(MAX_PENDING + 5)))

        found = asyncio.run(crowd())
    assert (sum(one is None for one in found), cache.skipped, len(cache.past)) == (5, 5, MAX_PENDING)


def test_wilson_is_the_published_interval():
    """Brown, Cai and DasGupta (2001): 0 of n has the upper bound z^2 / (n + z^2)."""
    assert wilson(0, 100) == pytest.approx((0, 1.96**2 / (100 + 1.96**2)), abs=1e-4)
    assert wilson(100, 100)[1] == 1 and wilson(0, 0) == (0, 1)
    assert wilson(15, 50) == pytest.approx((0.1910, 0.4375), abs=2e-4)
