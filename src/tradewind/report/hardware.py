"""Notebook 4's sections: what was measured, compiled and modelled, each in columns of its own.

From reports/hardware and reports/studies/hardware; a report that is not there is one line with its command.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from tradewind.files import read_json
from tradewind.hardware.compiled import table as compiled_table
from tradewind.hardware.device import load_device, names
from tradewind.report.markdown import origin, source, table
from tradewind.report.readme import Reports
from tradewind.report.serving import found, missing, section

COMPILED, TRIP = "hardware/compiled", "studies/hardware/trip"
NOTHING = "*Not measured yet: `make bench` writes `reports/hardware/`.*\n"
WORST = 5
"""Points with the largest errors that are shown."""
LIMITS = {"median": 0.20, "worst": 0.40, "trip": 0.20}
"""What the roofline's and the round trip's errors were to be at most."""


def devices(reports: Reports) -> str:
    """What others say of devices: conf/hardware, with sources there."""
    rows = []
    for name in names():
        one = load_device(name)
        price = one.price_usd_hour
        cells = (
            one.peak_tflops.get("bfloat16") or one.peak_tflops.get("float16"),
            one.memory_gb,
            one.bandwidth_gbs,
            one.power_w,
        )
        rows.append([one.name, *("-" if cell is None else f"{cell:,g}" for cell in cells),
                     f"{price.low:.2f} to {price.high:.2f}" if price else "-"])  # fmt: skip
    return table(["device, as claimed", "16-bit TFLOP/s, dense", "memory GB", "GB/s", "W", "USD/h"], rows)


def hosts(reports: Reports) -> Iterator[Mapping[str, Any]]:
    """Every host that was measured, by name."""
    for path in sorted((reports.folder / "hardware").glob("*.json")):
        data = read_json(path)
        if data.get("tier") == "measured":
            yield data


def measured(reports: Reports) -> str:
    """A line for each variant, engine and host: the longest prompt, one row, and most rows."""
    parts = []
    for host in hosts(reports):
        rows, head = list[list[str]](), list[str]()
        for engine, part in host["engines"].items():
            plan = part["plan"]
            wanted = (("prefill", max(plan["prompts"])), ("decode", 1), ("decode", max(plan["rows"])))
            head = [f"prefill {wanted[0][1]}", "decode, 1 row", f"decode, {wanted[2][1]} rows"]
            for variant, whole in part["variants"].items():
                points = {(row["program"], size(row)): row for row in part["points"] if row["variant"] == variant}
                shown = [points[key] for key in wanted]
                joules = whole.get("joules_per_token")
                rates, shares = (
                    [f"{row['tokens_per_s']:,.0f}" for row in shown],
                    [f"{row['utilization']:.0%}" for row in shown],
                )
                last = [f"{whole['peak_rss_bytes'] / 1e6:,.0f}", f"{joules['value']:.2f}" if joules else "-"]
                rows.append([f"{variant}, {engine}", *rates, *shares, *last])
        columns = [
            *(f"{one}, tok/s" for one in head),
            *(f"share of peak, {one}" for one in head),
            "peak RSS MB",
            "J/token",
        ]
        parts.append(table(["variant, engine", *columns], rows) + source(host))
    return "\n".join(parts) or NOTHING


def size(row: Mapping[str, Any]) -> int:
    """What tells a point of a program: tokens of a prompt, rows of a step."""
    return int(row["tokens"] if row["program"] == "prefill" else row["rows"])


def roofline(reports: Reports) -> str:
    """How far the roofline is from what was measured: by host, engine and program, and the worst points."""
    rows, points = [], []
    for host in hosts(reports):
        for engine, part in host["engines"].items():
            wrong = part["errors"]
            good = wrong["median"] <= LIMITS["median"] and wrong["worst"] <= LIMITS["worst"]
            rows.append([f"{host['slug']}, {engine}", f"{wrong['n']}", f"{wrong['median']:.0%}", f"{wrong['worst']:.0%}",
                         f"{wrong['bias']:+.0%}", "yes" if good else "no"])  # fmt: skip
            points += [(abs(row["error"]), host["slug"], row) for row in part["points"]]
    if not rows:
        return NOTHING
    goal = f"median at most {LIMITS['median']:.0%}, worst {LIMITS['worst']:.0%}"
    worst = "; ".join(
        f"{row['variant']} ({row['engine']}), {row['program']} {size(row)}: {row['error']:+.0%}"
        for _, _, row in sorted(points, key=lambda point: -point[0])[:WORST]
    )
    head = ["host, engine", "points", "median error", "worst", "bias", goal]
    return table(head, rows) + f"\nFarthest off: {worst}.\n"


def compiled(data: Mapping[str, Any]) -> str:
    return compiled_table(data["programs"]) + f"\n{origin(data) or 'compiled'}; model {data['model']}.\n"


def trip(data: Mapping[str, Any]) -> str:
    """The plan for a host, deployed there: predicted beside measured."""
    chosen, asked, rows = data["chosen"], data["asked"]["slo"], []
    for name, error in data["errors"].items():
        figures = [f"{data[side][name]:.2f}" for side in ("predicted", "measured")]
        rows.append(
            [name.replace("_", " "), *figures, f"{error:+.0%}", "yes" if abs(error) <= LIMITS["trip"] else "no"]
        )
    told = (
        f"\nAsked: {asked}; chosen: {chosen['variant']} by {chosen['engine']}, {chosen['replicas']} replica, at "
        f"{data['rate']:.2f} requests/s, Poisson.\n"
    )
    return table(["", "predicted", "measured", "error", f"within {LIMITS['trip']:.0%}"], rows) + told + source(data)


def _compiled(reports: Reports) -> str:
    data = found(reports, COMPILED)
    return missing("studies/hardware/compiled") if data is None else compiled(data)


SECTIONS = {
    "hardware_devices": devices,
    "hardware_measured": measured,
    "hardware_roofline": roofline,
    "hardware_compiled": _compiled,
    "hardware_trip": section(TRIP, trip),
}
