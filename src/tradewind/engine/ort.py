"""The `ort` engine: a plain ONNX Runtime session over key-value buffers that this module owns, on the CPU.

It runs graphs of `tradewind.compression.export_onnx`, whose key-value inputs and outputs are bound to the same memory,
so that a call appends to the cache in place. Rows may differ in length and in tokens fed; a row that is not fed is not
touched. It knows no text, requests or sampling. Not covered: float16, other execution providers.

How a row lives in memory:
1. `prefill` appends to a private row. A prefix is a row and a length; positions below the length are never written
   again. The prefix that holds all of a row goes on in that row, any other (cut, or continued twice) on a copy: copy on
   write.
2. `insert` copies a prefix into the slots' buffer, [2 x layers, slots, KV heads, positions, head dim], of which
   one call sees the first n rows. So occupied rows are kept dense: `release` moves the last one into the gap.
3. `step` of one token a row uses tensors bound once for each n; only their content changes.

With the first adapter, the session gives way to one over the graph of `tradewind.engine.adapter_graph`, which rows without
adapters give the same logits in, to the last bit; before that, nobody pays for it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray
from onnxruntime.capi import onnxruntime_pybind11_state as runtime

from tradewind.compression.variant import MAX_FEED, Manifest, load_variant, trained_on
from tradewind.engine.adapters import AdapterSet, Span
from tradewind.engine.contract import Engine, Logits, Prefix
from tradewind.engine.ort_adapters import Graph, Linears, OrtAdapter, Stack
from tradewind.errors import UserError
from tradewind.model.adapters import read_adapter

CHUNK = 128
"""Tokens of a prompt that one call runs at most: attention computes the masked half of a chunk, too. Chunks are exact."""
KV = NDArray[Any]
"""float32, or int8 where the graph has scales for it."""
KV_TYPES = {"tensor(float)": np.float32, "tensor(int8)": np.int8}
MOST_CALLS = 256
"""Bound calls that are kept: one for each number of rows and span of adapters."""
LOAD_ERRORS = (
    runtime.EPFail,
    runtime.Fail,
    runtime.InvalidArgument,
    runtime.InvalidGraph,
    runtime.InvalidProtobuf,
    runtime.NoModel,
    runtime.NoSuchFile,
    runtime.NotImplemented,
    runtime.RuntimeException,
)
"""What the library raises for a graph that it cannot load; the classes share no base of their own."""


class Row:
    """Keys and values outside the slots: [2 x layers, 1, KV heads, capacity, head dim]; `used` are written."""

    def __init__(self, like: KV, capacity: int) -> None:
        layers, _, heads, _, width = like.shape
        self.kv: KV = np.empty((layers, 1, heads, capacity, width), like.dtype)
        self.used = 0

    @property
    def capacity(self) -> int:
        return self.kv.shape[3]


@dataclass(frozen=True, eq=False)
class OrtPrefix(Prefix):
    row: Row = None  # type: ignore[assignment] # shared by the prefixes that grew from each other

    @property
    def nbytes(self) -> int:
        return self.row.kv.nbytes


class OrtEngine(Engine):
    """Greedy tokens are the same alone, batched, late-joined, in chunks and from forks, within one library version.

    With an int8 cache, logits are the same to the last bit, however tokens are fed. With a float32 cache they differ by
    rounding (1e-4) between one token a call and several: the attention operator has a kernel of its own for one, which
    sums in another order.
    """

    name = "ort"
    adapters: AdapterSet[OrtAdapter]

    def __init__(self, folder: Path, manifest: Manifest, slots: int, max_len: int, threads: int) -> None:
        session = open_session(folder / manifest.files["ort"][0], threads)
        self.config, self._folder, self._manifest, self._threads = manifest.decoder, folder, manifest, threads
        self.slots, self.max_len, self.vocab_size = slots, max_len, self.config.vocab_size
        self.weights_digest = manifest.weights_digest
        room = max_len + MAX_FEED  # the operator wants a place for a row's padding, too, though it writes nothing there
        shape = (2 * self.config.num_layers, slots, self.config.num_kv_heads, room, self.config.head_dim)
        self._kv: KV = np.zeros(shape, KV_TYPES[session.get_inputs()[-1].type])
        self.kv_bytes = self._kv.nbytes
        self.exact_feeds = self._kv.dtype == np.int8
        self._session = session
        self._lengths = [0] * slots
        self._dense: list[int] = []  # row of the buffer -> slot
        self._calls: dict[tuple[int, Span], _Call] = {}
        self.adapters = AdapterSet[OrtAdapter](slots)
        self._stack: Stack | None = None
        self._lines: Logits = np.empty((slots, 1, self.vocab_size), np.float32)

    @classmethod
    def load(cls, folder: Path, *, slots: int, max_len: int, threads: int) -> Self:
        """Raises UserError for a folder that is no variant, is damaged, or was not made for contexts of `max_len`."""
        manifest = load_variant(folder)
        if "ort" not in manifest.files:
            raise UserError(f"{folder}: no files for engine ort (engines: {', '.join(sorted(manifest.files))})")
        if slots < 1:
            raise UserError(f"engine ort: slots must be at least 1, not {slots}")
        if not 1 <= max_len <= manifest.max_position:
            raise UserError(f"engine ort: max_len must be in 1..{manifest.max_position} for {folder}, not {max_len}")
        return cls(folder, manifest, slots, max_len, threads)

    def prefill(
        self,
        tokens: Sequence[int],
        past: Prefix | None = None,
        adapter: str | None = None,
        budget: int | None = None,
        keep_logits: bool = False,
    ) -> OrtPrefix:
        self.check_prefill(tokens, past, adapter, budget)
        adapter = past.adapter if past is not None else adapter
        waiting = (*(past.pending if past is not None else ()), *tokens)
        now, later = waiting[:budget], waiting[budget:] if budget is not None else ()
        length = past.length if past is not None else 0
        row = self._row_after(past, length + len(waiting))
        kept: list[Logits] = []
        for start in range(0, len(now), CHUNK):
            chunk = now[start : start + CHUNK]
            final = start + len(chunk) == len(now) and not later
            wanted = range(len(chunk)) if keep_logits else [len(chunk) - 1] if final else []
            kept.append(self._extend(row, length + start, chunk, wanted, adapter))
        row.used = end = length + len(now)
        last = None if later else kept[-1][-1].copy()
        return OrtPrefix(end, later, last, np.concatenate(kept) if keep_logits else None, adapter, row=row)

    def insert(self, prefix: Prefix, slot: int) -> None:
        self.check_insert(prefix, slot)
        assert isinstance(prefix, OrtPrefix)
        place, length = len(self._dense), prefix.length
        self._kv[:, place, :, :length] = prefix.row.kv[:, 0, :, :length]
        self._dense.append(slot)
        self._lengths[slot], self.adapters.rows[slot] = length, prefix.adapter

    def step(self, feed: Mapping[int, Sequence[int]]) -> dict[int, Logits]:
        self.check_feed(feed)
        rows = 1 + max(self._dense.index(slot) for slot in feed)
        width = max(len(tokens) for tokens in feed.values())
        span = self.adapters.span([self.adapters.rows[slot] for slot in feed])
        call = self._call(rows, width, span)
        call.run_with(self.adapters.own([self.adapters.rows[slot] for slot in self._dense[:rows]], span))
        call.ids[:] = 0
        for row, slot in enumerate(self._dense[:rows]):
            tokens = feed.get(slot, ())
            call.ids[row, : len(tokens)] = tokens
            call.queries[row] = len(tokens)
            call.lasts[row] = self._lengths[slot] + len(tokens) - 1
        call.longest[()] = call.lasts.max() + 1
        self._session.run_with_iobinding(call.binding)
        for slot, tokens in feed.items():
            self._lengths[slot] += len(tokens)
        return {slot: call.logits[self._dense.index(slot), : len(tokens)] for slot, tokens in feed.items()}

    def fork(self, slot: int) -> OrtPrefix:
        self.check_slot(slot, occupied=True)
        length = self._lengths[slot]
        row = Row(self._kv, length)
        row.kv[:, 0] = self._kv[:, self._dense.index(slot), :, :length]
        row.used = length
        return OrtPrefix(length, adapter=self.adapters.rows[slot], row=row)

    def rewind(self, slot: int, length: int) -> None:
        self.check_rewind(slot, length)
        self._lengths[slot] = length

    def release(self, slot: int) -> None:
        self.check_slot(slot, occupied=True)
        gap, last = self._dense.index(slot), self._dense.pop()
        if last != slot:
            length = self._lengths[last]
            self._kv[:, gap, :, :length] = self._kv[:, len(self._dense), :, :length]
            self._dense[gap] = last
        self._lengths[slot], self.adapters.rows[slot] = 0, None

    def length(self, slot: int) -> int:
        if not 0 <= slot < self.slots:
            self.check_slot(slot, occupied=True)
        return self._lengths[slot]

    def max_feed(self, slot: int) -> int:
        length = self.length(slot)
        return min(MAX_FEED, self.max_len - length) if length else 0

    def warm_up(self, feed: int = 1, rows: int = 1) -> None:
        """Touch every weight and the largest batch once."""
        prefix = self.prefill([0])
        free = [slot for slot in range(self.slots) if not self._lengths[slot]]
        for slot in free:
            self.insert(prefix, slot)
        if free and self.max_len > 1:
            self.step({slot: [0] for slot in free})
        for slot in free:
            self.release(slot)

    def close(self) -> None:
        self._calls.clear()
        del self._session

    def _row_after(self, past: Prefix | None, capacity: int) -> Row:
        """A row that holds `past` and has room for `capacity` tokens, which nobody else will write to."""
        if past is None:
            return Row(self._kv, capacity)
        assert isinstance(past, OrtPrefix)
        if past.row.used == past.length and past.row.capacity >= capacity:
            return past.row
        row = Row(self._kv, capacity)
        row.kv[:, :, :, : past.length] = past.row.kv[:, :, :, : past.length]
        return row

    def _extend(
        self, row: Row, start: int, tokens: Sequence[int], wanted: Sequence[int], adapter: str | None
    ) -> Logits:
        """Run `tokens` at positions from `start`; logits [len(wanted), vocab] after the wanted ones of them."""
        span = self.adapters.span([adapter])
        logits = np.empty((1, len(wanted), self.vocab_size), np.float32)
        call = self._bound(row.kv, 1, len(tokens), logits, wanted, span)
        call.run_with(self.adapters.own([adapter], span))
        call.ids[0], call.queries[0] = tokens, len(tokens)
        call.lasts[0], call.longest[()] = start + len(tokens) - 1, start + len(tokens)
        self._session.run_with_iobinding(call.binding)
        return call.logits[0]

    def _call(self, rows: int, width: int, span: Span) -> "_Call":
        """Tensors bound for the first `rows` rows; those of one token a row are kept, and share one logits buffer."""
        if width > 1:
            logits = np.empty((rows, width, self.vocab_size), np.float32)
            return self._bound(self._kv, rows, width, logits, range(width), span)
        if (rows, span) not in self._calls:
            if len(self._calls) >= MOST_CALLS:
                self._calls.clear()
            self._calls[rows, span] = self._bound(self._kv, rows, 1, self._lines[:rows], [0], span)
        return self._calls[rows, span]

    def _bound(self, kv: KV, rows: int, width: int, logits: Logits, wanted: Sequence[int], span: Span) -> "_Call":
        call = _Call(self._session, kv, rows, width, logits, wanted)
        if self._stack is not None:
            call.bind_adapters(self._stack, span)
        return call

    def open_adapter(self, folder: str | Path) -> OrtAdapter:
        """With it, if it is the first, the session that runs adapters."""
        adapter = read_adapter(folder, self.config, trained_on(self._folder, self._manifest))
        return OrtAdapter(adapter, self._open_graph() if self._stack is None else None)

    def add_adapter(self, name: str, adapter: OrtAdapter) -> None:
        self.adapters.add(name, replace(adapter, graph=None))
        if self._stack is None:
            self._session, linears = adapter.graph or self._open_graph()
        else:
            linears = self._stack.linears
        self._restack(linears)

    def drop_adapter(self, name: str) -> None:
        self.adapters.drop(name)
        assert self._stack is not None
        self._restack(self._stack.linears)

    def _restack(self, linears: Linears) -> None:
        self._calls.clear()  # they are bound to the memory of the stack that was
        self._stack = Stack(linears, [one.adapter for one in self.adapters.values()], self.config)

    def _open_graph(self) -> Graph:
        from tradewind.engine.adapter_graph import with_adapters  # whoever uses none needs no library for graphs

        path = self._folder / self._manifest.files["ort"][0]
        graph, linears = with_adapters(path, self.config)
        return open_session(path, self._threads, graph), linears


class _Call:
    """One shape of call: arrays to fill, and a binding of the session's inputs and outputs to their memory."""

    def __init__(
        self, session: ort.InferenceSession, kv: KV, rows: int, width: int, logits: Logits, wanted: Sequence[int]
    ) -> None:
        self.ids = np.zeros((rows, width), np.int64)
        self.queries, self.lasts = np.zeros(rows, np.int32), np.zeros(rows, np.int32)
        self.longest = np.zeros((), np.int32)
        self.wanted = np.asarray(wanted, np.int64)
        self.logits = logits
        self.own: dict[int, NDArray[np.bool_]] = {}
        self.binding = session.io_binding()
        self._input("input_ids", self.ids)
        self._input("query_lengths", self.queries)
        self._input("last_positions", self.lasts)
        self._input("longest", self.longest)
        self._input("logit_positions", self.wanted)
        self.binding.bind_output("logits", "cpu", 0, np.float32, logits.shape, logits.ctypes.data)
        self._bind_cache(kv, rows)

    def bind_adapters(self, stack: Stack, span: Span) -> None:
        self._stack = stack  # whose memory is bound
        rows, width = self.ids.shape
        self._shape = np.array([rows, width, -1], np.int64)
        self._input("adapter_shape", self._shape)
        for count in stack.counts:
            self.own[count] = np.zeros((rows * width, count * (span[1] - span[0])), np.bool_)
            self._input(f"adapter_rows.{count}", self.own[count])
        for name, (_, parts) in stack.linears.items():
            for half, array in zip("ab", stack.arrays[name], strict=True):
                self._input(f"{name}.lora_{half}", array[len(parts) * span[0] : len(parts) * span[1]])

    def run_with(self, own: NDArray[np.bool_]) -> None:
        """own: see `AdapterSet`, for the rows and the span of this call."""
        for count, array in self.own.items():
            array[:] = np.repeat(np.repeat(own, count, axis=1), self.ids.shape[1], axis=0)

    def _input(self, name: str, array: NDArray[np.generic]) -> None:
        self.binding.bind_input(name, "cpu", 0, array.dtype.type, array.shape, array.ctypes.data)

    def _bind_cache(self, kv: KV, rows: int) -> None:
        """Past and present of a layer are the same memory: the first `rows` rows of its part of the buffer."""
        shape = (rows, *kv.shape[2:])
        for index in range(len(kv)):
            layer, half = index // 2, ("key", "value")[index % 2]
            address = kv.ctypes.data + index * kv.strides[0]
            self.binding.bind_input(f"past_key_values.{layer}.{half}", "cpu", 0, kv.dtype.type, shape, address)
            self.binding.bind_output(f"present.{layer}.{half}", "cpu", 0, kv.dtype.type, shape, address)


def open_session(graph: Path, threads: int, content: bytes | None = None) -> ort.InferenceSession:
    """A session on the CPU. Its threads spin between operators and a moment longer: a token is many small operators.

    content: what to run in the graph's place, over the weights beside it.
    """
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "1")
    if content is not None:
        options.add_session_config_entry("session.model_external_initializers_file_folder_path", str(graph.parent))
    try:
        return ort.InferenceSession(content or graph, options, providers=["CPUExecutionProvider"])
    except LOAD_ERRORS as error:
        raise UserError(f"{graph}: ONNX Runtime cannot load it: {' '.join(str(error).split())[:300]}") from error
