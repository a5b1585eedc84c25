"""Stage `evaluate`: one variant, or `baselines`, on the test set: `python pipelines/evaluate.py teacher-int8`."""

import sys
from pathlib import Path
from typing import Any

from tradewind.config import build, run, stage_params
from tradewind.corpus.passages import first_sentence
from tradewind.evaluation.results import write_result
from tradewind.evaluation.variant import Settings, evaluate_variant, few_shot_baseline, load_manifest, passage_baseline

BASELINES = "baselines"


def main() -> None:
    params = stage_params("evaluate")
    context = {key: params.pop(key) for key in ("profile", "seed")}
    settings, seed = build(Settings, params), context["seed"]
    for name in sys.argv[1:]:
        if name == BASELINES:
            _baselines(settings, seed, params | context)
        else:
            result = evaluate_variant(name, settings, seed)
            manifest = load_manifest(Path("artifacts/variants"), name)
            tags = {"engine": settings.engine, "precision": manifest["precision"]}
            write_result(name, {name: result}, params | context, tags)


def _baselines(settings: Settings, seed: int, params: dict[str, Any]) -> None:
    results = {
        "first-sentence": passage_baseline(settings, seed, first_sentence),
        f"base-{settings.shots}-shot": few_shot_baseline("base-fp32", settings, seed),
    }
    write_result(BASELINES, results, params, {"engine": settings.engine, "precision": "fp32"})


if __name__ == "__main__":
    run(main)
