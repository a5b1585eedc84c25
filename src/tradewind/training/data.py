"""Conversations packed into rows of fixed length, and batches of rows as a sequence addressed by step.

Several samples share a row; segment ids keep attention inside a sample and positions restart with each. Only tokens of
the assistant are targets, and each batch lists the places whose logits are needed, so nothing else meets the vocabulary.
This file does not know losses, models or the mesh.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple, Protocol

import numpy as np

from tradewind.errors import UserError

Sample = tuple[Sequence[int], Sequence[int]]
"""Token ids, and for each 1 where it is a target."""


class ChatTokenizer(Protocol):
    """What packing needs of a tokenizer."""

    def chat_with_mask(self, messages: Sequence[dict[str, str]]) -> tuple[list[int], list[int]]: ...


class Batch(NamedTuple):
    """One batch of B rows of T tokens with A places for targets in each row.

    tokens, positions, segments: [B,T] int32, segment 0 is padding.
    where: [B,A] int32, index of the token *before* each target (its logits predict the target).
    targets: [B,A] int32. weights: [B,A] float32, 0 where the place is unused.
    """

    tokens: np.ndarray
    positions: np.ndarray
    segments: np.ndarray
    where: np.ndarray
    targets: np.ndarray
    weights: np.ndarray


@dataclass(frozen=True)
class Packed:
    """All rows of a data set: the arrays of `Batch` over R rows, and how many samples were too long to be in it."""

    rows: Batch
    samples: int
    dropped: int

    def __len__(self) -> int:
        return len(self.rows.tokens)

    @property
    def tokens(self) -> int:
        """Tokens that are not padding."""
        return int((self.rows.segments > 0).sum())

    @property
    def targets(self) -> int:
        """Tokens that are targets."""
        return int(self.rows.weights.sum())

    def take(self, index: Sequence[int] | np.ndarray) -> Batch:
        """The rows of these indices."""
        return Batch(*(array[np.asarray(index)] for array in self.rows))

    def head(self, rows: int) -> "Packed":
        """The first `rows` rows; `samples` counts those in them."""
        part = Batch(*(array[:rows] for array in self.rows))
        return replace(self, rows=part, samples=int(part.segments.max(axis=1, initial=0).sum()))


def pack(samples: Sequence[Sample], length: int, where_size: int | None = None) -> Packed:
    """First-fit decreasing packing (longest first, then in the order given) into rows of `length` tokens.

    A sample longer than a row, or with more targets than `where_size`, is dropped and counted.

    Args:
        where_size: places for targets in a row; by default what the fullest row needs, in multiples of 8.

    Raises:
        UserError: no sample fits.
    """
    counts = [_target_count(mask) for _, mask in samples]
    limit = where_size or length
    fits = [i for i, (ids, _) in enumerate(samples) if len(ids) <= length and counts[i] <= limit]
    if not samples:
        raise UserError("no samples to pack: the text has no conversation")
    if not fits:
        raise UserError(f"no sample fits into a row of {length} tokens ({len(samples)} given): raise the row length")
    longest_first = sorted(fits, key=lambda i: (-len(samples[i][0]), i))
    bins = _first_fit([(i, len(samples[i][0]), counts[i]) for i in longest_first], length, limit)
    places = where_size or -(-max(sum(counts[i] for i in members) for members in bins) // 8) * 8
    rows = [_row([samples[i] for i in members], length, max(places, 1)) for members in bins]
    return Packed(Batch(*(np.stack(column) for column in zip(*rows, strict=True))), len(fits), len(samples) - len(fits))


def _first_fit(items: Sequence[tuple[int, int, int]], length: int, targets: int) -> list[list[int]]:
    """Indices per row; an item is (index, tokens, targets). Rows with no room for the shortest item are not searched."""
    shortest = min(tokens for _, tokens, _ in items)
    bins: list[list[int]] = []
    free: dict[int, tuple[int, int]] = {}
    for index, tokens, count in items:
        row = next((r for r, (room, places) in free.items() if room >= tokens and places >= count), None)
        if row is None:
            row = len(bins)
            bins.append([])
            free[row] = (length, targets)
        room, places = free[row]
        bins[row].append(index)
        free[row] = (room - tokens, places - count)
        if room - tokens < shortest:
            del free[row]
    return bins


def _row(samples: Sequence[Sample], length: int, places: int) -> Batch:
    tokens, positions, segments = (np.zeros(length, np.int32) for _ in range(3))
    where, targets = np.zeros(places, np.int32), np.zeros(places, np.int32)
    weights = np.zeros(places, np.float32)
    start = used = 0
    for number, (ids, mask) in enumerate(samples, 1):
        span = slice(start, start + len(ids))
        tokens[span], positions[span], segments[span] = ids, np.arange(len(ids)), number
        index = np.flatnonzero(np.asarray(mask[1:])) + 1  # a first token has nothing before it
        here = slice(used, used + len(index))
        where[here], targets[here], weights[here] = start + index - 1, np.asarray(ids)[index], 1.0
        start, used = span.stop, here.stop
    return Batch(tokens, positions, segments, where, targets, weights)


def _target_count(mask: Sequence[int]) -> int:
    return int(np.count_nonzero(mask[1:]))


def draw(
    conversations: Sequence[Sequence[dict[str, str]]],
    tokenizer: ChatTokenizer,
    budget: int,
    length: int,
    seed: int | list[int],
) -> list[Sample]:
    """Conversations tokenized in an order drawn from `seed` until those of at most `length` tokens reach the budget.

    Longer ones are in the result too, for `pack` to count; fewer tokens than the budget where the data end.
    """
    samples: list[Sample] = []
    total = 0
    for index in np.random.default_rng(seed).permutation(len(conversations)):
        sample = tokenizer.chat_with_mask(conversations[index])
        samples.append(sample)
        total += len(sample[0]) if len(sample[0]) <= length else 0
        if total >= budget:
            break
    return samples


@dataclass(frozen=True)
class Schedule:
    """Which rows step `i` trains on: an epoch is a permutation of all rows drawn from (seed, epoch).

    Batches run on over the end of an epoch, so every step has `rows` rows and resuming needs the step number alone.
    """

    total: int
    rows: int
    seed: int

    def __getitem__(self, step: int) -> np.ndarray:
        """Row indices [rows] of step `step`."""
        numbers = np.arange(step * self.rows, (step + 1) * self.rows)
        epochs, offsets = numbers // self.total, numbers % self.total
        orders = {int(epoch): self._order(int(epoch)) for epoch in np.unique(epochs)}
        return np.array([orders[int(e)][o] for e, o in zip(epochs, offsets, strict=True)])

    def steps_for(self, row_tokens: np.ndarray, budget: int) -> int:
        """The fewest steps that train on at least `budget` tokens, given the tokens of each row."""
        seen = steps = 0
        while seen < budget:
            seen += int(row_tokens[self[steps]].sum())
            steps += 1
        return steps

    def _order(self, epoch: int) -> np.ndarray:
        return np.random.default_rng([self.seed, epoch]).permutation(self.total)
