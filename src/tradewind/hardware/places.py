"""Where a variant could run, how fast it would be there, and how that is known: the tiers of evidence.

- `measured`: points of `make bench` on that host (reports/hardware/).
- `modelled`: the roofline of a device of conf/hardware at a share of its peaks.

Whether a program fits a chip that is not here is what `compiled` says, the third tier; it has no times.
Not covered: several variants on one device, links between devices.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tradewind.compression.rules import read_rules
from tradewind.errors import UserError
from tradewind.files import read_json
from tradewind.hardware.device import Device, load_device
from tradewind.hardware.roofline import Storage, decode, max_rows, prefill
from tradewind.hardware.storage import storage
from tradewind.load.prices import PRICE
from tradewind.model.config import DecoderConfig
from tradewind.planning.plan import fitted
from tradewind.planning.simulation import ServiceTimes

MEASURED, MODELLED = "measured", "modelled"
CHUNKS, ROWS = (16, 64, 128, 256), (1, 2, 4, 8)
"""Of the points that modelled service times are fitted to."""
HOST_WATTS = 45.0
"""Assumed of two cores of a server that has no meter; see `tradewind.hardware.energy`."""


@dataclass(frozen=True)
class Model:
    """A variant as far as hardware is concerned. rules: of its recipe, as rows."""

    name: str
    shape: DecoderConfig
    rules: tuple[Mapping[str, str], ...]

    def storage(self, engine: str, dtype: str = "bfloat16") -> Storage:
        return storage(self.name, read_rules(self.rules), engine, dtype)


@dataclass(frozen=True)
class Place:
    """A device with an engine. price: US dollars an hour. watts: while it works. joules: a token, where a meter told."""

    device: str
    engine: str
    tier: str
    price: float
    watts: float
    memory: float
    times: ServiceTimes
    joules: float | None = None


def models(reports: Path) -> dict[str, Model]:
    """Of the variants that were benched on any host."""
    found = {}
    for _, engine in benches(reports):
        for name, row in engine["variants"].items():
            found[name] = Model(name, DecoderConfig(**row["shape"]), tuple(row["rules"]))
    return found


def known_f1(reports: Path) -> dict[str, float]:
    """Answer F1 by variant, of the compression study."""
    path = reports / "compression.json"
    rows = read_json(path)["variants"] if path.is_file() else {}
    return {name: row["answer_f1"] for name, row in rows.items() if row.get("answer_f1") is not None}


def server_overhead(reports: Path) -> tuple[float, float]:
    """Seconds that a server adds to a first text and to each token, as `benchmarks.planning` measured; else none."""
    path = reports / "benchmarks" / "planning.json"
    service = read_json(path).get("1", {}).get("service") if path.is_file() else None
    return (service["times"]["overhead"], service["token_overhead_s"]) if service else (0.0, 0.0)


def benches(reports: Path) -> Iterator[tuple[Mapping[str, Any], Mapping[str, Any]]]:
    """Each host's file with each of its engines."""
    for path in sorted((reports / "hardware").glob("*.json")):
        host = read_json(path)
        if host.get("tier") == MEASURED:
            for name, part in host["engines"].items():
                yield host, part | {"name": name}


def measured(model: Model, reports: Path) -> Iterator[Place]:
    """Each host and engine that the variant was benched on."""
    for host, part in benches(reports):
        points = [row for row in part["points"] if row["variant"] == model.name]
        if points:
            prefills = [(row["tokens"], row["seconds"]) for row in points if row["program"] == "prefill"]
            steps = [(row["rows"], row["seconds"]) for row in points if row["program"] == "decode"]
            joules = part["variants"][model.name].get("joules_per_token")
            yield Place(host["slug"], part["name"], MEASURED, PRICE, HOST_WATTS, 2**30 * host["host"]["memory_gib"],
                        fitted(prefills, steps).times, joules and joules["value"])  # fmt: skip


def modelled(model: Model, name: str, reach: float, context: int) -> Place | None:
    """By the `jax` engine in the device's best float dtype; None where the model does not fit or nobody says a price."""
    device = load_device(name)
    if device.price_usd_hour is None or device.power_w is None:
        return None
    kept, machine = device_storage(model, device), device.machine(reach)
    if not max_rows(model.shape, kept, machine, context):
        return None
    prefills = [(size, prefill(model.shape, kept, machine, size).seconds) for size in CHUNKS]
    steps = [(rows, decode(model.shape, kept, machine, rows, context).seconds) for rows in ROWS]
    price = (device.price_usd_hour.low * device.price_usd_hour.high) ** 0.5
    return Place(name, "jax", MODELLED, price, device.power_w, machine.memory, fitted(prefills, steps).times)


def device_storage(model: Model, device: Device) -> Storage:
    """Weights in the recipe's bits, widened to the device's float dtype where they are multiplied."""
    if (dtype := device.dtype) is None:
        raise UserError(f"{device.name} multiplies no floats")
    as_stored = model.storage("ort")
    bits = {kind: min(width, 16.0) for kind, width in as_stored.bits.items()}
    return Storage(model.name, bits, {"other": dtype}, min(as_stored.cache_bits, 16), 16)
