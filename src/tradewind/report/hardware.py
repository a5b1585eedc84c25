"""Notebook 4's sections: what was measured, compiled and modelled, each in columns of its own.

From reports/hardware and reports/studies/hardware; a report that is not there is one line with its command.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from tradewind.files import read_json
from tradewind.hardware.compiled import table as compiled_table
from tradewind.hardware.device import load_device, names
from tradewind.hardware.places import TIERS
from tradewind.hardware.planner import COLUMNS
from tradewind.report.markdown import origin, source, table
from tradewind.report.readme import Reports
from tradewind.report.serving import found, missing, section

COMPILED, PLANS, TRIP = "hardware/compiled", "studies/hardware/plans", "studies/hardware/trip"
TRAINING = ("finetune", "distill")
"""Runs of the main job that train."""
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
            *(f"predicted share, {one}" for one in head),
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


def plans(data: Mapping[str, Any]) -> str:
    """For each goal a table of each tier's front, the choice in bold, and its reasons; or what stands in the way."""
    parts = []
    for goal in data["goals"]:
        asked = "; ".join(goal[key] for key in ("slo", "load", "budget") if goal.get(key))
        parts.append(f"**`{asked}`**\n")
        if "words" in goal:
            parts.append(f"{goal['words']}.\n")
            continue
        for tier in TIERS:
            rows = [
                _planned(one, one["name"] == goal["chosen"]["name"]) for one in goal["pareto"] if one["tier"] == tier
            ]
            if rows:
                parts.append(table([f"times {tier}", *COLUMNS], rows))
        parts.append("\n".join(f"- {reason}" for reason in goal["reasons"]) + "\n")
    left_out = {name: why for goal in data["goals"] for name, why in goal["left_out"].items()}
    told = "; ".join(f"{name}: {why}" for name, why in sorted(left_out.items()))
    return (
        "\n".join(parts) + f"\nNot planned for: {told}. Modelled at {data['reach']:.0%} of claimed peaks.{source(data)}"
    )


def _planned(one: Mapping[str, Any], chosen: bool) -> list[str]:
    energy = ["-" if one[key] is None else f"{one[key]:.1f}" for key in ("joules", "carbon_g_per_1000")]
    name = f"**{one['name']}**" if chosen else one["name"]
    return [name, f"{one['f1']:.3f}", f"{one['ttft_p95_ms']:.0f}", f"{one['usd_hour']:.3f}", f"{one['usd_per_million']:.2f}",
            *energy, one["joules_tier"]]  # fmt: skip


def training(reports: Reports) -> str:
    """A training step beside the peak of its products, on each host; and the rates of the main job's training runs."""
    steps = []
    for host in hosts(reports):
        for name, one in host["engines"].get("jax", {}).get("training", {}).items():
            low, high = one["interval"]
            shares = (
                f"{one[key]:.0%}" if one[key] is not None else "-" for key in ("utilization", "claimed_utilization")
            )
            steps.append([host["device"], name, f"{one['rows']} x {one['length']}", one["precision"],
                          f"{one['tokens_per_s']:,.0f} [{low:,.0f}, {high:,.0f}]",
                          f"{one['model_flops_per_s'] / 1e9:,.0f}", f"{one['peak_flops_per_s'] / 1e9:,.0f}",
                          *shares])  # fmt: skip
    whole = (table(STEPS, steps) + UTILIZATION + "\n") if steps else ""
    rows, sizes = [], (found(reports, "compression") or {"variants": {}})["variants"]
    for name in TRAINING:
        data = found(reports, f"runs/{name}")
        if data is None or f"{data['variant']}-fp32" not in sizes:
            continue
        rate = next(one["value"] for one in data["measurements"] if one["name"] == "trained_tokens_per_s")
        done = (
            rate * (4 if data["params"].get("method") == "lora" else 6) * sizes[f"{data['variant']}-fp32"]["parameters"]
        )
        rows.append([name, data["variant"], data["params"]["matmul_precision"], f"{rate:,.0f}", f"{done / 1e9:,.0f}"])
    if not rows:
        return (
            whole
            + "*Not measured yet: `make repro` trains, `make study NAME=compression` writes how large models are.*\n"
        )
    return whole + table(["run", "model", "products in", "tokens/s", "model GFLOP/s"], rows) + TRAINED


STEPS = ["host", "model, all weights trained", "rows x tokens", "products in", "tokens/s [95 %]", "model GFLOP/s",
         "fastest product, GFLOP/s", "utilisation of it", "of the claimed peak"]  # fmt: skip
UTILIZATION = "\nTaking turns with a chain of large products. Model FLOPs: 6 a parameter and token, and attention's.\n"
TRAINED = (
    "\nModel FLOPs: 6 a parameter and token, 4 where only adapters learn (no gradients of the weights); attention is left "
    "out, recomputation does not count, and the head counts for every token, though answers alone have a loss.\n"
)


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
    "hardware_training": training,
    "hardware_plans": section(PLANS, plans),
    "hardware_trip": section(TRIP, trip),
}
