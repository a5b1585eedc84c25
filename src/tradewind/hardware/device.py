"""Devices as data: one file each in conf/hardware/, every figure with the source and the day that it was looked up.

Figures are vendors' or others' claims; what a machine at hand reaches has to be measured.
Not covered: parts of a device (MIG), several in one server, prices of long contracts.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields
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
"""What sizes of a product (rows, inputs, outputs) are padded to: tensor cores' fragments, a TPU's 8 x 128 registers."""
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
    launch_us: to start a kernel. None: nobody trustworthy says. cuda: of NVIDIA's."""

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

        At the bound (reach 1) kernels start at once: launches are a cost, not a law.
        """
        launch = 0.0 if reach == 1 else 1e-6 * (self.launch_us or LAUNCH_US[self.kind])
        return Machine(
            self.name,
            {dtype: 1e12 * peak * reach for dtype, peak in self.peak_tflops.items()},
            {"other": 1e9 * self.bandwidth_gbs * reach},
            1e9 * self.memory_gb,
            1e6 * (self.on_chip_mb or 0),
            1e9 * (self.on_chip_gbs or 0) * reach,
            launch,
            tile=(1, 1, 1) if reach == 1 else TILES[self.kind],
            interconnect=1e9 * (self.interconnect_gbs or 0) * reach,
        )

    @property
    def dtype(self) -> str | None:
        """What float products run in, the first of `PREFERRED` that it multiplies; None: it multiplies no floats."""
        return next((dtype for dtype in PREFERRED if dtype in self.peak_tflops), None)


def load_device(name: str, folder: Path = FOLDER) -> Device:
    """The device of conf/hardware/NAME.yaml. Raises UserError with the nearest names."""
    path = folder / f"{name}.yaml"
    if not path.exists():
        raise UserError(f"unknown device {name!r} (choices: {', '.join(names(folder))})")
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


def names(folder: Path = FOLDER) -> list[str]:
    return sorted(path.stem for path in folder.glob("*.yaml"))
