"""One variant of the study on the test set, as the stage `evaluate` of the main job does it.

    python -m studies.compression.evaluate student-int4-qat

Results: reports/studies/compression/evaluate/NAME.json, a row for each question beside it, and a run record.
"""

import sys

from studies.compression.places import STUDY, VARIANTS, model_folder
from tradewind.config import build, run, stage_params
from tradewind.evaluation.results import write_result
from tradewind.evaluation.variant import Place, Settings, evaluate_variant, load_manifest


def main() -> None:
    params = stage_params("evaluate")
    context = {key: params.pop(key) for key in ("profile", "seed")}
    settings = build(Settings, params)
    for name in sys.argv[1:]:
        manifest = load_manifest(VARIANTS, name)
        vocabulary = model_folder(manifest["model"]) / "vocabulary.json"
        place = Place(variants=VARIANTS, vocabulary=vocabulary if vocabulary.exists() else None)
        result = evaluate_variant(name, settings, context["seed"], place)
        tags = {"engine": settings.engine, "precision": manifest["precision"]}
        write_result(name, {name: result}, params | context, tags, study=STUDY)


if __name__ == "__main__":
    run(main)
