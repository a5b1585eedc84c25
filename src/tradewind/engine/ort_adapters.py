"""Adapters as the `ort` engine holds them: stacked for each linear layer of its graph, and what runs them.

The graph is that of `tradewind.engine.adapter_graph`. It knows no rows and no bindings.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import onnxruntime as ort

from tradewind.model.adapters import Adapter, stacked
from tradewind.model.config import DecoderConfig

Linears = Mapping[str, tuple[int, tuple[str, ...]]]
"""Name of a linear layer in the graph -> its decoder layer and the parts that it joins."""
Graph = tuple[ort.InferenceSession, Linears]


@dataclass(frozen=True)
class OrtAdapter:
    """graph: what runs it; None where the engine has that already."""

    adapter: Adapter
    graph: Graph | None = None

    @property
    def digest(self) -> str:
        return self.adapter.digest

    @property
    def rank(self) -> int:
        return self.adapter.rank


class Stack:
    """All loaded adapters, below one another, for each linear layer of the graph. A call sees a span of their ranks, which
    is a part of the same memory: nothing is copied for it.
    """

    def __init__(self, linears: Linears, adapters: Sequence[Adapter], config: DecoderConfig) -> None:
        from tradewind.engine.adapter_graph import chunks_of  # whoever uses none needs no library for graphs

        self.linears = linears
        self.arrays = {}
        for name, (layer, parts) in linears.items():
            a, b = stacked(adapters, layer, parts, config)
            chunks = chunks_of(a.shape[1])
            self.arrays[name] = a.reshape(len(a), chunks, a.shape[1] // chunks), b
        self.counts = {len(parts) for _, parts in linears.values()}
        """How many parts linear layers join."""
