"""The contract, held against every engine: see the invariants in `tradewind.engine.contract`."""

from collections.abc import Sequence

import numpy as np
import pytest

from tradewind.engine.contract import (
    BadFeed,
    BadSlot,
    BadToken,
    Engine,
    Prefix,
    PromptTooLong,
    UnknownAdapter,
)
from tradewind.engine.lookup import feeds_agree

PROMPTS = ([5, 9, 2, 7, 1], [3], [11, 4, 8, 8, 8, 8, 2, 10, 6, 1, 0, 12], [1, 2, 3, 4, 5, 6, 7])
NEW = 8
CLOSE = 2e-3
"""Logits of one context computed in two shapes (a chunk, a batch) may differ by this much; tokens may not."""


def best(logits: np.ndarray) -> int:
    return int(logits.argmax())


def prefilled(engine: Engine, prompt: Sequence[int], budget: int | None = None) -> Prefix:
    prefix = engine.prefill(prompt, budget=budget)
    while prefix.pending:
        prefix = engine.prefill((), past=prefix, budget=budget)
    return prefix


def go_on(engine: Engine, slot: int, prefix: Prefix, count: int = NEW) -> list[int]:
    """Greedy tokens of a prefix in a slot that is alone in the step, the slot freed at the end."""
    assert prefix.logits is not None
    out = [best(prefix.logits)]
    engine.insert(prefix, slot)
    while len(out) < count:
        out.append(best(engine.step({slot: [out[-1]]})[slot][-1]))
    engine.release(slot)
    return out


def alone(engine: Engine, prompt: Sequence[int], count: int = NEW) -> list[int]:
    return go_on(engine, 0, prefilled(engine, prompt), count)


def test_says_what_it_is(engine: Engine) -> None:
    assert engine.name in ("mock", "ort", "jax")
    assert engine.slots == 4
    assert engine.max_len == 64
    assert engine.vocab_size > 16
    assert engine.weights_digest
    assert engine.kv_bytes > 0


def test_prefill_gives_the_last_logits(engine: Engine) -> None:
    prefix = engine.prefill(PROMPTS[0])
    assert (prefix.length, prefix.pending) == (5, ())
    assert prefix.logits is not None
    assert prefix.logits.shape == (engine.vocab_size,)
    assert prefix.logits.dtype == np.float32
    assert prefix.all_logits is None


def test_prefill_resumes_in_chunks(engine: Engine) -> None:
    prompt = PROMPTS[2]
    first = engine.prefill(prompt, budget=5)
    assert (first.length, first.pending, first.logits) == (5, tuple(prompt[5:]), None)
    second = engine.prefill([6, 2], past=first, budget=4)
    assert (second.length, second.pending) == (9, (*prompt[9:], 6, 2))
    last = engine.prefill((), past=second)
    whole = engine.prefill([*prompt, 6, 2])
    assert last.logits is not None
    assert whole.logits is not None
    np.testing.assert_allclose(last.logits, whole.logits, atol=CLOSE)


@pytest.mark.parametrize("budget", [1, 3, 7, 100])
def test_chunks_change_no_token(engine: Engine, budget: int) -> None:
    for prompt in PROMPTS:
        assert go_on(engine, 1, prefilled(engine, prompt, budget)) == alone(engine, prompt)


def test_kept_logits_are_those_of_every_token(engine: Engine) -> None:
    prompt = PROMPTS[0]
    start = engine.prefill(prompt[:2], keep_logits=True)
    rest = engine.prefill(prompt[2:], past=start, keep_logits=True)
    assert start.all_logits is not None
    assert rest.all_logits is not None
    assert start.all_logits.shape == (2, engine.vocab_size)
    assert rest.all_logits.shape == (3, engine.vocab_size)
    lines = np.concatenate([start.all_logits, rest.all_logits])
    for count, line in enumerate(lines, 1):
        np.testing.assert_allclose(line, engine.prefill(prompt[:count]).logits, atol=CLOSE)


def test_past_is_immutable(engine: Engine) -> None:
    past = engine.prefill(PROMPTS[0])
    assert past.logits is not None
    logits = past.logits.copy()
    want = [alone(engine, [*PROMPTS[0], *tail]) for tail in ([1, 2], [9, 9, 9])]
    one = engine.prefill([1, 2], past=past)
    other = engine.prefill([9, 9, 9], past=past)
    engine.insert(past, 2)
    engine.step({2: [7]})
    assert [go_on(engine, 0, one), go_on(engine, 3, other)] == want
    assert past.length == 5
    assert np.array_equal(past.logits, logits)
    assert go_on(engine, 0, past) == alone(engine, PROMPTS[0])


def test_an_unfinished_past_is_immutable_too(engine: Engine) -> None:
    past = engine.prefill(PROMPTS[2], budget=4)
    one = engine.prefill((), past=past, budget=3)
    other = engine.prefill([1], past=past)
    one = engine.prefill((), past=one)
    assert past.length == 4
    assert len(past.pending) == 8
    assert go_on(engine, 0, one) == alone(engine, PROMPTS[2])
    assert go_on(engine, 0, other) == alone(engine, [*PROMPTS[2], 1])


def test_a_cut_prefix_goes_on_as_its_tokens_do(engine: Engine) -> None:
    cut = engine.prefill(PROMPTS[2]).cut(4)
    assert (cut.length, cut.logits) == (4, None)
    assert go_on(engine, 0, engine.prefill([7, 7], past=cut)) == alone(engine, [*PROMPTS[2][:4], 7, 7])
    with pytest.raises(BadFeed):
        cut.cut(5)


def test_batched_equals_alone(engine: Engine) -> None:
    want = [alone(engine, prompt) for prompt in PROMPTS]
    out = {slot: [best(start_row(engine, slot, prompt))] for slot, prompt in enumerate(PROMPTS)}
    for _ in range(NEW - 1):
        for slot, lines in engine.step({slot: [made[-1]] for slot, made in out.items()}).items():
            out[slot].append(best(lines[-1]))
    assert list(out.values()) == want


def start_row(engine: Engine, slot: int, prompt: Sequence[int]) -> np.ndarray:
    prefix = prefilled(engine, prompt)
    engine.insert(prefix, slot)
    assert prefix.logits is not None
    return prefix.logits


def test_late_joiners_and_leavers_change_nothing(engine: Engine) -> None:
    """Rows join at steps 0, 2, 3 and 5, each leaves when done, and a row skips a step."""
    joins = {0: 3, 2: 0, 3: 2, 5: 1}
    want = [alone(engine, prompt) for prompt in PROMPTS]
    out: dict[int, list[int]] = {}
    running: set[int] = set()
    for step in range(20):
        if step in joins:
            slot = joins[step]
            out[slot] = [best(start_row(engine, slot, PROMPTS[slot]))]
            running.add(slot)
        feed = {slot: [out[slot][-1]] for slot in running if (step, slot) != (4, 3)}
        for slot, lines in (engine.step(feed) if feed else {}).items():
            out[slot].append(best(lines[-1]))
            if len(out[slot]) == NEW:
                engine.release(slot)
                running.discard(slot)
    assert [out[slot] for slot in range(4)] == want


def test_one_prefix_in_several_slots(engine: Engine) -> None:
    prefix = prefilled(engine, PROMPTS[0])
    for slot in (0, 2):
        engine.insert(prefix, slot)
    apart = engine.step({0: [1], 2: [2]})
    one, two = best(apart[0][-1]), best(apart[2][-1])
    engine.release(0)
    engine.release(2)
    assert [one, two] == [best_after(engine, [*PROMPTS[0], last]) for last in (1, 2)]


def best_after(engine: Engine, tokens: Sequence[int]) -> int:
    logits = prefilled(engine, tokens).logits
    assert logits is not None
    return best(logits)


def test_fork_branches_and_survives_its_row(engine: Engine) -> None:
    start_row(engine, 1, PROMPTS[0])
    engine.step({1: [6]})
    fork = engine.fork(1)
    assert (fork.length, fork.pending, fork.logits, engine.length(1)) == (6, (), None, 6)
    engine.step({1: [2]})
    engine.release(1)
    start_row(engine, 1, PROMPTS[2])
    assert go_on(engine, 0, engine.prefill([3], past=fork)) == alone(engine, [*PROMPTS[0], 6, 3])
    engine.insert(fork, 2)
    assert best(engine.step({2: [4]})[2][-1]) == best_after(engine, [*PROMPTS[0], 6, 4])


def test_rewound_tokens_are_forgotten(engine: Engine) -> None:
    start_row(engine, 1, PROMPTS[0])
    for token in (9, 9, 9):
        engine.step({1: [token]})
    engine.rewind(1, 6)
    assert engine.length(1) == 6
    assert best(engine.step({1: [2]})[1][-1]) == best_after(engine, [*PROMPTS[0], 9, 2])
    for length in (0, 8):
        with pytest.raises(BadFeed):
            engine.rewind(1, length)


def test_a_reused_slot_remembers_nothing(engine: Engine) -> None:
    want = alone(engine, PROMPTS[1])
    alone(engine, PROMPTS[2], 20)
    assert alone(engine, PROMPTS[1]) == want


def test_several_tokens_at_once(engine: Engine) -> None:
    """A row alone takes `max_feed` tokens and gives the logits after each of them."""
    start_row(engine, 2, PROMPTS[0])
    tokens = [7, 3, 5, 1][: engine.max_feed(2)]
    lines = engine.step({2: tokens})[2].copy()
    assert lines.shape == (len(tokens), engine.vocab_size)
    assert lines.dtype == np.float32
    assert [best(line) for line in lines] == [
        best_after(engine, [*PROMPTS[0], *tokens[: count + 1]]) for count in range(len(tokens))
    ]
    assert engine.length(2) == 5 + len(tokens)


def test_greedy_steps_are_those_of_step(engine: Engine) -> None:
    """Two rows, in slots that are not the first ones, each with the token that it would choose second banned."""
    want: dict[int, list[int]] = {}
    banned: dict[int, tuple[int, ...]] = {}
    feed: dict[int, int] = {}
    for slot, prompt in zip((1, 3), PROMPTS, strict=False):
        plain = alone(engine, prompt, 3)
        banned[slot] = (plain[1], engine.vocab_size - 1)
        engine.insert(prefix := prefilled(engine, prompt), slot)
        assert prefix.logits is not None
        feed[slot] = best(prefix.logits)
        want[slot] = []
        last = feed[slot]
        for _ in range(NEW):
            line = engine.step({slot: [last]})[slot][-1].copy()
            line[list(banned[slot])] = -np.inf
            want[slot].append(last := best(line))
        engine.rewind(slot, prefix.length)
    assert engine.greedy(feed, NEW, banned) == want
    for slot, prompt in zip((1, 3), PROMPTS, strict=False):
        assert engine.length(slot) == len(prompt) + NEW
        engine.rewind(slot, len(prompt) + 3)
    assert engine.greedy({slot: want[slot][2] for slot in want}, NEW - 3, banned) == {s: want[s][3:] for s in want}
    free(engine)


def test_greedy_mistakes_change_nothing(engine: Engine) -> None:
    engine.insert(prefilled(engine, PROMPTS[0]), 0)
    for steps in (0, engine.max_len - len(PROMPTS[0]) + 1):
        with pytest.raises(BadFeed, match="room for 1 to 59 steps"):
            engine.greedy({0: 1}, steps)
    with pytest.raises(BadSlot):
        engine.greedy({1: 1}, 1)
    with pytest.raises(BadToken):
        engine.greedy({0: engine.vocab_size}, 1)
    assert engine.length(0) == len(PROMPTS[0])
    assert len(engine.greedy({0: 1}, 59)[0]) == 59  # to the last position
    free(engine)


def free(engine: Engine) -> None:
    for slot in range(engine.slots):
        if engine.length(slot):
            engine.release(slot)


def test_exact_feeds_is_no_empty_word(engine: Engine) -> None:
    if engine.exact_feeds:
        assert feeds_agree(engine, 7)


def test_max_feed_holds_for_every_occupied_row_at_once(engine: Engine) -> None:
    for slot, prompt in enumerate(PROMPTS):
        start_row(engine, slot, prompt)
    feed = {slot: [slot + 1] * engine.max_feed(slot) for slot in range(4)}
    lines = engine.step(feed)
    made = {slot: best(lines[slot][-1]) for slot in feed}
    for slot in range(4):
        assert made[slot] == best_after(engine, [*PROMPTS[slot], *feed[slot]])


def test_a_row_fills_up_to_the_context_and_no_further(engine: Engine) -> None:
    start_row(engine, 0, [1] * (engine.max_len - 2))
    start_row(engine, 1, PROMPTS[0])
    for _ in range(2):
        assert engine.max_feed(0) >= 1
        engine.step({0: [1], 1: [1]})
    assert (engine.max_feed(0), engine.length(0)) == (0, engine.max_len)
    with pytest.raises(BadFeed):
        engine.step({0: [1]})
    engine.release(0)
    assert best(engine.step({1: [2]})[1][-1]) == best_after(engine, [*PROMPTS[0], 1, 1, 2])


def test_a_prompt_may_fill_the_context(engine: Engine) -> None:
    prompt = [token % 16 for token in range(engine.max_len)]
    assert prefilled(engine, prompt, 24).length == engine.max_len
    with pytest.raises(PromptTooLong):
        engine.prefill([*prompt, 1])
    past = engine.prefill(prompt, budget=8)
    with pytest.raises(PromptTooLong):
        engine.prefill([1], past=past)


def test_slot_mistakes(engine: Engine) -> None:
    prefix = prefilled(engine, PROMPTS[0])
    for bad in (-1, engine.slots):
        with pytest.raises(BadSlot):
            engine.insert(prefix, bad)
        with pytest.raises(BadSlot):
            engine.length(bad)
    for call in (
        engine.release,
        engine.fork,
        lambda slot: engine.step({slot: [1]}),
        lambda slot: engine.rewind(slot, 1),
    ):
        with pytest.raises(BadSlot):
            call(0)
    engine.insert(prefix, 0)
    with pytest.raises(BadSlot):
        engine.insert(prefix, 0)
    assert (engine.max_feed(1), engine.length(1)) == (0, 0)


def test_feed_mistakes_change_nothing(engine: Engine) -> None:
    start_row(engine, 0, PROMPTS[0])
    start_row(engine, 1, PROMPTS[1])
    bad_feeds = (
        {},
        {0: []},
        {0: [1], 1: [1] * (engine.max_len + 1)},
        {0: [1], 2: [1]},
        {0: [1], 1: [engine.vocab_size]},
    )
    for feed in bad_feeds:
        with pytest.raises((BadFeed, BadSlot, BadToken)):
            engine.step(feed)
    assert [engine.length(slot) for slot in range(4)] == [5, 1, 0, 0]
    assert best(engine.step({0: [4]})[0][-1]) == best_after(engine, [*PROMPTS[0], 4])


def test_prefill_mistakes(engine: Engine) -> None:
    with pytest.raises(BadFeed):
        engine.prefill([])
    with pytest.raises(BadFeed):
        engine.prefill([1], budget=0)
    for token in (-1, engine.vocab_size):
        with pytest.raises(BadToken):
            engine.prefill([1, token])
    with pytest.raises(UnknownAdapter):
        engine.prefill([1], adapter="no such adapter")
    with pytest.raises(BadFeed):
        engine.insert(engine.prefill(PROMPTS[0], budget=2), 0)


def test_warm_up_keeps_the_slots_free(engine: Engine) -> None:
    engine.warm_up()
    assert [engine.length(slot) for slot in range(engine.slots)] == [0] * engine.slots
