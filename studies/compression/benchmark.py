"""Speed and memory of one variant of the study, in turns with an anchor that every variant is measured beside.

    python -m studies.compression.benchmark student-int4-qat

The machine drifts between stages: a rate divided by the anchor's of the same minutes, times the anchor's over all stages, is
what the frontier shows. Results: reports/studies/compression/benchmark/NAME.json and a run record.
"""

import sys

from studies.compression.places import STUDY, VARIANTS, plan
from tradewind.config import build, run, stage_params
from tradewind.evaluation.results import write_speed
from tradewind.evaluation.speed import SpeedPlan, measure
from tradewind.evaluation.variant import load_manifest


def main() -> None:
    params = stage_params("benchmark")
    context = {key: params.pop(key) for key in ("profile", "seed")}
    speed, anchor = build(SpeedPlan, params), plan()["anchor"]
    for name in sys.argv[1:]:
        manifest = load_manifest(VARIANTS, name)
        found = measure({one: VARIANTS / one for one in dict.fromkeys((name, anchor))}, speed, context["seed"])
        tags = {"engine": speed.engine, "precision": manifest["precision"]}
        beside = {"variant": anchor, "metrics": {m.name: m.value for m in found[anchor]}}
        write_speed(name, found[name], params | context, tags, study=STUDY, anchor=beside)


if __name__ == "__main__":
    run(main)
