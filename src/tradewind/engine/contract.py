"""The engine contract: what runs a variant, and nothing else.

An engine turns token ids into logits over a KV cache of `slots` rows. It knows no text, sampling, stops,
log-probabilities, speculation, requests or queues: those live above it, once for every engine. One thread owns an
engine; no method is thread-safe.

The life of a request, as its engine sees it:
1. `prefill(prompt, budget=n)` runs at most n prompt tokens outside the slots and gives a `Prefix`; the tokens not yet
   run wait in `prefix.pending`, and `prefill((), past=prefix, budget=n)` goes on. With nothing pending, `prefix.logits`
   choose a token.
2. `insert(prefix, slot)` copies it into a free row. One prefix may go into several rows (n answers, one prefill).
3. `step({slot: [token]})` feeds each named row its tokens and gives the logits after each of them. Rows that are not
   named stay as they are: a row joins or leaves at any step.
4. `fork(slot)` takes a row's tokens out as a new prefix (to branch, or to keep for a later turn); `rewind(slot,
   length)` drops the newest tokens of a row (rejected drafts).
5. `release(slot)` frees the row at once.

A request may name an adapter that was loaded: every step of its row then runs with it, beside rows with others and with
none.

Invariants, each held by tests/engine/test_contract.py for every engine:
- Greedy tokens of a request are the same alone, batched, late-joined, prefilled in chunks, from a fork, in a reused
  slot.
- A prefix never changes: not by a later prefill over it, an insert, a step, or a release. Two continuations of one are
  possible.
- So are those of a request with an adapter, whatever adapters the other rows have.
- KV past `prefix.length`, or past a row's length, is never read.
- A call that raises `EngineError` has changed nothing.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from tradewind.errors import UserError

Logits = NDArray[np.float32]


class EngineError(ValueError):
    """The caller broke the contract; the engine's state is as it was before the call."""


class PromptTooLong(EngineError):
    """The tokens held, pending and asked for exceed `max_len`."""


class BadSlot(EngineError):
    """No such slot, or it is occupied where a free one is needed, or free where an occupied one is needed."""


class BadToken(EngineError):
    """A token id outside [0, vocab_size)."""


class BadFeed(EngineError):
    """An empty feed or prompt, more tokens than `max_feed(slot)`, an unfinished prefix, or an impossible length."""


class UnknownAdapter(EngineError):
    """An adapter that this engine has not loaded."""


class AdapterInUse(EngineError):
    """An adapter that a row runs with."""


class OpenAdapter(Protocol):
    """What `Engine.open_adapter` gives. digest: of all of it that answers depend on."""

    @property
    def digest(self) -> str: ...


@dataclass(frozen=True, eq=False)
class Prefix:
    """Tokens held in a KV cache outside the slots. Engines subclass it with the keys and values.

    length: tokens held. pending: tokens accepted by `prefill` and not run yet.
    logits: [vocab] float32 after the last token; None while tokens are pending and in a prefix that came from `fork` or
    `cut`.
    all_logits: [n, vocab] float32 of the n tokens that the last `prefill` call ran, where it was asked to keep them.
    """

    length: int
    pending: tuple[int, ...] = ()
    logits: Logits | None = None
    all_logits: Logits | None = None
    adapter: str | None = None

    @property
    def nbytes(self) -> int:
        """Bytes of keys and values that this prefix keeps alive."""
        return 0

    def cut(self, length: int) -> Self:
        """The first `length` tokens as a prefix of its own, without pending tokens or logits, sharing this one's
        memory.
        """
        if not 1 <= length <= self.length:
            raise BadFeed(f"cannot cut a prefix of {self.length} tokens to {length}")
        return replace(self, length=length, pending=(), logits=None, all_logits=None)


NO_ADAPTERS: Mapping[str, OpenAdapter] = MappingProxyType({})


class Engine(ABC):
    """What runs a variant.

    Engines with weights are built by a class method `load(folder, *, slots, max_len, threads) -> Engine` over a variant
    folder, without adapters.
    """

    name: str
    """`ort`, `jax` or `mock`."""
    slots: int
    """Rows of the KV cache, numbered from 0."""
    max_len: int
    """Tokens that a row or a prefix holds at most."""
    vocab_size: int
    weights_digest: str
    """What answers are a function of, beside the library's version: equal digests mean equal weights."""
    kv_bytes: int = 0
    """Bytes of the slots' keys and values, for the memory bill."""
    exact_feeds: bool = False
    """Whether logits are the same to the last bit however many tokens a call feeds. Speculation needs it: a token checked
    among drafts is then the one that would have been made alone."""
    burst: int = 1
    """Steps that one call of `greedy` is worth: more than 1 where a call costs an engine more than a step, as on a GPU."""
    adapters: Mapping[str, OpenAdapter] = NO_ADAPTERS
    """Those that are loaded, by name. `weights_digest` is not about them."""

    @abstractmethod
    def prefill(
        self,
        tokens: Sequence[int],
        past: Prefix | None = None,
        adapter: str | None = None,
        budget: int | None = None,
        keep_logits: bool = False,
    ) -> Prefix:
        """Append `tokens` to `past` (none: an empty context) and run at most `budget` of what is then pending (None:
        all).

        Returns a new prefix; `past` is left as it was. The adapter of a prefix is fixed by the call that starts it:
        later calls give None or the same name. `keep_logits` asks for `all_logits` of the tokens run by this call.
        Raises PromptTooLong, BadToken, UnknownAdapter, and BadFeed where there is no token to run or the budget is
        below 1.
        """

    @abstractmethod
    def insert(self, prefix: Prefix, slot: int) -> None:
        """Copy a prefix with nothing pending into a free slot. Raises BadSlot (unknown, occupied), BadFeed (pending
        tokens), UnknownAdapter (unloaded since).
        """

    @abstractmethod
    def step(self, feed: Mapping[int, Sequence[int]]) -> dict[int, Logits]:
        """Feed each named row its tokens; give for each row float32 logits [len(tokens), vocab], one line after each
        token.

        The arrays may be views of the engine's own buffers: valid until its next call, to be copied where kept longer.
        Raises BadSlot, BadToken, and BadFeed for an empty feed or more tokens than `max_feed` allows.
        """

    def greedy(
        self, feed: Mapping[int, int], steps: int, banned: Mapping[int, Sequence[int]] | None = None
    ) -> dict[int, list[int]]:
        """Feed each named row its token, then `steps` - 1 times the one whose logit is the largest; give for each row the
        `steps` tokens so chosen, of which the last is not fed. They are those of `step`.

        banned: tokens never chosen, by row. A row's tokens end early where its logits are not finite.
        Raises BadSlot, BadToken, and BadFeed for steps below 1 or beyond the room in a row. An engine that can do so runs
        all steps without waiting for its device; this runs one after the other.
        """
        self.check_greedy(feed, steps)
        chosen: dict[int, list[int]] = {slot: [] for slot in feed}
        last, broken = dict(feed), set[int]()
        for _ in range(steps):
            for slot, lines in self.step({slot: (token,) for slot, token in last.items()}).items():
                line = lines[-1].copy()
                line[list((banned or {}).get(slot, ()))] = -np.inf
                last[slot] = token = int(line.argmax())
                if not np.isfinite(line[token]):
                    broken.add(slot)
                if slot not in broken:
                    chosen[slot].append(token)
        return chosen

    @abstractmethod
    def fork(self, slot: int) -> Prefix:
        """The row's tokens as a prefix (logits None: the caller has them from the last step). The row stays. Raises
        BadSlot.
        """

    @abstractmethod
    def rewind(self, slot: int, length: int) -> None:
        """Drop the newest tokens of a row so that `length` (1 up to what it holds) stay. Raises BadSlot, BadFeed."""

    @abstractmethod
    def release(self, slot: int) -> None:
        """Free the row. Raises BadSlot where it is free already."""

    @abstractmethod
    def length(self, slot: int) -> int:
        """Tokens that the row holds; 0 for a free one. Raises BadSlot for an unknown one."""

    @abstractmethod
    def max_feed(self, slot: int) -> int:
        """Tokens the row takes in one step that feeds every occupied row; at most the room left in it; 0 for a free
        row.
        """

    def open_adapter(self, folder: str | Path) -> Any:
        """Read an adapter (see `tradewind.model.adapters`) for `add_adapter`. Changes nothing of the engine: the one method
        that may be called in any thread, as it may take a while. Raises UserError for one that does not fit.
        """
        raise UserError(f"engine {self.name} runs no adapters")

    def add_adapter(self, name: str, adapter: Any) -> None:
        """Load what `open_adapter` gave. A name stands for one content as long as the engine lives.

        Raises EngineError for a name that is loaded, or that stood for another content.
        """
        raise EngineError(f"engine {self.name} runs no adapters")

    def load_adapter(self, name: str, folder: str | Path) -> None:
        """`open_adapter` and `add_adapter`."""
        self.add_adapter(name, self.open_adapter(folder))

    def drop_adapter(self, name: str) -> None:
        """Unload. Prefixes that were made with it can be gone on with once it is loaded again.

        Raises UnknownAdapter, and AdapterInUse where a row runs with it.
        """
        raise UnknownAdapter(f"adapter {name!r} is not loaded: engine {self.name} runs none")

    def warm_up(self, feed: int = 1, rows: int = 1) -> None:  # noqa: B027 - only engines that compile have work here
        """Do what the first request would otherwise pay for (compilation). Called once, before traffic.

        feed: most tokens a row is to take in a step (drafts), where at most `rows` rows run; other steps feed one.
        """

    def close(self) -> None:  # noqa: B027 - optional
        """Free what the engine holds. No call may follow."""

    # Checks shared by the engines, so that every one raises the same error for the same mistake.

    def check_slot(self, slot: int, occupied: bool) -> None:
        if not 0 <= slot < self.slots:
            raise BadSlot(f"slot {slot} is not one of 0..{self.slots - 1}")
        if occupied != (self.length(slot) > 0):
            raise BadSlot(f"slot {slot} is {'free' if occupied else 'occupied'}")

    def check_tokens(self, tokens: Sequence[int]) -> None:
        for token in tokens:
            if not 0 <= token < self.vocab_size:
                raise BadToken(f"token {token} is outside the vocabulary of {self.vocab_size}")

    def check_prefill(
        self, tokens: Sequence[int], past: Prefix | None, adapter: str | None, budget: int | None
    ) -> None:
        self.check_tokens(tokens)
        waiting = len(tokens) + (len(past.pending) if past else 0)
        held = past.length if past else 0
        if held + waiting > self.max_len:
            raise PromptTooLong(f"{held + waiting} tokens exceed the context of {self.max_len}")
        if not waiting:
            raise BadFeed("no token to run")
        if budget is not None and budget < 1:
            raise BadFeed(f"a budget of {budget} tokens runs nothing")
        if past is not None and adapter is not None and adapter != past.adapter:
            raise BadFeed(f"the prefix was started with adapter {past.adapter!r}, not {adapter!r}")
        self.check_adapter(past.adapter if past is not None else adapter)

    def check_adapter(self, name: str | None) -> None:
        if name is not None and name not in self.adapters:
            raise UnknownAdapter(f"adapter {name!r} is not loaded; loaded: {sorted(self.adapters)}")

    def check_insert(self, prefix: Prefix, slot: int) -> None:
        self.check_slot(slot, occupied=False)
        if prefix.pending:
            raise BadFeed(f"{len(prefix.pending)} tokens of the prefix are pending")
        self.check_adapter(prefix.adapter)

    def check_feed(self, feed: Mapping[int, Sequence[int]]) -> None:
        if not feed:
            raise BadFeed("an empty feed")
        for slot, tokens in feed.items():
            self.check_slot(slot, occupied=True)
            self.check_tokens(tokens)
            if not 1 <= len(tokens) <= self.max_feed(slot):
                raise BadFeed(f"slot {slot} takes 1 to {self.max_feed(slot)} tokens now, not {len(tokens)}")

    def check_greedy(self, feed: Mapping[int, int], steps: int) -> None:
        self.check_feed({slot: (token,) for slot, token in feed.items()})
        for slot in feed:
            if not 1 <= steps <= self.max_len - self.length(slot):
                raise BadFeed(f"slot {slot} has room for 1 to {self.max_len - self.length(slot)} steps, not {steps}")

    def check_rewind(self, slot: int, length: int) -> None:
        self.check_slot(slot, occupied=True)
        if not 1 <= length <= self.length(slot):
            raise BadFeed(f"slot {slot} holds {self.length(slot)} tokens, cannot keep {length}")
