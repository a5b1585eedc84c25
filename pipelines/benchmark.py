"""Stage `benchmark`: speed and memory of the named variants, interleaved: `python pipelines/benchmark.py
teacher-int8`."""

import sys
from pathlib import Path

from tradewind.config import build, run, stage_params
from tradewind.evaluation.results import write_speed
from tradewind.evaluation.speed import SpeedPlan, measure
from tradewind.evaluation.variant import load_manifest

VARIANTS = Path("artifacts/variants")


def main() -> None:
    params = stage_params("benchmark")
    context = {key: params.pop(key) for key in ("profile", "seed")}
    plan = build(SpeedPlan, params)
    manifests = {name: load_manifest(VARIANTS, name) for name in sys.argv[1:]}
    measured = measure({name: VARIANTS / name for name in manifests}, plan, context["seed"])
    for name, manifest in manifests.items():
        tags = {"engine": plan.engine, "precision": manifest["precision"]}
        write_speed(name, measured[name], params | context, tags)


if __name__ == "__main__":
    run(main)
