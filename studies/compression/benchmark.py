"""Speed and memory of one variant of the study, in turns with an anchor that every variant is measured beside.

    python -m studies.compression.benchmark student-int4-qat

The machine drifts between stages: a rate divided by the anchor's of the same round, times the anchor's over all stages, is
what the frontier shows, over the rounds of all variants with the same graph.
Results: reports/studies/compression/benchmark/NAME.json and a run record.
"""

import sys
from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any, TypeAlias

from studies.compression.places import STUDY, VARIANTS, plan
from tradewind.config import build, run, stage_params
from tradewind.evaluation.results import write_speed
from tradewind.evaluation.speed import FORMULAS, SpeedPlan, measurements, take_turns
from tradewind.evaluation.variant import load_manifest

Rounds: TypeAlias = Sequence[Mapping[str, float]]

BESIDE = "anchor"
"""A process of its own, of the anchor's variant too."""


def main() -> None:
    params = stage_params("benchmark")
    context = {key: params.pop(key) for key in ("profile", "seed")}
    speed, anchor, seed = build(SpeedPlan, params), plan()["anchor"], context["seed"]
    for name in sys.argv[1:]:
        manifest = load_manifest(VARIANTS, name)
        turns = take_turns({name: VARIANTS / name, BESIDE: VARIANTS / anchor}, speed, seed)
        tags = {"engine": speed.engine, "precision": manifest["precision"]}
        beside = {"variant": anchor, **ratios(turns[name].rounds, turns[BESIDE].rounds)}
        write_speed(name, measurements(*turns[name], speed, seed), params | context, tags, study=STUDY, anchor=beside)


def ratios(ours: Rounds, anchors: Rounds) -> dict[str, dict[str, Any]]:
    """By measure: the anchor's median, and ours over the anchor's, round by round."""
    out: dict[str, dict[str, Any]] = {"metrics": {}, "rounds": {}}
    for key in FORMULAS:
        out["metrics"][key] = median(other[key] for other in anchors)
        out["rounds"][key] = [one[key] / other[key] for one, other in zip(ours, anchors, strict=True)]
    return out


if __name__ == "__main__":
    run(main)
