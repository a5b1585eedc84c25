"""The load test `caching` over the mock engine, one thing changed at a time: how often the cache answers, and how well the
simulator says so beforehand.

    python -m studies.caching.sweep

A run has its cold phase, a warm-up of other requests, and its warm phase (see loadtests/caching.py); the simulator says the
hit ratio of each twice, as a replay of the requests and as a forecast (see tradewind.load.prediction). Changed are the
exponent of popularity, tenants, churn and time to live. Every cell is run with each of SEEDS: means and their 95 % intervals
(Student's t) are over those, so requests of a run may depend on each other as they like. Results:
reports/studies/caching/sweep.json and .png. Not covered: engines that take long, where requests for an answer that is being
made join it (load.py has those); other budgets than one.
"""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from studies.caching.traces import estimate
from tradewind import host
from tradewind.config import run
from tradewind.files import atomic_path, write_json
from tradewind.load.caching import CachingSettings
from tradewind.load.prediction import PREDICTED
from tradewind.load.scenario import LoadSettings, run_scenario
from tradewind.tracking import Measurement, git_commit, record_run

FOLDER, RUNS = Path("reports/studies/caching"), Path("reports/runs")
SEEDS = (0, 1, 2)
BASE = CachingSettings(
    questions=1000, warm_requests=2000, cache_mib=1, until="warm", assumed_bytes=1553, assumed_s=0.01
)  # fmt: skip
"""Half of 1,000 answers of assumed_bytes fill a MiB, with what an entry takes besides."""
LOAD = LoadSettings("caching", "mock", "mock", seconds=60, prompt_words=16, answer_tokens=44, rate=100.0, caching=BASE)
"""A tenth of the seconds is each phase's: some 600 requests."""
CHANGED: dict[str, tuple[str, tuple[float, ...]]] = {
    "exponent": ("Zipf's exponent", (0.6, 1.0, 1.4)),
    "tenants": ("tenants, each with questions of its own", (1, 4)),
    "churn": ("chance that two ranks change places, at each request", (0.0, 0.1, 1.0)),
    "cache_ttl_s": ("time to live, s", (2.0, 15.0, 3600.0)),
}
"""Setting -> what it is, and its values, one of which is BASE's."""
KINDS = {"replay": "_", "forecast": "x"}
"""Of predictions, and their marks."""


def main() -> None:
    known: dict[CachingSettings, dict[str, Any]] = {}
    rows = []
    for name, (_, values) in CHANGED.items():
        for value in values:
            chosen = replace(BASE, **{name: type(getattr(BASE, name))(value)})
            if chosen not in known:
                known[chosen] = measured(f"{name}-{value:g}" if chosen != BASE else "base", chosen)
            rows.append({"setting": name, "value": value, **known[chosen]})
            print(line(rows[-1]), flush=True)
    facts = {"device": host.device(), "git_commit": git_commit(), "seeds": SEEDS, "settings": asdict(LOAD)}
    write_json(FOLDER / "sweep.json", facts | {"error": errors(rows), "rows": rows})
    draw(rows, FOLDER / "sweep.png")


def measured(name: str, chosen: CachingSettings) -> dict[str, Any]:
    """Of one cell, all seeds."""
    params = asdict(chosen) | {"seeds": SEEDS}
    with record_run(
        stage=f"caching-sweep-{name}", question="caching", variant="mock", params=params,
        tags={"scenario": "caching", "engine": "mock"}, path=RUNS / f"caching-sweep-{name}.json",
    ) as made:  # fmt: skip
        runs = []
        for seed in SEEDS:
            found = run_scenario(replace(LOAD, caching=chosen), seed).measurements
            for one in found:
                made.log(replace(one, name=f"seed {seed}/{one.name}"))
            runs.append({one.name: one for one in found})
        return {"run_id": made.run_id} | {phase: cell(phase, runs) for phase in PREDICTED}


def cell(phase: str, runs: Sequence[Mapping[str, Measurement]]) -> dict[str, Any]:
    """runs: measurements by name, a row for each seed. Means are of the seeds'; requests: the fewest of a seed."""

    def values(name: str) -> list[float]:
        return [run[f"{phase}/{name}"].value or 0.0 for run in runs]

    measured, replayed, forecast = (estimate(values(f"{one}hit_ratio")) for one in ("", "replay_", "forecast_"))
    return {
        "requests": int(min(values("requests"))),
        "measured": measured["mean"],
        "interval": measured["interval"],
        "replay": replayed["mean"],
        "forecast": forecast["mean"],
        "forecast_spread": statistics.fmean(values("forecast_spread")),
        "replay_error": estimate(values("replay_error")),
        "forecast_error": estimate(values("forecast_error")),
        "ideal": statistics.fmean(values("ideal_hit_ratio")),
        "failures": sum(values("failures")),
        "rejected": sum(values("rejected")),
    }


def errors(rows: list[dict[str, Any]]) -> dict[str, dict[str, dict[str, float]]]:
    """Phase -> replay and forecast -> of the cells' |mean predicted - measured|, each cell once: median, largest, number."""
    out: dict[str, dict[str, dict[str, float]]] = {phase: {} for phase in PREDICTED}
    for phase in PREDICTED:
        for kind in KINDS:
            cells = {row["run_id"]: abs(row[phase][f"{kind}_error"]["mean"]) for row in rows}
            held = {"median": statistics.median(cells.values()), "largest": max(cells.values()), "n": len(cells)}
            out[phase][kind] = held
    return out


def line(row: dict[str, Any]) -> str:
    said = (
        f"{phase} {row[phase]['measured']:.3f}, replay {row[phase]['replay']:.3f}, forecast {row[phase]['forecast']:.3f}"
        for phase in PREDICTED
    )
    return f"{row['setting']} {row['value']:g}: hit ratio {'; '.join(said)}"


def draw(rows: list[dict[str, Any]], path: Path) -> None:
    """Hit ratio by each setting, measured and predicted both ways."""
    figure = Figure(figsize=(13, 3.6), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(1, len(CHANGED), sharey=True)
    for axes, (name, (label, _)) in zip(panels, CHANGED.items(), strict=True):
        _panel(axes, [row for row in rows if row["setting"] == name])
        axes.set_xlabel(label, fontsize=9)
    panels[0].set_ylabel("hit ratio (95 % interval over seeds)")
    panels[0].legend(fontsize=8)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", dpi=110, metadata={"Software": None})


def _panel(axes: Axes, rows: list[dict[str, Any]]) -> None:
    places = range(len(rows))
    for phase, colour in zip(PREDICTED, ("tab:blue", "tab:orange"), strict=True):
        held = [row[phase] for row in rows]
        spread = [(one["interval"] or [one["measured"]] * 2)[1] - one["measured"] for one in held]
        axes.errorbar(places, [one["measured"] for one in held], spread, fmt="o", color=colour, capsize=3, label=phase)
        for kind, mark in KINDS.items():
            axes.plot(places, [one[kind] for one in held], mark, color="black", markersize=10)
    for kind, mark in KINDS.items():
        axes.plot([], [], mark, color="black", markersize=10, label=kind)
    axes.set_xticks(places, [f"{row['value']:g}" for row in rows])
    axes.set_ylim(0, 1)
    axes.grid(alpha=0.3)


if __name__ == "__main__":
    run(main)
