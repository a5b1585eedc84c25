"""Which policy keeps the right answers: policies x budgets x exponents x churn on drawn traces, over seeds.

Per cell and policy the mean hit ratio and byte hit ratio over seeds, and the difference to `lru` on the same traces, with
95 % intervals (Student's t). Requests of another seed warm the store; sizes are log-normal; budgets are shares of the
bytes of all answers. The policy of the local store is chosen from this. No wall time is measured: it may run beside others.
"""

import argparse
import math
from collections.abc import Sequence
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from scipy.stats import t as student

from tradewind import host
from tradewind.caching.policies import POLICIES
from tradewind.caching.simulate import Replay, entry_bytes, ideal, replay
from tradewind.caching.traces import Answers, Popularity, drawn, sizes
from tradewind.config import run
from tradewind.files import atomic_path, write_json
from tradewind.tracking import Measurement, git_commit, record_run

QUESTIONS, RATE = 1000, 50.0
ANSWERS = Answers(bytes=4096, spread=0.5, seconds=0.5)
BUDGETS = (0.1, 0.25, 0.5)
EXPONENTS = (0.8, 1.0, 1.2)
CHURNS = (0.0, 0.02)
FORMULAS = {
    "hit_ratio": "hits / requests after the warm-up, mean over seeds",
    "byte_hit_ratio": "bytes of hits / bytes of all answers after the warm-up, mean over seeds",
    "over_lru": "hit ratio minus lru's on the same trace, mean over seeds",
}
OUT = Path("reports/studies/caching")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--seeds", type=int, default=10, help="traces for each cell")
    parser.add_argument("--requests", type=int, default=2500, help="of the warm-up, and again counted")
    parser.add_argument("--out", type=Path, default=OUT)
    given = parser.parse_args()
    cells = [cell(*one, given.seeds, given.requests) for one in product(EXPONENTS, CHURNS, BUDGETS)]
    params = {
        "questions": QUESTIONS, "rate": RATE, "answers": vars(ANSWERS), "seeds": given.seeds,
        "requests": given.requests,
    }  # fmt: skip
    means = summary(cells)
    path = given.out / "traces.json"
    with record_run(
        stage="traces", question="caching", params=params, path=given.out.parents[1] / "runs" / "caching-traces.json"
    ) as made:
        for name, row in means.items():
            for figure, value in row.items():
                formula = f"{FORMULAS[figure]}, then over all cells"
                made.log(Measurement(f"{name}_{figure}", value, "1", len(cells), None, formula, 0))
        head = {"device": host.device(), "git_commit": git_commit(), "run_id": made.run_id, "seed": 0}
        write_json(path, {**head, "params": params, "formulas": FORMULAS, "mean": means, "cells": cells})
        draw(cells, given.out / "traces.png")
        made.artifact(path)
        made.artifact(given.out / "traces.png")
    print(lines(cells, means))


def cell(exponent: float, churn: float, budget_share: float, seeds: int, requests: int) -> dict[str, Any]:
    """All policies on the same traces."""
    popularity = Popularity(QUESTIONS, exponent, churn=churn)
    nbytes = sizes(QUESTIONS, ANSWERS, 0)
    budget = int(budget_share * sum(entry_bytes(int(one)) for one in nbytes))
    found: dict[str, list[Replay]] = {name: [] for name in POLICIES}
    for seed in range(seeds):
        warm, counted = (drawn(popularity, requests, RATE, ANSWERS, 2 * seed + part) for part in (1, 2))
        for name in POLICIES:
            found[name].append(replay(warm.then(counted), budget, name, warm_up=requests))
    ratios = {name: [one.hit_ratio for one in runs] for name, runs in found.items()}
    policies = {
        name: {
            "hit_ratio": estimate(ratios[name]),
            "byte_hit_ratio": estimate([one.byte_hit_ratio for one in runs]),
            "coalesced_ratio": estimate([one.coalesced_ratio for one in runs]),
            "over_lru": estimate([a - b for a, b in zip(ratios[name], ratios["lru"], strict=True)]),
        }
        for name, runs in found.items()
    }
    bound = None if churn else ideal(popularity.weights, nbytes, budget)
    return {
        "exponent": exponent, "churn": churn, "budget_share": budget_share, "budget_bytes": budget, "ideal": bound,
        "policies": policies,
    }  # fmt: skip


def estimate(values: Sequence[float]) -> dict[str, Any]:
    """Mean and its 95 % interval; none of a single value."""
    mean, count = float(np.mean(values)), len(values)
    if count < 2:
        return {"mean": mean, "interval": None, "n": count}
    half = float(student.ppf(0.975, count - 1)) * float(np.std(values, ddof=1)) / math.sqrt(count)
    return {"mean": mean, "interval": [mean - half, mean + half], "n": count}


def summary(cells: Sequence[dict[str, Any]]) -> dict[str, dict[str, float]]:
    """Policy -> each figure's mean over the cells."""
    return {
        name: {figure: float(np.mean([one["policies"][name][figure]["mean"] for one in cells])) for figure in FORMULAS}
        for name in POLICIES
    }


def draw(cells: Sequence[dict[str, Any]], path: Path) -> None:
    """Hit ratio by budget; a row for each churn, a column for each exponent."""
    figure = Figure(figsize=(11, 7), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(len(CHURNS), len(EXPONENTS), sharex=True, sharey=True)
    for (row, churn), (column, exponent) in product(enumerate(CHURNS), enumerate(EXPONENTS)):
        chosen = [one for one in cells if (one["churn"], one["exponent"]) == (churn, exponent)]
        _panel(panels[row][column], chosen)
        panels[row][column].set_title(f"exponent {exponent:g}, churn {churn:g}", fontsize=10)
    panels[0][0].legend(fontsize=8)
    figure.supxlabel("budget, share of the bytes of all answers")
    figure.supylabel("hit ratio after the warm-up (95 % interval over seeds)")
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", dpi=110, metadata={"Software": None})


def _panel(axes: Axes, cells: Sequence[dict[str, Any]]) -> None:
    budgets = [one["budget_share"] for one in cells]
    for name in POLICIES:
        found = [one["policies"][name]["hit_ratio"] for one in cells]
        spread = [(one["interval"] or [one["mean"]] * 2)[1] - one["mean"] for one in found]
        axes.errorbar(budgets, [one["mean"] for one in found], spread, label=name, capsize=2, linewidth=1.2)
    if all(one["ideal"] is not None for one in cells):
        axes.plot(budgets, [one["ideal"] for one in cells], "k:", label="ideal")
    axes.set_xscale("log")
    axes.set_xticks(BUDGETS, [f"{one:g}" for one in BUDGETS], minor=False)
    axes.minorticks_off()
    axes.grid(alpha=0.3)


def lines(cells: Sequence[dict[str, Any]], means: dict[str, dict[str, float]]) -> str:
    out = [f"{'exponent':>8} {'churn':>6} {'budget':>7} {'ideal':>6} " + " ".join(f"{name:>10}" for name in POLICIES)]
    for one in cells:
        bound = "-" if one["ideal"] is None else f"{one['ideal']:.3f}"
        ratios = " ".join(f"{one['policies'][name]['hit_ratio']['mean']:10.3f}" for name in POLICIES)
        out.append(f"{one['exponent']:8g} {one['churn']:6g} {one['budget_share']:7g} {bound:>6} {ratios}")
    return "\n".join([*out, *(f"{name}: {row}" for name, row in means.items())])


if __name__ == "__main__":
    run(main)
