"""The adapters that an engine has loaded, by name: which ranks of the stack are whose, and which row runs with which.

A name stands for one content as long as the engine lives, loaded or not, so that keys and values of one adapter are never
gone on with by another. It knows no weights' layout and no files.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Generic, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from tradewind.engine.contract import AdapterInUse, EngineError, UnknownAdapter


class Content(Protocol):
    @property
    def rank(self) -> int: ...
    @property
    def digest(self) -> str: ...


C = TypeVar("C", bound=Content)
Span = tuple[int, int]
"""Ranks from the first up to, and without, the last."""


class AdapterSet(Mapping[str, C], Generic[C]):
    """rows: the adapter of each slot, None for the base. known: the digest of each that was ever loaded."""

    def __init__(self, slots: int) -> None:
        self.rows: list[str | None] = [None] * slots
        self._held: dict[str, C] = {}
        self.known: dict[str, str] = {}

    def __getitem__(self, name: str) -> C:
        return self._held[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._held)

    def __len__(self) -> int:
        return len(self._held)

    def add(self, name: str, adapter: C) -> None:
        """Raises EngineError for a name that is loaded, or that has stood for something else."""
        if name in self._held:
            raise EngineError(f"adapter {name!r} is loaded already")
        if self.known.setdefault(name, adapter.digest) != adapter.digest:
            raise EngineError(f"adapter {name!r} was another one before: give this one a name of its own")
        self._held[name] = adapter

    def drop(self, name: str) -> None:
        """Raises UnknownAdapter, AdapterInUse."""
        if name not in self._held:
            raise UnknownAdapter(f"adapter {name!r} is not loaded; loaded: {sorted(self._held)}")
        if name in self.rows:
            raise AdapterInUse(f"adapter {name!r} is in use by slot {self.rows.index(name)}")
        del self._held[name]

    @property
    def ranks(self) -> int:
        """Of all together."""
        return sum(adapter.rank for adapter in self._held.values())

    def span(self, names: Sequence[str | None]) -> Span:
        """The ranks from the first of these adapters up to the last; (0, 0) where none is named."""
        spans = [span for name, span in self._spans().items() if name in names]
        return (min(low for low, _ in spans), max(high for _, high in spans)) if spans else (0, 0)

    def own(self, names: Sequence[str | None], span: Span) -> NDArray[np.bool_]:
        """[len(names), ranks of the span]: which are each one's own."""
        spans, low = self._spans(), span[0]
        made = np.zeros((len(names), span[1] - low), np.bool_)
        for row, name in enumerate(names):
            if name in spans:
                start, end = spans[name]
                made[row, max(0, start - low) : max(0, end - low)] = True
        return made

    def _spans(self) -> dict[str | None, Span]:
        """In the order of loading."""
        spans: dict[str | None, Span] = {}
        end = 0
        for name, adapter in self._held.items():
            spans[name] = (end, end + adapter.rank)
            end += adapter.rank
        return spans
