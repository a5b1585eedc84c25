"""A roofline of a decoder: how long prefill and decode take on a device at best, and what they hold in memory.

Each matrix product takes the longer of its arithmetic and the reading of its bytes; so does attention, over keys and
values. Three terms that calculators tend to leave out: what starting kernels costs (`launch`, alone when a model is
small), weights and cache that stay in on-chip memory (`on_chip`), and sizes padded to what the arithmetic units take
(`tile`). Rates are those of the device, or what it was measured to reach; nothing is fitted to a point that is predicted.
Williams, Waterman and Patterson 2009, doi:10.1145/1498765.1498785; terms of a decoder as in "How to Scale Your Model"
(Austin et al. 2025).

A step of `rows` sequences, each of `tokens` new tokens after `past` ones:

    product     max(2 rows' K' N' / flops, K N bits / 8 / bandwidth)          ' padded to the tile; flops of so many rows
    attention   max(4 rows sum(visible) heads head_dim / flops, (past + tokens) rows cache bytes / bandwidth)
    network     2 all-reduces a layer of rows tokens hidden activations: hop + 2 (chips - 1) / chips bytes / interconnect
    elementwise norms and activations: bytes in and out / bandwidth, where the machine's was measured; else 0 (fused)
    step        sum of products, attention and elementwise + kernels * launch + dispatch + network
    least       max(sum of arithmetic without padding, sum of reading): no program is faster, however it overlaps

Tensor-parallel chips share every matrix, and the heads that divide evenly; chips that share rows (data-parallel) are as many
machines, and the planner's replicas. Not covered: overlap of kernels or of network with arithmetic, sampling, prompts of
unequal length, pipeline parallelism, what the operating system takes.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from math import ceil, exp, gcd, log
from typing import NamedTuple

from numpy import interp

from tradewind.errors import UserError
from tradewind.model.config import DecoderConfig

KERNELS = (12, 4)
"""Of a layer as XLA fuses it: products of q/k/v, output, gate/up, down; scores, softmax and sums of attention; rotation, two
writes of the cache; two norms, each with what is beside it. Of a step: lookup, last norm, head, what the host fetches."""
ELEMENTWISE = "elementwise"
"""What norms and activations are among the dtypes: two norms of two inputs and outputs, SiLU, the product with `up`."""


AtRows = list[tuple[int, list[tuple[float, float]]]]


class Product(NamedTuple):
    """`times` products [rows, inputs] x [inputs, outputs] of matrices of this kind."""

    kind: str
    inputs: int
    outputs: int
    times: int


@dataclass(frozen=True)
class Storage:
    """How numbers are kept. bits: of a weight, scales included, by kind of matrix; `other` for those not named.
    compute: the dtype whose peak products run at, by kind likewise. cache_bits: of a key or value. activation_bits: of
    what chips send each other."""

    name: str
    bits: Mapping[str, float]
    compute: Mapping[str, str]
    cache_bits: int = 16
    activation_bits: int = 16

    def weight_bits(self, kind: str) -> float:
        return self.bits.get(kind, self.bits["other"])

    def dtype(self, kind: str) -> str:
        return self.compute.get(kind, self.compute["other"])


@dataclass(frozen=True)
class Machine:
    """One chip (or host) as a roofline sees it.

    flops: operations/s by dtype. bandwidth: bytes/s of main memory, by dtype of the weights read where that differs
    (`other` for the rest). memory: bytes. on_chip, on_chip_bandwidth: bytes that stay on the chip, bytes/s; 0: none.
    launch: seconds to start a kernel. dispatch: the host's part of a step. kernels: per layer and per step. tile: rows,
    inputs and outputs are padded to. at_rows: by dtype, operations/s of products by rows, and those by bytes of what is kept
    in all, where that was measured; between points it goes straight on logarithmic scales.
    interconnect: bytes/s to other chips, one direction. hop: seconds that a collective takes at least.
    """

    name: str
    flops: Mapping[str, float]
    bandwidth: Mapping[str, float]
    memory: float
    on_chip: float = 0.0
    on_chip_bandwidth: float = 0.0
    launch: float = 0.0
    dispatch: float = 0.0
    kernels: tuple[int, int] = KERNELS
    tile: tuple[int, int, int] = (1, 1, 1)
    interconnect: float = 0.0
    hop: float = 0.0
    at_rows: Mapping[str, AtRows] = field(default_factory=dict)

    def rate(self, dtype: str, rows: int | None = None, held: float = 1.0) -> float:
        """Operations/s; of products of so many rows, where that is known, of weights that are part of `held` bytes."""
        if dtype not in self.flops:
            raise UserError(f"{self.name} multiplies no {dtype} (it does: {', '.join(sorted(self.flops))})")
        if rows is None or dtype not in self.at_rows:
            return self.flops[dtype]
        return _between([(size, _between(points, held)) for size, points in self.at_rows[dtype]], rows)

    def reads(self, dtype: str) -> float:
        return self.bandwidth.get(dtype, self.bandwidth["other"])


@dataclass(frozen=True)
class Estimate:
    """Of one step. Seconds, by what bounds each part; operations without padding; bytes read from memory. least_s: what no
    program passes."""

    compute_s: float = 0.0
    memory_s: float = 0.0
    launch_s: float = 0.0
    network_s: float = 0.0
    flops: float = 0.0
    bytes: float = 0.0
    on_chip: bool = False
    least_s: float = 0.0
    parts: Mapping[str, float] = field(default_factory=dict)

    @property
    def seconds(self) -> float:
        return self.compute_s + self.memory_s + self.launch_s + self.network_s

    @property
    def bound(self) -> str:
        """What most of the time goes to: compute, memory, launch or network."""
        shares = {
            "compute": self.compute_s,
            "memory": self.memory_s,
            "launch": self.launch_s,
            "network": self.network_s,
        }
        return max(shares, key=lambda name: shares[name])


def products(shape: DecoderConfig) -> Iterator[Product]:
    """Every matrix product of one token's way through the decoder; `table` is the tied head."""
    width, query = shape.hidden_size, shape.num_heads * shape.head_dim
    keys, mlp, layers = shape.num_kv_heads * shape.head_dim, shape.mlp_size, shape.num_layers
    yield Product("q", width, query, layers)
    yield Product("k", width, keys, layers)
    yield Product("v", width, keys, layers)
    yield Product("o", query, width, layers)
    yield Product("gate", width, mlp, layers)
    yield Product("up", width, mlp, layers)
    yield Product("down", mlp, width, layers)
    yield Product("table", width, shape.vocab_size, 1)


def weight_bytes(shape: DecoderConfig, storage: Storage) -> float:
    """Of all matrices, the tied table once. Norms, some thousands of numbers, are left out."""
    return sum(p.inputs * p.outputs * p.times * storage.weight_bits(p.kind) / 8 for p in products(shape))


def cache_bytes(shape: DecoderConfig, storage: Storage, tokens: int = 1) -> float:
    """Keys and values of `tokens` tokens of one sequence."""
    return 2 * shape.num_layers * shape.num_kv_heads * shape.head_dim * storage.cache_bits / 8 * tokens


def step(
    shape: DecoderConfig, storage: Storage, machine: Machine, rows: int, tokens: int, past: int, chips: int = 1
) -> Estimate:
    """`rows` sequences, each of `tokens` new tokens after `past` ones; logits of the last token of each. Tensor-parallel
    over `chips`.

    Raises:
        UserError: a dtype that the machine lacks, a model that its memory does not hold, chips with nothing between them.
    """
    _check(shape, storage, machine, rows, tokens + past, chips)
    held = _held(shape, storage, rows, past + tokens, chips)
    near = held <= machine.on_chip and machine.on_chip_bandwidth > 0
    parts: dict[str, float] = {}
    compute = memory = flops = read = arithmetic_s = reading_s = 0.0
    for kind, arithmetic, operations, moved, dtype in _work(shape, storage, machine, rows, tokens, past, chips):
        speed = machine.on_chip_bandwidth if near else machine.reads(dtype)
        lines = {"table": rows, "attention": tokens}.get(kind, rows * tokens)
        here = arithmetic / machine.rate(dtype, lines, held) if arithmetic else 0.0
        there = moved / speed
        compute, memory = compute + (here if here > there else 0.0), memory + (there if there >= here else 0.0)
        parts[kind] = max(here, there)
        flops, read = flops + operations, read + moved
        if operations:  # narrow weights could be multiplied in any dtype
            narrow = storage.weight_bits(kind) < 16
            arithmetic_s += operations / (max(machine.flops.values()) if narrow else machine.rate(dtype))
        reading_s += moved * (1.0 if near else 1 - min(1.0, machine.on_chip / held)) / speed
    per_layer, per_step = machine.kernels
    launch = machine.launch * (per_layer * shape.num_layers + per_step) + machine.dispatch
    network = _network(shape, storage, machine, rows * tokens, chips)
    return Estimate(compute, memory, launch, network, flops, read, near, max(arithmetic_s, reading_s), parts)


def prefill(
    shape: DecoderConfig, storage: Storage, machine: Machine, tokens: int, past: int = 0, chips: int = 1
) -> Estimate:
    """The prompt of one sequence, in one call."""
    return step(shape, storage, machine, 1, tokens, past, chips)


def decode(
    shape: DecoderConfig, storage: Storage, machine: Machine, rows: int, context: int, chips: int = 1
) -> Estimate:
    """One token for each of `rows` sequences, each of which sees `context` tokens, its own included."""
    return step(shape, storage, machine, rows, 1, context - 1, chips)


def max_rows(
    shape: DecoderConfig, storage: Storage, machine: Machine, context: int, spare: float = 0.1, chips: int = 1
) -> int:
    """Sequences of `context` tokens whose cache fits beside the weights; `spare`: share of memory kept for the rest."""
    free = machine.memory * (1 - spare) - weight_bytes(shape, storage) / chips
    return max(0, int(free // (cache_bytes(shape, storage, context) / gcd(chips, shape.num_kv_heads))))


def claim(claimed: float, estimate: Estimate, tokens: int, what: str) -> str | None:
    """Why a rate (token/s) is not to be believed: it is above what a device's peaks allow for a step of `tokens` tokens."""
    if claimed * estimate.least_s <= tokens:
        return None
    allowed = tokens / estimate.least_s
    return f"{what}: {claimed:,.0f} token/s is above its roofline of {allowed:,.0f} (bound by {estimate.bound})"


def _work(
    shape: DecoderConfig, storage: Storage, machine: Machine, rows: int, tokens: int, past: int, chips: int
) -> Iterator[tuple[str, float, float, float, str]]:
    """Kind of part, operations with padding, operations without, bytes, dtype; of one chip."""
    tall, deep, wide = machine.tile
    for kind, inputs, outputs, count in products(shape):
        lines = rows if kind == "table" else rows * tokens
        share = outputs / chips
        padded = 2.0 * _up(lines, tall) * _up(inputs, deep) * _up(share, wide) * count
        moved = inputs * share * count * storage.weight_bits(kind) / 8
        yield kind, padded, 2.0 * lines * inputs * share * count, moved, storage.dtype(kind)
    visible, heads = tokens * past + tokens * (tokens + 1) / 2, gcd(chips, shape.num_kv_heads)
    attended = 4.0 * rows * visible * shape.num_heads * shape.head_dim * shape.num_layers / heads
    cached = rows * cache_bytes(shape, storage, past + tokens) / heads
    yield "attention", attended, attended, cached, storage.dtype("attention")
    if ELEMENTWISE in machine.bandwidth:
        touched = shape.num_layers * (8 * shape.hidden_size + 5 * shape.mlp_size / chips) * storage.activation_bits / 8
        yield ELEMENTWISE, 0.0, 0.0, rows * tokens * touched, ELEMENTWISE


def _network(shape: DecoderConfig, storage: Storage, machine: Machine, lines: int, chips: int) -> float:
    if chips == 1:
        return 0.0
    sent = lines * shape.hidden_size * storage.activation_bits / 8
    once = 2 * (chips - 1) / chips * sent / machine.interconnect + machine.hop
    return 2 * shape.num_layers * once


def _check(shape: DecoderConfig, storage: Storage, machine: Machine, rows: int, context: int, chips: int) -> None:
    if min(rows, context, chips) < 1:
        raise UserError(f"rows, tokens and chips must be at least 1, not {rows}, {context} and {chips}")
    if chips > 1 and not machine.interconnect:
        raise UserError(f"{machine.name} has no interconnect, so {chips} of them share no model")
    needed = _held(shape, storage, rows, context, chips)
    if needed > machine.memory:
        raise UserError(
            f"{machine.name} holds {machine.memory / 1e9:.1f} GB; {storage.name} weights and the cache of {rows} x {context} "
            f"tokens need {needed / 1e9:.1f} GB on each of {chips}"
        )


def _held(shape: DecoderConfig, storage: Storage, rows: int, context: int, chips: int) -> float:
    """Bytes on each chip; a cache is shared by as many as divide its heads."""
    cache = rows * cache_bytes(shape, storage, context)
    return weight_bytes(shape, storage) / chips + cache / gcd(chips, shape.num_kv_heads)


def _between(points: Sequence[tuple[float, float]], size: float) -> float:
    sizes, values = zip(*points, strict=True)
    return exp(interp(log(size), [log(one) for one in sizes], [log(value) for value in values]))


def _up(size: float, tile: int) -> float:
    return ceil(size / tile) * tile
