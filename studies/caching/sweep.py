"""The load test `caching` over the mock engine, one thing changed at a time: how often the cache answers, and how well the
simulator says so beforehand.

    python -m studies.caching.sweep

A run has its cold phase, a warm-up of other requests, and its warm phase (see loadtests/caching.py); the simulator plays the
requests of each phase as they were sent. Changed are the exponent of popularity, tenants, churn, time to live and budget.
Results: reports/studies/caching/sweep.json and .png. Not covered: engines that take long, where requests for an answer that
is being made join it (load.py has those).
"""

import statistics
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from tradewind import host
from tradewind.config import run
from tradewind.files import atomic_path, write_json
from tradewind.load.caching import PREDICTED, CachingSettings
from tradewind.load.scenario import LoadSettings, run_scenario
from tradewind.tracking import git_commit, record_run

FOLDER, RUNS = Path("reports/studies/caching"), Path("reports/runs")
SEED = 0
BASE = CachingSettings(questions=1000, warm_requests=3000, cache_mib=1, until="warm")
LOAD = LoadSettings("caching", "mock", "mock", seconds=100, prompt_words=16, answer_tokens=44, rate=100.0, caching=BASE)
"""A tenth of the seconds is each phase's."""
CHANGED: dict[str, tuple[str, tuple[float, ...]]] = {
    "exponent": ("Zipf's exponent", (0.6, 0.8, 1.0, 1.2, 1.4)),
    "tenants": ("tenants, each with questions of its own", (1, 2, 4)),
    "churn": ("chance that two ranks change places, at each request", (0.0, 0.01, 0.1, 1.0)),
    "cache_ttl_s": ("time to live, s", (2.0, 5.0, 15.0, 3600.0)),
}
"""Setting -> what it is, and its values, one of which is BASE's."""


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
    facts = {"device": host.device(), "git_commit": git_commit(), "seed": SEED, "settings": asdict(LOAD)}
    write_json(FOLDER / "sweep.json", facts | {"error": errors(rows), "rows": rows})
    draw(rows, FOLDER / "sweep.png")


def measured(name: str, chosen: CachingSettings) -> dict[str, Any]:
    """Phase -> measured and predicted hit ratio, and the ideal one."""
    outcome = run_scenario(replace(LOAD, caching=chosen), SEED)
    found = {one.name: one for one in outcome.measurements}
    with record_run(
        stage=f"caching-sweep-{name}", question="caching", variant="mock", params=asdict(chosen),
        tags={"scenario": "caching", "engine": "mock"}, path=RUNS / f"caching-sweep-{name}.json",
    ) as made:  # fmt: skip
        for one in outcome.measurements:
            made.log(one)
        return {"run_id": made.run_id} | {
            phase: {
                "requests": found[f"{phase}/hit_ratio"].n,
                "measured": found[f"{phase}/hit_ratio"].value,
                "interval": found[f"{phase}/hit_ratio"].interval,
                "predicted": found[f"{phase}/predicted_hit_ratio"].value,
                "ideal": found[f"{phase}/ideal_hit_ratio"].value,
                "failures": found[f"{phase}/failures"].value,
            }
            for phase in PREDICTED
        }


def errors(rows: list[dict[str, Any]]) -> dict[str, dict[str, float]]:
    """Phase -> of |predicted - measured|, over the distinct runs: median, largest, and their number."""
    out = {}
    for phase in PREDICTED:
        runs = {row["run_id"]: abs(row[phase]["predicted"] - row[phase]["measured"]) for row in rows}
        out[phase] = {"median": statistics.median(runs.values()), "largest": max(runs.values()), "n": len(runs)}
    return out


def line(row: dict[str, Any]) -> str:
    said = (f"{phase} {row[phase]['measured']:.3f}, predicted {row[phase]['predicted']:.3f}" for phase in PREDICTED)
    return f"{row['setting']} {row['value']:g}: hit ratio {'; '.join(said)}"


def draw(rows: list[dict[str, Any]], path: Path) -> None:
    """Hit ratio by each setting, measured and predicted."""
    figure = Figure(figsize=(13, 3.6), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(1, len(CHANGED), sharey=True)
    for axes, (name, (label, _)) in zip(panels, CHANGED.items(), strict=True):
        _panel(axes, [row for row in rows if row["setting"] == name])
        axes.set_xlabel(label, fontsize=9)
    panels[0].set_ylabel("hit ratio (95 % interval)")
    panels[0].legend(fontsize=8)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", dpi=110, metadata={"Software": None})


def _panel(axes: Axes, rows: list[dict[str, Any]]) -> None:
    places = range(len(rows))
    for phase, colour in zip(PREDICTED, ("tab:blue", "tab:orange"), strict=True):
        held = [row[phase] for row in rows]
        low = [one["measured"] - one["interval"][0] for one in held]
        high = [one["interval"][1] - one["measured"] for one in held]
        axes.errorbar(
            places, [one["measured"] for one in held], [low, high], fmt="o", color=colour, capsize=3, label=phase
        )
        axes.plot(places, [one["predicted"] for one in held], "_", color="black", markersize=16)
    axes.plot([], [], "_", color="black", markersize=12, label="predicted")
    axes.set_xticks(places, [f"{row['value']:g}" for row in rows])
    axes.set_ylim(0, 1)
    axes.grid(alpha=0.3)


if __name__ == "__main__":
    run(main)
