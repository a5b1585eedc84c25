"""A roofline of a decoder: how long prefill and decode take on a device at best, and what they hold in memory.

Each matrix product takes the longer of its arithmetic and the reading of its bytes; so does attention, over keys and
values. Three terms that calculators tend to leave out: what starting kernels costs (`launch`, alone when a model is
small), weights and cache that stay in on-chip memory (`on_chip`), and sizes padded to what the arithmetic units take
(`tile`). Rates are those of the device, or what it was measured to reach; nothing is fitted to a point that is predicted.
Williams, Waterman and Patterson 2009, doi:10.1145/1498765.1498785; terms of a decoder as in "How to Scale Your Model"
(Austin et al. 2025).

A step of `rows` sequences, each of `tokens` new tokens after `past` ones:

    product     max(2 rows' K' N' / flops, K N bits / 8 / bandwidth)          ' padded to the tile
    attention   max(4 rows sum(visible) heads head_dim / flops, (past + tokens) rows cache bytes / bandwidth)
    network     2 all-reduces a layer of rows tokens hidden activations, ring: 2 (chips - 1) / chips bytes / interconnect
    elementwise norms and activations: bytes in and out / bandwidth, where the machine's was measured; else 0 (fused)
    step        sum of products, attention and elementwise + kernels * launch + dispatch + network

Not covered: overlap of kernels or of network with arithmetic, sampling, prompts of unequal length, pipeline parallelism,
what the operating system takes.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from math import ceil
from typing import NamedTuple

from tradewind.errors import UserError
from tradewind.model.config import DecoderConfig

KERNELS_PER_LAYER = 10
"""Products of q/k/v, output, gate/up, down; attention; two norms; rotation; cache write; activation. Fused compilers need
fewer, graph runtimes more: a machine states its own."""
KERNELS_OF_STEP = 4
"""Embedding, last norm, head, choice of token."""
ELEMENTWISE = "elementwise"
"""What norms and activations are among the dtypes: two norms of two inputs and outputs, SiLU, the product with `up`."""


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
    inputs and outputs are padded to.
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
    kernels: tuple[int, int] = (KERNELS_PER_LAYER, KERNELS_OF_STEP)
    tile: tuple[int, int, int] = (1, 1, 1)
    interconnect: float = 0.0
    hop: float = 0.0

    def rate(self, dtype: str) -> float:
        if dtype not in self.flops:
            raise UserError(f"{self.name} multiplies no {dtype} (it does: {', '.join(sorted(self.flops))})")
        return self.flops[dtype]

    def reads(self, dtype: str) -> float:
        return self.bandwidth.get(dtype, self.bandwidth["other"])


@dataclass(frozen=True)
class Estimate:
    """Of one step. Seconds, by what bounds each part; operations without padding; bytes read from memory."""

    compute_s: float = 0.0
    memory_s: float = 0.0
    launch_s: float = 0.0
    network_s: float = 0.0
    flops: float = 0.0
    bytes: float = 0.0
    on_chip: bool = False
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
    held = (weight_bytes(shape, storage) + rows * cache_bytes(shape, storage, past + tokens)) / chips
    near = held <= machine.on_chip and machine.on_chip_bandwidth > 0
    parts: dict[str, float] = {}
    compute = memory = flops = read = 0.0
    for kind, arithmetic, operations, moved, dtype in _work(shape, storage, machine, rows, tokens, past, chips):
        speed = machine.on_chip_bandwidth if near else machine.reads(dtype)
        here = arithmetic / machine.rate(dtype) if arithmetic else 0.0
        there = moved / speed
        compute, memory = compute + (here if here > there else 0.0), memory + (there if there >= here else 0.0)
        parts[kind] = max(here, there)
        flops, read = flops + operations, read + moved
    per_layer, per_step = machine.kernels
    launch = machine.launch * (per_layer * shape.num_layers + per_step) + machine.dispatch
    network = _network(shape, storage, machine, rows * tokens, chips)
    return Estimate(compute, memory, launch, network, flops, read, near, parts)


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


def max_rows(shape: DecoderConfig, storage: Storage, machine: Machine, context: int, spare: float = 0.1) -> int:
    """Sequences of `context` tokens whose cache fits beside the weights; `spare`: share of memory kept for the rest."""
    free = machine.memory * (1 - spare) - weight_bytes(shape, storage)
    return max(0, int(free // cache_bytes(shape, storage, context)))


def check_claim(claimed: float, estimate: Estimate, tokens: int, what: str) -> None:
    """Refuse a rate (token/s) above what the roofline allows for a step of `tokens` tokens.

    Raises:
        UserError: naming the bound.
    """
    allowed = tokens / estimate.seconds
    if claimed > allowed:
        raise UserError(
            f"{what}: {claimed:,.0f} token/s is above its roofline of {allowed:,.0f} (bound by {estimate.bound})"
        )


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
    visible = tokens * past + tokens * (tokens + 1) / 2
    attended = 4.0 * rows * visible * shape.num_heads * shape.head_dim * shape.num_layers / chips
    cached = rows * cache_bytes(shape, storage, past + tokens) / chips
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
    needed = (weight_bytes(shape, storage) + rows * cache_bytes(shape, storage, context)) / chips
    if needed > machine.memory:
        raise UserError(
            f"{machine.name} holds {machine.memory / 1e9:.1f} GB; {storage.name} weights and the cache of {rows} x {context} "
            f"tokens need {needed / 1e9:.1f} GB on each of {chips}"
        )


def _up(size: float, tile: int) -> float:
    return ceil(size / tile) * tile
