"""The embedding cache against an encoder that counts what it computes."""

import threading
from collections import Counter
from collections.abc import Iterator, Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tradewind.caching.embedding import EmbeddingCache
from tradewind.caching.memory import LocalStore
from tradewind.encoder.contract import Encoder, TextTooLong, Tokens, Vectors
from tradewind.encoder.text import EncoderTokenizer

DIMENSIONS, LARGE = 8, 1 << 20


class Counting(Encoder):
    """A vector is a function of the tokens. computed: texts -> how often."""

    runtime = "counting"

    def __init__(self, weights: str = "weights") -> None:
        super().__init__("counting", EncoderTokenizer.of_characters(), weights, DIMENSIONS, 32)
        self.computed: Counter[tuple[int, ...]] = Counter()

    def batches(self, lengths: Sequence[int]) -> Iterator[list[int]]:
        for start in range(0, len(lengths), 3):
            yield list(range(start, min(start + 3, len(lengths))))

    def run(self, texts: Sequence[Tokens]) -> Vectors:
        self.computed.update(map(tuple, texts))
        return np.stack([self.vector(tokens) for tokens in texts])

    @staticmethod
    def vector(tokens: Tokens) -> Vectors:
        made = np.random.default_rng(list(tokens)).standard_normal(DIMENSIONS).astype(np.float32)
        return made / np.linalg.norm(made)

    def expected(self, texts: Sequence[str]) -> Vectors:
        return np.stack([self.vector(tokens) for tokens in self.tokenizer.encode(texts)])


texts = st.lists(st.text(alphabet="abAB é", max_size=4), min_size=1, max_size=8)
tenants = st.sampled_from(["", "one", "two"])


@settings(max_examples=60, deadline=None, derandomize=True)
@given(calls=st.lists(st.tuples(texts, tenants), min_size=1, max_size=6), budget=st.sampled_from([0, 3000, LARGE]))
def test_found_or_computed_it_is_the_encoders_vector(calls: list[tuple[list[str], str]], budget: int) -> None:
    """Whatever the store keeps, to the last bit; with room for all, each text is computed once for each tenant."""
    encoder = Counting()
    cache = EmbeddingCache(encoder, LocalStore(budget))
    for batch, tenant in calls:
        np.testing.assert_array_equal(cache.embed(batch, tenant), encoder.expected(batch))
    asked = {(tuple(tokens), tenant) for batch, tenant in calls for tokens in encoder.tokenizer.encode(batch)}
    if budget == LARGE:
        assert encoder.computed == Counter(tokens for tokens, _ in asked)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(before=texts, batch=texts)
def test_a_call_computes_what_is_new_and_says_so(before: list[str], batch: list[str]) -> None:
    encoder = Counting()
    cache = EmbeddingCache(encoder, LocalStore(LARGE))
    cache.embed(before)
    known, asked = (list(map(tuple, encoder.tokenizer.encode(one))) for one in (before, batch))
    encoder.computed.clear()
    job = cache.job(asked)
    assert job.hits == sum(tokens in known for tokens in asked)
    while job.waiting:
        job.step()
    assert encoder.computed == Counter(set(asked) - set(known))


def test_duplicates_of_a_call_are_computed_once_even_where_nothing_is_kept() -> None:
    encoder = Counting()
    EmbeddingCache(encoder, LocalStore(0)).embed(["a", "b", "a", "A ", "b"])
    assert sorted(encoder.computed.values()) == [1, 1]  # "A " is "a" to a tokenizer of lower case


def test_tenants_never_find_each_others() -> None:
    encoder = Counting()
    cache = EmbeddingCache(encoder, LocalStore(LARGE))
    cache.embed(["secret"], "one")
    assert cache.job(encoder.tokenizer.encode(["secret"]), "two").hits == 0
    assert cache.job(encoder.tokenizer.encode(["secret"]), "one").hits == 1


def test_another_encoder_finds_nothing() -> None:
    store, old, new = LocalStore(LARGE), Counting("old"), Counting("new")
    EmbeddingCache(old, store).embed(["a"])
    EmbeddingCache(new, store).embed(["a"])
    assert new.computed.total() == 1


def test_keys_keep_tenant_and_tokens_apart() -> None:
    cache = EmbeddingCache(Counting(), LocalStore(0))
    held = [((1, 2), ""), ((1,), ""), ((2, 1), ""), ((1, 2), "1"), ((258,), ""), ((1, 2), '"')]
    assert len({cache.key(tokens, tenant) for tokens, tenant in held}) == len(held)


def test_a_value_of_another_size_is_no_vector() -> None:
    encoder, store = Counting(), LocalStore(LARGE)
    cache = EmbeddingCache(encoder, store)
    (tokens,) = encoder.tokenizer.encode(["a"])
    store.put(cache.key(tokens, ""), b"short", 60)
    np.testing.assert_array_equal(cache.embed(["a"]), encoder.expected(["a"]))


def test_what_expired_is_computed_again() -> None:
    now = 0.0
    encoder = Counting()
    cache = EmbeddingCache(encoder, LocalStore(LARGE, clock=lambda: now), ttl_s=10)
    cache.embed(["a"])
    now = 9.0
    cache.embed(["a"])
    assert encoder.computed.total() == 1
    now = 11.0
    cache.embed(["a"])
    assert encoder.computed.total() == 2


def test_a_text_that_is_too_long_computes_nothing() -> None:
    encoder = Counting()
    with pytest.raises(TextTooLong, match="text 1"):
        EmbeddingCache(encoder, LocalStore(LARGE)).embed(["a", "b" * 40])
    assert not encoder.computed


def test_a_failure_keeps_nothing() -> None:
    encoder = Counting()
    cache = EmbeddingCache(encoder, LocalStore(LARGE))
    encoder.run = lambda texts: (_ for _ in ()).throw(RuntimeError("no"))  # type: ignore[method-assign]
    with pytest.raises(RuntimeError):
        cache.embed(["a"])
    assert not len(cache.store)  # type: ignore[arg-type]


def test_threads_get_their_own_vectors() -> None:
    encoder = Counting()
    cache, wrong = EmbeddingCache(encoder, LocalStore(20_000)), []
    words = [f"{a}{b}" for a in "abcdef" for b in "ghijkl"]

    def ask(seed: int) -> None:
        for round_ in range(30):
            batch = list(np.random.default_rng([seed, round_]).choice(words, 7))
            if not np.array_equal(cache.embed(batch), encoder.expected(batch)):
                wrong.append(batch)

    threads = [threading.Thread(target=ask, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
