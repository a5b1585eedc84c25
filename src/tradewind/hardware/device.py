"""Devices as data: one file each in conf/hardware/, every figure with the source and the day that it was looked up.

Figures are vendors' or others' claims; what a machine at hand reaches has to be measured.
Not covered: parts of a device (MIG), several in one server, prices of long contracts.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from tradewind.config import build, read_params
from tradewind.errors import UserError
from tradewind.hardware.roofline import Machine

FOLDER = Path("conf/hardware")
KINDS = ("gpu", "tpu", "npu", "cpu", "soc")
CONFIDENCE = ("read", "recalled")
PREFERRED = ("bfloat16", "float16", "float32")
TILES = {"gpu": (16, 16, 16), "tpu": (8, 128, 128), "npu": (1, 128, 128), "cpu": (1, 1, 1), "soc": (1, 1, 1)}
"""What sizes of a product (rows, inputs, outputs) are padded to, where a device states no `mxu`: tensor cores' fragments, a
TPU's 8 x 128 registers."""
HOP_US = {"gpu": 10.0, "tpu": 5.0, "npu": 10.0, "cpu": 20.0, "soc": 20.0}
"""Assumed: what an all-reduce takes at least, however little it sends."""
LAUNCH_US = {"gpu": 2.0, "tpu": 1.0, "npu": 5.0, "cpu": 5.0, "soc": 20.0}
"""Assumed where a device states none. An estimate, and what decides a small model's single stream on a large chip."""


@dataclass(frozen=True)
class Source:
    """Where figures come from. of: keys of the device. read: day of the look-up. confidence: `read`, the figure was seen in
    the page; `recalled`, it is known from there but the page could not be opened."""

    of: tuple[str, ...]
    title: str
    address: str
    read: Any
    confidence: str


@dataclass(frozen=True)
class Price:
    """US dollars per hour of one unit, the cheapest and the dearest offer found."""

    low: float
    high: float


@dataclass(frozen=True)
class Cuda:
    """What CUDA's compiler asks of a GPU, beside its memory. lanes: of float32, shared_kib: memory, threads: at most; all of
    one multiprocessor."""

    capability: str
    multiprocessors: int
    lanes: int
    shared_kib: int
    threads: int
    clock_ghz: float


@dataclass(frozen=True)
class Device:
    """One chip, board or core. peak_tflops: 10^12 operations/s by dtype, dense. memory_gb: 10^9 bytes. bandwidth_gbs: 10^9
    bytes/s of main memory. on_chip_*: the largest memory on the chip. interconnect_gbs: to other chips, one direction.
    launch_us: to start a kernel. None: nobody trustworthy says. mxu: inputs and outputs that a matrix unit takes at once.
    cuda: of NVIDIA's."""

    name: str
    kind: str
    released: int
    peak_tflops: dict[str, float]
    memory_gb: float
    bandwidth_gbs: float
    on_chip_mb: float | None
    on_chip_gbs: float | None
    interconnect_gbs: float | None
    power_w: float | None
    price_usd_hour: Price | None
    launch_us: float | None
    sources: tuple[Source, ...]
    mxu: int | None = None
    cuda: Cuda | None = None

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise UserError(f"{self.name}: unknown kind {self.kind!r} (choices: {', '.join(KINDS)})")
        told = {key for source in self.sources for key in source.of}
        given = {f.name for f in fields(self) if getattr(self, f.name) is not None}
        if unsourced := sorted(given - told - {"name", "kind", "released", "sources"}):
            raise UserError(f"{self.name}: no source for {', '.join(unsourced)}")
        if unknown := sorted(told - {f.name for f in fields(self)}):
            raise UserError(f"{self.name}: a source is of {unknown[0]!r}, which is no key")
        if wrong := [source.confidence for source in self.sources if source.confidence not in CONFIDENCE]:
            raise UserError(f"{self.name}: unknown confidence {wrong[0]!r} (choices: {', '.join(CONFIDENCE)})")

    def machine(self, reach: float = 1.0) -> Machine:
        """As a roofline sees it. reach: share of its peaks that programs get; 1 is the bound that none can pass.

        At the bound kernels start at once and nothing is padded: those are costs, not laws.
        """
        tall, deep, wide = TILES[self.kind]
        tile = (tall, self.mxu or deep, self.mxu or wide)
        launch = 1e-6 * (self.launch_us or LAUNCH_US[self.kind])
        if reach == 1:
            tile, launch = (1, 1, 1), 0.0
        return Machine(
            self.name,
            {dtype: 1e12 * peak * reach for dtype, peak in self.peak_tflops.items()},
            {"other": 1e9 * self.bandwidth_gbs * reach},
            1e9 * self.memory_gb,
            1e6 * (self.on_chip_mb or 0),
            1e9 * (self.on_chip_gbs or 0) * reach,
            launch,
            tile=tile,
            interconnect=1e9 * (self.interconnect_gbs or 0) * reach,
            hop=0.0 if reach == 1 else 1e-6 * HOP_US[self.kind],
        )

    @property
    def dtype(self) -> str | None:
        """What float products run in, the first of `PREFERRED` that it multiplies; None: it multiplies no floats."""
        return next((dtype for dtype in PREFERRED if dtype in self.peak_tflops), None)


def load_device(name: str, folder: Path = FOLDER) -> Device:
    """The device of conf/hardware/NAME.yaml. Raises UserError with the nearest name."""
    path = folder / f"{name}.yaml"
    if not path.exists():
        near = get_close_matches(name, names(folder), 1)
        hint = f"did you mean {near[0]}? " if near else ""
        raise UserError(f"unknown device {name!r} ({hint}choices: {', '.join(names(folder))})")
    return read_device(read_params(path), str(path))


def read_device(row: Mapping[str, Any], where: str) -> Device:
    """Raises UserError for unknown or missing keys, and for figures without a source."""
    if not isinstance(row.get("sources"), list):
        raise UserError(f"{where}: sources must be a list")
    sources = tuple(build(Source, source, f"{where}.sources") for source in row["sources"])
    price, cuda = row.get("price_usd_hour"), row.get("cuda")
    made = {**row, "sources": sources, "price_usd_hour": price and build(Price, price, f"{where}.price_usd_hour"),
            "cuda": cuda and build(Cuda, cuda, f"{where}.cuda")}  # fmt: skip
    return build(Device, made, where)


def known_chip(chip: str, folder: Path = FOLDER) -> str | None:
    """Which device a chip is, by what its driver calls it (`NVIDIA H200`, `TPU v6 lite`); None: none of these."""
    words = (
        re.sub(r"[^a-z0-9]+", " ", chip.lower()).replace(" lite", "e").replace("geforce ", "").replace("rtx ", "rtx")
    )
    known = {name.replace("_", " "): name for name in names(folder)}
    return next((name for said, name in known.items() if f" {said} " in f" {words} "), None)


def names(folder: Path = FOLDER) -> list[str]:
    return sorted(path.stem for path in folder.glob("*.yaml"))


def slug(device: str) -> str:
    """`NVIDIA H200, 570.1, ...` -> `nvidia-h200`, a CPU with its cores: a file's name."""
    words = device.split(", ")
    known = words[:1] if words[0].lower().startswith(("nvidia", "tpu")) else words[:2]
    return re.sub(r"[^a-z0-9]+", "-", " ".join(known).lower().replace("(r)", "").replace("(tm)", "")).strip("-")
