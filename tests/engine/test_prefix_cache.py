"""The radix tree against a plain list, and what it may not do: find too much, keep too much, mix salts."""

import random

import pytest

from tradewind.engine.mock import MockEngine
from tradewind.engine.prefix_cache import LEAST, PrefixCache, _Node, worth_a_copy

ENGINE = MockEngine(slots=1, max_len=4096)
BYTES = 8
"""Of a token of the mock's."""


def keep(cache: PrefixCache, tokens: tuple[int, ...], salt: str = "") -> None:
    cache.insert(salt, tokens, ENGINE.prefill(tokens))


def found(cache: PrefixCache, prompt: tuple[int, ...], salt: str = "") -> int:
    """Tokens found; that they are the prompt's own is checked here."""
    prefix = cache.find(salt, prompt)
    if prefix is None:
        return 0
    assert tuple(prefix.kv[: prefix.length]) == prompt[: prefix.length]  # type: ignore[attr-defined]
    assert (prefix.logits, prefix.pending) == (None, ())
    return prefix.length


def row(*parts: tuple[int, int]) -> tuple[int, ...]:
    """(token, times) parts."""
    return tuple(token for token, times in parts for _ in range(times))


def leaves(node: _Node) -> list[_Node]:
    return [leaf for child in node.children.values() for leaf in leaves(child)] if node.children else [node]


def check_shape(cache: PrefixCache) -> None:
    """Prefixes at leaves only, inner nodes branch, edges begin as their keys say, bytes add up."""

    def visit(node: _Node, above: int) -> None:
        depth = above + len(node.tokens)
        assert (node.prefix is not None) == (not node.children)
        assert node.prefix is None or node.prefix.length == depth
        assert node.parent is None or len(node.children) != 1
        for first, child in node.children.items():
            assert (child.tokens[0], child.parent) == (first, node)
            visit(child, depth)

    for root in cache._roots.values():
        assert root.children
        visit(root, 0)
    kept = [leaf for root in cache._roots.values() for leaf in leaves(root)]
    assert set(kept) == set(cache._used) == set(cache._salts)
    assert cache.nbytes == sum(leaf.prefix.nbytes for leaf in kept if leaf.prefix) <= cache.budget


def test_a_shared_beginning_is_found_to_the_token() -> None:
    cache = PrefixCache(10**6)
    keep(cache, row((1, 30), (2, 10)))
    assert found(cache, row((1, 30), (3, 5))) == 30
    assert found(cache, row((1, 25), (3, 5))) == 25
    assert found(cache, row((1, 30), (2, 10), (3, 1))) == 40
    assert (cache.queries, cache.hits) == (35 + 30 + 41, 95)


def test_the_last_token_of_a_prompt_is_never_found() -> None:
    cache = PrefixCache(10**6)
    keep(cache, row((1, 40)))
    assert found(cache, row((1, 40))) == 39
    assert found(cache, row((1, 20))) == 19


def test_little_is_not_worth_it() -> None:
    cache = PrefixCache(10**6)
    keep(cache, row((1, LEAST - 1)))
    assert len(cache) == 0
    keep(cache, row((1, LEAST), (2, 9)))
    assert found(cache, row((1, LEAST - 1), (3, 9))) == 0
    assert found(cache, row((1, LEAST), (3, 9))) == LEAST


def test_no_budget_keeps_nothing() -> None:
    cache = PrefixCache(0)
    keep(cache, row((1, 40)))
    assert (found(cache, row((1, 40))), len(cache), cache.queries) == (0, 0, 0)


def test_salts_do_not_see_each_other() -> None:
    cache = PrefixCache(10**6)
    keep(cache, row((1, 40)), "one")
    assert found(cache, row((1, 50)), "other") == 0
    assert found(cache, row((1, 50)), "one") == 40


def test_the_least_recently_used_goes_first() -> None:
    cache = PrefixCache(100 * BYTES)
    first, second, third = (row((token, 40)) for token in (1, 2, 3))
    keep(cache, first)
    keep(cache, second)
    assert found(cache, (*first, 9)) == 40
    keep(cache, third)
    assert [found(cache, (*tokens, 9)) for tokens in (first, second, third)] == [40, 0, 40]
    keep(cache, row((4, 101)))
    assert found(cache, row((4, 101))) == 0
    check_shape(cache)


def test_a_longer_entry_takes_the_place_of_its_beginning() -> None:
    """So a chat's turns do not pile up, and a row that was continued in place is counted once."""
    cache = PrefixCache(10**6)
    tokens = row((1, 20), (2, 20), (3, 20))
    for length in (20, 40, 60):
        keep(cache, tokens[:length])
    assert (len(cache), cache.nbytes) == (1, 60 * BYTES)
    keep(cache, tokens[:30])
    assert (len(cache), cache.nbytes) == (1, 60 * BYTES)
    assert found(cache, (*tokens, 9)) == 60


def test_against_a_plain_list() -> None:
    """Random prompts over two tokens, so that they share and branch everywhere."""
    draw = random.Random(5)
    cache = PrefixCache(10**6)
    kept: list[tuple[int, ...]] = []
    for _ in range(400):
        begin = draw.choice(kept) if kept and draw.random() < 0.7 else ()
        prompt = (*begin[: draw.randrange(60)], *draw.choices((0, 1), k=draw.randrange(1, 40)))
        best = max((_common(prompt[:-1], one) for one in kept), default=0)
        assert found(cache, prompt) == (best if best >= LEAST else 0)
        if len(prompt) >= LEAST:
            keep(cache, prompt)
            kept.append(prompt)
        check_shape(cache)


def test_evictions_leave_a_sound_tree() -> None:
    draw = random.Random(7)
    cache = PrefixCache(300 * BYTES)
    kept: list[tuple[int, ...]] = []
    for _ in range(400):
        begin = draw.choice(kept) if kept and draw.random() < 0.7 else ()
        prompt = (*begin[: draw.randrange(60)], *draw.choices((0, 1), k=draw.randrange(1, 40)))
        found(cache, prompt, salt := draw.choice("ab"))
        keep(cache, prompt, salt)
        kept.append(prompt)
        check_shape(cache)
    cache.clear()
    assert (len(cache), cache.nbytes, found(cache, kept[-1], "a")) == (0, 0, 0)


def _common(one: tuple[int, ...], other: tuple[int, ...]) -> int:
    return next(
        (place for place, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other))
    )


@pytest.mark.parametrize(("sampled", "held", "worth"), [(15, 20, False), (16, 256, True), (16, 257, False)])
def test_when_an_answer_is_kept(sampled: int, held: int, worth: bool) -> None:
    assert worth_a_copy(sampled, held) == worth
