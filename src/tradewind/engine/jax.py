"""The `jax` engine: the Flax decoder over a KV cache of per-layer arrays, on whatever device JAX runs on.

It reads a variant's `model.safetensors` or its GGUF (the same integers as every other engine's). On an accelerator they stay
integers in its memory (`tradewind.model.integers`); on a CPU they are dequantized once: XLA multiplies floats faster there.
Where a variant has scales for it, the cache is int8: quantized on write, dequantized on read, as in the `ort` engine.
Shapes come in buckets, so that a handful of compiled functions serves every request. It knows no text, requests or
sampling. Not covered: several devices, choosing threads (XLA takes the process's cores).

How a row lives in memory:
0. `warm_up` runs every compiled shape that the later calls can reach; `keep_compiled` keeps them for the next process.
1. `prefill` runs chunks over a cache of one row, of the smallest bucket that holds the prompt. A call works on a copy
   of the past, so a prefix never changes; within the call the copy is donated from chunk to chunk.
2. `insert` writes a prefix into the slots' cache, per layer [slots, max_len, KV heads, head dim], which is donated.
3. `step` runs the fed rows, padded to a bucket of rows, of tokens and of context. Padding has a position outside the
   cache: it writes nothing. `greedy` runs several such steps in one call: tokens are chosen on the device, and only they
   leave it.

Adapters are stacked (`tradewind.model.row_adapters`), with room up to a multiple of `RANKS`: one that does not fit the room
has every shape compiled anew, when it is first used, so that loading is hot within it only.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Self

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.typing import DTypeLike
from numpy.typing import NDArray

from tradewind.compression.kv_cache import SCALES_FILE, Scales, load_scales
from tradewind.compression.variant import Manifest, load_variant, trained_on
from tradewind.engine.adapters import AdapterSet
from tradewind.engine.contract import Engine, Logits, Prefix
from tradewind.errors import UserError
from tradewind.model.adapters import Adapter, read_adapter
from tradewind.model.decoder import Cache, Decoder, init_cache
from tradewind.model.integers import Codes, keep_integers
from tradewind.model.packed import PackedDecoder
from tradewind.model.row_adapters import add_adapters, choose
from tradewind.model.weights import Flat, read_safetensors, to_model

CHUNKS = (32, 128, 256)
"""Prompt tokens that one compiled call runs: the scheduler's scored chunk, its usual one, and the one of an idle turn."""
FILLED = 0.75
"""Least share of a chunk that its tokens fill; a shorter rest of a prompt runs in several smaller chunks."""
FEEDS = (1, 4, 16)
"""Tokens a row that one compiled step takes."""
CONTEXTS = (256, 1024, 4096)
"""Positions that a call sees, short of `max_len`. Each costs a compilation per chunk and per batch."""

BURST = 8
"""Steps of a call of `greedy` on an accelerator, where a step of a small model takes less than a call of it."""
BANNED = 4
"""Tokens that a row of `greedy` may not choose: a multiple of it."""
RANKS = 32
"""Of all adapters together, there is room for a multiple of it."""


@dataclass(frozen=True, eq=False)
class JaxPrefix(Prefix):
    cache: Cache = ()  # type: ignore[assignment] # per layer [1, capacity, KV heads, head dim], not mutable

    @property
    def nbytes(self) -> int:
        return sum(part.nbytes for layer in self.cache for part in layer)


class JaxEngine(Engine):
    """Greedy tokens are the same alone, batched, late-joined, in chunks and from forks, within one library version."""

    name = "jax"
    adapters: AdapterSet[Adapter]

    def __init__(
        self,
        model: Decoder,
        digest: str,
        slots: int,
        max_len: int,
        dtype: DTypeLike = jnp.float32,
        kv_scales: Scales | None = None,
        codes: Mapping[str, Codes] | None = None,
    ) -> None:
        """kv_scales: of an int8 cache, [2 x layers, KV heads, head dim]; None: the cache is of `dtype`.
        codes: of weights that are to stay integers, by their Hugging Face names.
        """
        cached = dtype if kv_scales is None else jnp.int8
        self._kv_scales = None if kv_scales is None else jnp.asarray(kv_scales)
        self.config, self.weights_digest = model.config, digest
        self.slots, self.max_len, self.vocab_size = slots, max_len, model.config.vocab_size
        packed = PackedDecoder(model)
        keep_integers(packed, codes or {}, dtype)
        self._keep(packed)
        self.adapters, self._bases, self._dtype = AdapterSet[Adapter](slots), set[str](), dtype
        self._cache = init_cache(self.config, slots, max_len, cached)
        self.kv_bytes = sum(part.nbytes for layer in self._cache for part in layer)
        self._lengths = [0] * slots
        self._contexts = [*(size for size in CONTEXTS if size < max_len), max_len]
        self._batches = [*(1 << bit for bit in range(slots.bit_length()) if 1 << bit < slots), slots]
        self._advance = jax.jit(self._run, static_argnames="context", donate_argnames="cache")
        self._decode = jax.jit(self._run_to_logits, static_argnames="context", donate_argnames="cache")
        self._choose = jax.jit(self._run_greedy, static_argnames=("context", "steps"), donate_argnames="cache")
        self.burst = BURST if jax.default_backend() != "cpu" else 1
        self._last_line = jax.jit(self._line)
        self._empty = jax.jit(lambda capacity: init_cache(self.config, 1, capacity, cached), static_argnames="capacity")
        self._lines = jax.jit(lambda weights, hidden: self._model(weights).logits(hidden[0]))

    @classmethod
    def load(
        cls,
        folder: Path,
        *,
        slots: int,
        max_len: int,
        threads: int = 0,
        dtype: DTypeLike | None = None,
        integers: bool | None = None,
    ) -> Self:
        """`dtype` of weights, products and a cache without scales: float32 on a CPU, bfloat16 elsewhere unless given.
        `integers`: whether a quantized variant's weights stay so in memory: not on a CPU, elsewhere yes, unless given.

        Raises:
            UserError: no variant, a damaged one, or one that was not made for contexts of `max_len`.
        """
        manifest = load_variant(folder)
        if slots < 1 or not 1 <= max_len <= manifest.max_position:
            raise UserError(
                f"{folder}: needs slots >= 1 and max_len in 1..{manifest.max_position}, not {slots} and {max_len}"
            )
        on_cpu = jax.default_backend() == "cpu"
        dtype = dtype or (jnp.float32 if on_cpu else jnp.bfloat16)
        model = to_model(manifest.decoder, _weights(folder, manifest), dtype, dtype)
        codes = _codes(folder, manifest) if (not on_cpu if integers is None else integers) else None
        made = cls(model, manifest.weights_digest, slots, max_len, dtype, _kv_scales(folder, manifest), codes)
        made._bases = trained_on(folder, manifest)
        return made

    def prefill(
        self,
        tokens: Sequence[int],
        past: Prefix | None = None,
        adapter: str | None = None,
        budget: int | None = None,
        keep_logits: bool = False,
    ) -> JaxPrefix:
        self.check_prefill(tokens, past, adapter, budget)
        adapter = past.adapter if past is not None else adapter
        own = self._own([adapter])
        waiting = (*(past.pending if past is not None else ()), *tokens)
        now, later = waiting[:budget], waiting[budget:] if budget is not None else ()
        length = past.length if past is not None else 0
        capacity = _bucket(length + len(waiting), self._contexts)
        cache, kept, start = self._private(past, capacity), [], 0
        while start < len(now):
            width = _chunk(len(now) - start, capacity)
            chunk = now[start : start + width]
            ids, positions = np.zeros((1, width), np.int32), np.full((1, width), capacity, np.int32)
            ids[0, : len(chunk)] = chunk
            positions[0, : len(chunk)] = length + start + np.arange(len(chunk))
            hidden, cache = self._advance(self._weights, ids, positions, cache, own, context=capacity)
            if keep_logits:
                kept.append(np.asarray(self._lines(self._weights, hidden))[: len(chunk)])
            start += len(chunk)
        lines = np.concatenate(kept) if keep_logits else None
        last = None
        if not later:
            last = (
                lines[-1] if lines is not None else np.asarray(self._last_line(self._weights, hidden, len(chunk) - 1))
            )
        return JaxPrefix(length + len(now), later, last, lines, adapter, cache=cache)

    def insert(self, prefix: Prefix, slot: int) -> None:
        self.check_insert(prefix, slot)
        assert isinstance(prefix, JaxPrefix)
        self._cache = _insert(self._cache, prefix.cache, slot)
        self._lengths[slot], self.adapters.rows[slot] = prefix.length, prefix.adapter

    def step(self, feed: Mapping[int, Sequence[int]]) -> dict[int, Logits]:
        self.check_feed(feed)
        batch, places = self._places(feed)
        whole = batch == self.slots
        width = _bucket(max(map(len, feed.values())), FEEDS)
        ids, positions = np.zeros((batch, width), np.int32), np.full((batch, width), self.max_len, np.int32)
        rows = np.zeros(batch, np.int32)
        adapters: list[str | None] = [None] * batch
        for slot, tokens in feed.items():
            row, length = places[slot], self._lengths[slot]
            rows[row], ids[row, : len(tokens)], adapters[row] = slot, tokens, self.adapters.rows[slot]
            positions[row, : len(tokens)] = length + np.arange(len(tokens))
        context = _bucket(max(self._lengths[slot] + len(tokens) for slot, tokens in feed.items()), self._contexts)
        made, self._cache = self._decode(
            self._weights,
            ids,
            positions,
            self._cache,
            self._own(adapters),
            context=context,
            rows=None if whole else rows,
        )
        lines = np.asarray(made)
        for slot, tokens in feed.items():
            self._lengths[slot] += len(tokens)
        return {slot: lines[places[slot], : len(tokens)] for slot, tokens in feed.items()}

    def greedy(
        self, feed: Mapping[int, int], steps: int, banned: Mapping[int, Sequence[int]] | None = None
    ) -> dict[int, list[int]]:
        self.check_greedy(feed, steps)
        batch, places = self._places(feed)
        tokens, rows = np.zeros(batch, np.int32), np.zeros(batch, np.int32)
        positions = np.full(batch, self.max_len, np.int32)
        width = max([1, *map(len, (banned or {}).values())])
        never = np.full((batch, -(-width // BANNED) * BANNED), self.vocab_size, np.int32)
        adapters: list[str | None] = [None] * batch
        for slot, token in feed.items():
            row, own = places[slot], (banned or {}).get(slot, ())
            rows[row], tokens[row], positions[row] = slot, token, self._lengths[slot]
            never[row, : len(own)], adapters[row] = own, self.adapters.rows[slot]
        context = _bucket(max(self._lengths[slot] for slot in feed) + steps, self._contexts)
        made, self._cache = self._choose(
            self._weights,
            tokens,
            positions,
            never,
            self._cache,
            self._own(adapters),
            context=context,
            rows=None if batch == self.slots else rows,
            steps=steps,
        )
        chosen = np.asarray(made)
        found = {}
        for slot in feed:
            self._lengths[slot] += steps
            line = chosen[:, places[slot]]
            found[slot] = line[: steps if (line >= 0).all() else int((line < 0).argmax())].tolist()
        return found

    def _places(self, feed: Collection[int]) -> tuple[int, dict[int, int]]:
        """Rows of the call that feeds these slots, and each slot's row. Where all rows of the cache are fed they are its own,
        and nothing is gathered."""
        batch = _bucket(len(feed), self._batches)
        return batch, dict(zip(feed, feed if batch == self.slots else range(len(feed)), strict=True))

    def fork(self, slot: int) -> JaxPrefix:
        self.check_slot(slot, occupied=True)
        length = self._lengths[slot]
        cache = _fork(self._cache, slot, capacity=_bucket(length, self._contexts))
        return JaxPrefix(length, adapter=self.adapters.rows[slot], cache=cache)

    def rewind(self, slot: int, length: int) -> None:
        self.check_rewind(slot, length)
        self._lengths[slot] = length

    def release(self, slot: int) -> None:
        self.check_slot(slot, occupied=True)
        self._lengths[slot], self.adapters.rows[slot] = 0, None

    def length(self, slot: int) -> int:
        if not 0 <= slot < self.slots:
            self.check_slot(slot, occupied=True)
        return self._lengths[slot]

    def max_feed(self, slot: int) -> int:
        length = self.length(slot)
        return min(FEEDS[-1], self.max_len - length) if length else 0

    def warm_up(self, feed: int = 1, rows: int = 1) -> None:
        """Run every compiled shape that serving can reach: (chunks + batches) x contexts, feeds of drafts, copies.

        Nothing is done where a slot is taken.
        """
        if any(self._lengths):
            return
        for context in self._contexts:
            prefix = self._warm_prefill(context)
            for capacity in self._contexts:
                _copy(prefix.cache, capacity=capacity)
            self.insert(prefix, 0)
            self.fork(0)
            for batch in self._batches:
                self._warm_step(context, batch, 1)
                if self.burst > 1:
                    self._warm_greedy(context, batch)
            for below, _ in pairwise(FEEDS):
                for batch in self._batches if feed > below else ():
                    if batch <= _bucket(min(rows, self.slots), self._batches):
                        self._warm_step(context, batch, below + 1)

    def _warm_prefill(self, context: int) -> JaxPrefix:
        """A prefix of `context` positions, made by a chunk of each width, with and without its logits kept."""
        cache = self._private(None, context)
        for width in CHUNKS:
            if width <= max(context, CHUNKS[0]):
                ids, positions = np.zeros((1, width), np.int32), np.full((1, width), context, np.int32)
                hidden, cache = self._advance(self._weights, ids, positions, cache, self._own([None]), context=context)
                self._last_line(self._weights, hidden, 0)
                self._lines(self._weights, hidden)
        return JaxPrefix(context, cache=cache)

    def _warm_step(self, context: int, batch: int, count: int) -> None:
        """Feed `batch` rows `count` tokens at the end of `context`; what the cache holds there does not matter."""
        if count < context:
            self._lengths = [context - count] * batch + [0] * (self.slots - batch)
            self.step({slot: [0] * count for slot in range(batch)})
        self._lengths = [0] * self.slots

    def _warm_greedy(self, context: int, batch: int) -> None:
        if self.burst < context:
            self._lengths = [context - self.burst] * batch + [0] * (self.slots - batch)
            self.greedy(dict.fromkeys(range(batch), 0), self.burst)
        self._lengths = [0] * self.slots

    def close(self) -> None:
        self._cache = []
        del self._weights

    def open_adapter(self, folder: str | Path) -> Adapter:
        return read_adapter(folder, self.config, self._bases)

    def add_adapter(self, name: str, adapter: Adapter) -> None:
        self.adapters.add(name, adapter)
        self._restack()

    def drop_adapter(self, name: str) -> None:
        self.adapters.drop(name)
        self._restack()

    def _restack(self) -> None:
        model = nnx.merge(self._graph, jax.tree.unflatten(self._tree, self._weights))
        add_adapters(model, list(self.adapters.values()), -self.adapters.ranks % RANKS, self._dtype)
        self._keep(model)

    def _keep(self, model: PackedDecoder) -> None:
        self._graph, state = nnx.split(model)
        self._weights, self._tree = jax.tree.flatten(state)  # a flat list: unpacking a State costs time at every call

    def _own(self, adapters: Sequence[str | None]) -> NDArray[np.bool_] | None:
        """[rows, ranks]: which of the stacked ranks are each row's; None where no adapter was ever loaded."""
        if not self.adapters.known:
            return None
        return self.adapters.own(adapters, (0, -(-self.adapters.ranks // RANKS) * RANKS))

    def _model(self, weights: list[jax.Array], own: jax.Array | None = None) -> Decoder:
        model: Decoder = nnx.merge(self._graph, jax.tree.unflatten(self._tree, weights))
        if own is not None:
            choose(model, own)
        return model

    def _run(
        self,
        weights: list[jax.Array],
        ids: jax.Array,
        positions: jax.Array,
        cache: Cache,
        own: jax.Array | None,
        context: int,
    ) -> tuple[jax.Array, Cache]:
        return self._model(weights, own).advance(ids, positions, cache, context, kv_scales=self._kv_scales)

    def _run_to_logits(
        self,
        weights: list[jax.Array],
        ids: jax.Array,
        positions: jax.Array,
        cache: Cache,
        own: jax.Array | None,
        context: int,
        rows: jax.Array | None,
    ) -> tuple[jax.Array, Cache]:
        """Layers and head in one call: a step then waits for the device once."""
        return self._model(weights, own).decode(ids, positions, cache, context, rows, self._kv_scales)

    def _run_greedy(
        self,
        weights: list[jax.Array],
        tokens: jax.Array,
        positions: jax.Array,
        never: jax.Array,
        cache: Cache,
        own: jax.Array | None,
        context: int,
        rows: jax.Array | None,
        steps: int,
    ) -> tuple[jax.Array, Cache]:
        """[steps, rows] tokens, -1 where logits were not finite. tokens, positions: [rows]. never: [rows, any], of which the
        vocabulary's size stands for none."""
        model = self._model(weights, own)

        def one(
            carry: tuple[jax.Array, jax.Array, Cache], _: None
        ) -> tuple[tuple[jax.Array, jax.Array, Cache], jax.Array]:
            token, position, held = carry
            lines, held = model.decode(token[:, None], position[:, None], held, context, rows, self._kv_scales)
            line = lines[:, 0].at[jnp.arange(len(token))[:, None], never].set(-jnp.inf, mode="drop")
            best = line.argmax(-1).astype(jnp.int32)
            finite = jnp.isfinite(line.max(-1))
            return (best, position + 1, held), jnp.where(finite, best, -1)

        (_, _, cache), chosen = jax.lax.scan(one, (tokens, positions, cache), length=steps)
        return chosen, cache

    def _line(self, weights: list[jax.Array], hidden: jax.Array, place: int) -> jax.Array:
        """[vocab] of the token at `place` of hidden [1, T, D]. One row: its product is the fastest on a CPU."""
        return self._model(weights).logits(jax.lax.dynamic_index_in_dim(hidden[0], place, keepdims=True))[0]

    def _private(self, past: Prefix | None, capacity: int) -> Cache:
        """A cache of one row that holds `past` and belongs to nobody else."""
        if past is None:
            return self._empty(capacity=capacity)
        assert isinstance(past, JaxPrefix)
        return _copy(past.cache, capacity=capacity)


@partial(jax.jit, donate_argnames="cache")
def _insert(cache: Cache, row: Cache, slot: int) -> Cache:
    """Write a cache of one row into row `slot`."""
    return jax.tree.map(lambda whole, part: jax.lax.dynamic_update_slice(whole, part, (slot, 0, 0, 0)), cache, row)


@partial(jax.jit, static_argnames="capacity")
def _fork(cache: Cache, slot: int, capacity: int) -> Cache:
    """The first `capacity` positions of row `slot`."""
    return jax.tree.map(
        lambda part: jax.lax.dynamic_slice(part, (slot, 0, 0, 0), (1, capacity, *part.shape[2:])), cache
    )


@partial(jax.jit, static_argnames="capacity")
def _copy(cache: Cache, capacity: int) -> Cache:
    """A copy with room for `capacity` positions."""
    room = min(capacity, cache[0][0].shape[1])

    def copied(part: jax.Array) -> jax.Array:
        empty = jnp.zeros((1, capacity, *part.shape[2:]), part.dtype)
        return jax.lax.dynamic_update_slice(empty, part[:, :room], (0, 0, 0, 0))

    return jax.tree.map(copied, cache)


def keep_compiled(folder: Path) -> None:
    """Keep what JAX compiles from here on in `folder`, for this process and later ones. To be called once, where a
    process starts. Any size and any compile time is worth keeping: a server's start is the sum of many small ones.
    """
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)


def _chunk(rest: int, capacity: int) -> int:
    """The widest chunk that `rest` tokens fill well enough; none is wider than needed for the cache."""
    fitting = [width for width in CHUNKS if rest >= FILLED * width and width <= capacity]
    return fitting[-1] if fitting else CHUNKS[0]


def _bucket(size: int, buckets: Sequence[int]) -> int:
    """The smallest bucket that holds `size`."""
    return next(bucket for bucket in buckets if bucket >= size)


def _kv_scales(folder: Path, manifest: Manifest) -> Scales | None:
    return load_scales(folder / SCALES_FILE) if SCALES_FILE in manifest.digests else None


def _weights(folder: Path, manifest: Manifest) -> Flat:
    names = manifest.files.get("jax") or manifest.files.get("gguf")
    if not names:
        raise UserError(f"{folder}: no files for engine jax (engines: {', '.join(sorted(manifest.files))})")
    path = folder / names[0]
    if path.suffix == ".safetensors":
        return read_safetensors(path)
    from tradewind.model.gguf import load_gguf  # a bare accelerator host needs no GGUF

    return load_gguf(path)[1]


def _codes(folder: Path, manifest: Manifest) -> dict[str, Codes]:
    names = (name for name in manifest.files.get("jax", ()) if name.endswith(".gguf"))
    if (name := next(names, None)) is None:
        return {}
    from tradewind.model.gguf import load_gguf_codes

    return load_gguf_codes(folder / name)
