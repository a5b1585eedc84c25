"""Where a variant could run, how fast it would be there, and how that is known: the tiers of evidence.

- `measured`: points of `make bench` on that host (reports/hardware/). Where a demand's tokens are more than the bench's, the
  roofline of the host's peaks says what attention to the rest adds: `extended`.
- `modelled`: the roofline of a device of conf/hardware at a share of its peaks, for the `jax` engine as it is.

Whether a program fits a chip that is not here is what `compiled` says, the third tier; it has no times, but what it refused
is no place. Not covered: several variants on one device, links between devices.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tradewind.compression.rules import read_rules
from tradewind.files import read_json
from tradewind.hardware.device import Price, known_chip, load_device, slug
from tradewind.hardware.peaks import read_peaks
from tradewind.hardware.roofline import Storage, cache_bytes, decode, max_rows, prefill, weight_bytes
from tradewind.hardware.storage import storage
from tradewind.load.prices import CORES, PRICE
from tradewind.model.config import DecoderConfig
from tradewind.planning.plan import fitted
from tradewind.planning.simulation import ServiceTimes

MEASURED, EXTENDED, MODELLED = "measured", "extended", "modelled"
TIERS = (MEASURED, EXTENDED, MODELLED)
"""From the surest."""
CHUNKS, ROWS = (16, 64, 128, 256), (1, 2, 4, 8)
"""Of the points that modelled service times are fitted to."""
CORE_WATTS = 22.5
"""Assumed of a core of a server that has no meter; see `tradewind.hardware.energy`."""


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
    """A device with an engine. price: US dollars an hour. watts: while it works; None: nobody says. needs: bytes of memory
    that weights and caches of a demand take. joules: a token decoded, where a meter told. threads: that times are of; 0: the
    engine has no such choice."""

    device: str
    engine: str
    tier: str
    price: float
    watts: float | None
    needs: float
    times: ServiceTimes
    joules: float | None = None
    threads: int = 0


@dataclass(frozen=True)
class NoPlace:
    """A device that a variant cannot be planned for, and why."""

    device: str
    why: str


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


def measured(
    model: Model, reports: Path, context: int, rows: int, only: str | None = None
) -> Iterator[Place | NoPlace]:
    """Each host (or that of slug `only`) and engine that the variant was benched on. context: tokens that a sequence comes
    to, rows: at once."""
    for host, part in benches(reports):
        points = [row for row in part["points"] if row["variant"] == model.name]
        if not points or only not in (None, host["slug"]):
            continue
        priced = _priced(host, part)
        if isinstance(priced, NoPlace):
            yield priced
            continue
        device, price, watts = priced
        kept = model.storage(part["name"], part["dtype"])
        prefills = [(row["tokens"], row["seconds"]) for row in points if row["program"] == "prefill"]
        steps = [(row["rows"], row["seconds"]) for row in points if row["program"] == "decode"]
        tier = MEASURED if context <= max(row["context"] for row in points) else EXTENDED
        if tier == EXTENDED:
            prefills, steps = _extended(model, kept, part, points, context)
        joules = part["variants"][model.name].get("joules_per_token")
        threads = part["plan"]["threads"] if part["name"] == "ort" else 0
        yield Place(device, part["name"], tier, price, watts, needed(model, kept, context, rows),
                    fitted(prefills, steps).times, joules and joules["value"], threads)  # fmt: skip


def _priced(host: Mapping[str, Any], part: Mapping[str, Any]) -> tuple[str, float, float | None] | NoPlace:
    """Name, price and watts of what an engine ran on: a device of conf/hardware, or so many cores."""
    cores, chip = host["host"]["cores"], part["chip"]
    if chip == host["host"]["processor"]:
        return slug(f"{chip}, {cores} cores"), PRICE * cores / CORES, CORE_WATTS * cores
    if (name := known_chip(chip)) is None:
        return NoPlace(slug(chip), "measured, but no file of conf/hardware says its price")
    device = load_device(name)
    if device.price_usd_hour is None:
        return NoPlace(slug(chip), f"conf/hardware/{name}.yaml says no price")
    return slug(chip), _middle(device.price_usd_hour), device.power_w


def _extended(
    model: Model, kept: Storage, part: Mapping[str, Any], points: list[Mapping[str, Any]], context: int
) -> tuple[list[tuple[int, float]], list[tuple[int, float]]]:
    """Points with what attending to a longer context adds: of steps, to all of it; of prompts, to half of it, as the mean
    token of a long prompt does."""
    machine = read_peaks(part["peaks"]).machine(part["chip"], float("inf"))
    prefills, steps = [], []
    for row in points:
        if row["program"] == "decode":
            far, near = (
                decode(model.shape, kept, machine, row["rows"], seen).seconds for seen in (context, row["context"])
            )
            steps.append((row["rows"], row["seconds"] + max(0.0, far - near)))
        else:
            past = max(0, context // 2 - row["tokens"] // 2)
            far, near = (prefill(model.shape, kept, machine, row["tokens"], seen).seconds for seen in (past, 0))
            prefills.append((row["tokens"], row["seconds"] + far - near))
    return prefills, steps


def modelled(
    model: Model, name: str, reach: float, context: int, rows: int, refused: Mapping[str, int]
) -> Place | NoPlace:
    """By the `jax` engine, in the dtype that it takes: float32 on cores, where weights are widened to it, else bfloat16.
    refused: of `refused_by_compiler`."""
    device = load_device(name)
    dtype = "float32" if device.kind in ("cpu", "soc") else "bfloat16"
    if device.price_usd_hour is None:
        return NoPlace(name, "nobody says a price")
    if dtype not in device.peak_tflops:
        return NoPlace(name, f"it multiplies no {dtype}, which engine jax takes there")
    if name in refused and model.shape.num_parameters >= refused[name]:
        return NoPlace(name, "the decode step does not fit, says its compiler")
    kept, machine = replace(model.storage("jax", dtype), compute={"other": dtype}), device.machine(reach)
    if (most := max_rows(model.shape, kept, machine, context)) < rows:
        return NoPlace(name, f"{machine.memory / 1e9:g} GB hold {most} x {context} tokens of {model.name}, not {rows}")
    prefills = [(size, prefill(model.shape, kept, machine, size, context // 2).seconds) for size in CHUNKS]
    steps = [(many, decode(model.shape, kept, machine, many, context).seconds) for many in ROWS]
    return Place(name, "jax", MODELLED, _middle(device.price_usd_hour), device.power_w,
                 needed(model, kept, context, rows), fitted(prefills, steps).times)  # fmt: skip


def everywhere(
    known: Mapping[str, Model], reports: Path, devices: Sequence[str], reach: float, context: int, rows: int
) -> tuple[dict[str, list[Place]], dict[str, str]]:
    """Places of each variant; and devices that are none for at least one, each with a reason. devices: of conf/hardware, and
    MEASURED, which stands for every host that was."""
    refused, found = refused_by_compiler(reports), dict[str, list[Place | NoPlace]]()
    for name, model in known.items():
        found[name] = [*measured(model, reports, context, rows)] if MEASURED in devices else []
        found[name] += [modelled(model, one, reach, context, rows, refused) for one in devices if one != MEASURED]
    left_out = {one.device: one.why for rest in found.values() for one in rest if isinstance(one, NoPlace)}
    return {name: [one for one in rest if isinstance(one, Place)] for name, rest in found.items()}, left_out


def refused_by_compiler(reports: Path) -> dict[str, int]:
    """Device -> parameters of a model whose decode step one chip of it does not hold (tier `compiled`)."""
    path = reports / "hardware" / "compiled.json"
    found = read_json(path) if path.is_file() else {"programs": []}
    return {row["device"]: found["parameters"] for row in found["programs"]
            if row["program"] == "decode" and row["chips"] == 1 and not row["fits"]}  # fmt: skip


def needed(model: Model, kept: Storage, context: int, rows: int) -> float:
    """Bytes of weights, and of `rows` caches of `context` tokens."""
    return weight_bytes(model.shape, kept) + rows * cache_bytes(model.shape, kept, context)


def _middle(price: Price) -> float:
    """Of the cheapest and the dearest offer, the geometric mean."""
    return (price.low * price.high) ** 0.5
