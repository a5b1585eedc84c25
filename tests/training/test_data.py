import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tradewind.errors import UserError
from tradewind.training.data import Schedule, draw, pack

LENGTH = 24


@st.composite
def sample(draw_):
    ids = draw_(st.lists(st.integers(1, 99), min_size=2, max_size=LENGTH + 6))
    return ids, draw_(st.lists(st.integers(0, 1), min_size=len(ids), max_size=len(ids)))


samples = st.lists(sample(), min_size=1, max_size=30).filter(lambda s: any(len(ids) <= LENGTH for ids, _ in s))


def unpack(rows):
    """The samples in rows, as (ids, indices of targets)."""
    for row in range(len(rows.tokens)):
        for segment in range(1, rows.segments[row].max(initial=0) + 1):
            places = np.flatnonzero(rows.segments[row] == segment)
            used = [
                (w, t) for w, t, on in zip(rows.where[row], rows.targets[row], rows.weights[row], strict=True) if on
            ]
            mine = sorted((w + 1 - places[0], t) for w, t in used if w in places)
            yield tuple(rows.tokens[row][places].tolist()), tuple((int(i), int(t)) for i, t in mine)


def expected(samples):
    for ids, mask in samples:
        if len(ids) <= LENGTH:
            yield tuple(ids), tuple((i, ids[i]) for i in range(1, len(ids)) if mask[i])


@settings(deadline=None, max_examples=60)
@given(samples)
def test_every_sample_that_fits_is_in_the_rows_once_with_its_targets(samples):
    packed = pack(samples, LENGTH)
    assert sorted(unpack(packed.rows)) == sorted(expected(samples))
    assert packed.dropped == sum(len(ids) > LENGTH for ids, _ in samples)
    assert packed.samples + packed.dropped == len(samples)


@settings(deadline=None, max_examples=60)
@given(samples)
def test_segments_are_contiguous_and_positions_restart(samples):
    rows = pack(samples, LENGTH).rows
    for segments, positions, tokens in zip(rows.segments, rows.positions, rows.tokens, strict=True):
        used = int((segments > 0).sum())
        assert (segments[:used] > 0).all() and (np.diff(segments[:used]) >= 0).all()
        assert not tokens[used:].any() and not positions[used:].any()
        starts = np.flatnonzero(np.diff(segments[:used], prepend=0))
        assert (positions[starts] == 0).all()
        assert all(positions[i] == positions[i - 1] + 1 for i in range(1, used) if i not in starts)


@settings(deadline=None, max_examples=30)
@given(samples)
def test_first_fit_leaves_no_two_rows_that_would_fit_into_one(samples):
    used = (pack(samples, LENGTH).rows.segments > 0).sum(axis=1)
    assert len(used) < 2 or np.sort(used)[:2].sum() > LENGTH


def test_a_limit_on_targets_holds_and_is_counted():
    packed = pack([([1, 2, 3], [0, 1, 1])] * 6 + [([1, 2, 3, 4], [1, 1, 1, 1])], LENGTH, where_size=2)
    assert packed.rows.where.shape == (6, 2)
    assert packed.dropped == 1


def test_nothing_fits_is_a_user_error():
    with pytest.raises(UserError, match="no sample fits into a row of 24 tokens"):
        pack([([1] * 30, [1] * 30)], LENGTH)


@settings(deadline=None, max_examples=30)
@given(st.integers(1, 40), st.integers(1, 9), st.integers(0, 5))
def test_an_epoch_of_the_schedule_is_every_row_once_and_any_step_can_be_asked_alone(total, rows, seed):
    schedule = Schedule(total, rows, seed)
    order = np.concatenate([schedule[step] for step in range(total)])  # `rows` epochs
    for epoch in range(rows):
        assert sorted(order[epoch * total : (epoch + 1) * total]) == list(range(total))
    assert (Schedule(total, rows, seed)[total // 2] == schedule[total // 2]).all()


@settings(deadline=None, max_examples=30)
@given(st.lists(st.integers(1, 24), min_size=1, max_size=20), st.integers(1, 300), st.integers(1, 4))
def test_steps_spend_the_budget_and_not_one_step_more(row_tokens, budget, rows):
    schedule, tokens = Schedule(len(row_tokens), rows, 0), np.array(row_tokens)
    steps = schedule.steps_for(tokens, budget)
    spent = [int(tokens[schedule[step]].sum()) for step in range(steps)]
    assert sum(spent) >= budget > sum(spent[:-1])


class Letters:
    """A tokenizer whose tokens are characters."""

    def chat_with_mask(self, messages):
        ids = [ord(c) for m in messages for c in m["content"]]
        return ids, [int(m["role"] == "assistant") for m in messages for _ in m["content"]]


def test_draw_takes_conversations_in_seeded_order_up_to_the_budget():
    talks = [[{"role": "user", "content": "q" * n}, {"role": "assistant", "content": "a"}] for n in range(1, 30)]
    drawn = draw(talks, Letters(), 100, LENGTH, seed=3)
    fitting = [len(ids) for ids, _ in drawn if len(ids) <= LENGTH]
    assert sum(fitting) >= 100 > sum(fitting[:-1])
    assert drawn == draw(talks, Letters(), 100, LENGTH, seed=3) != draw(talks, Letters(), 100, LENGTH, seed=4)
    assert len(draw(talks, Letters(), 10**9, LENGTH, seed=3)) == len(talks)
