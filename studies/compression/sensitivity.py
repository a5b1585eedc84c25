"""What rounding one kind of matrix alone to int4 costs: the student on validation conversations.

    python -m studies.compression.sensitivity

Weights alone, in float32 products. Results: reports/studies/compression/sensitivity.json.
"""

from studies.compression.places import REPORTS, RUNS, STUDY, model_folder, plan
from tradewind import host
from tradewind.compression.calibration import CalibrationConfig, calibration_rows
from tradewind.compression.sensitivity import sensitivity
from tradewind.config import build, run, stage_params
from tradewind.files import write_json
from tradewind.model.tokenizer import Tokenizer
from tradewind.model.weights import load_hf
from tradewind.tracking import Measurement, git_commit, record_run

TEXT, MODEL, DTYPE = "artifacts/corpus/validation.jsonl", "student", "int4"
FORMULA = "mean KL to the float weights over every token of the rows, padding left out, with this kind alone in {}"


def main() -> None:
    settings, seed = plan()["sensitivity"], stage_params("evaluate")["seed"]
    config, flat = load_hf(model_folder(MODEL))
    rows = build(CalibrationConfig, settings, "sensitivity")
    batches, named = calibration_rows(TEXT, Tokenizer.load(model_folder(MODEL)), rows, seed)
    kinds = sensitivity(config, flat, batches, DTYPE)
    path = RUNS / f"{STUDY}-sensitivity-{MODEL}.json"
    with record_run(
        stage="sensitivity", question=STUDY, variant=f"{MODEL}-{DTYPE}", params=settings, path=path
    ) as made:
        for kind, row in kinds.items():
            made.log(Measurement(f"kl_all_{kind}", row["kl_all"], "nat", named["tokens"], None, FORMULA.format(DTYPE)))
    head = {"device": host.device(), "git_commit": git_commit(), "run_id": made.run_id, "variant": MODEL}
    write_json(REPORTS / "sensitivity.json", {**head, "dtype": DTYPE, "text": named, "kinds": kinds})
    worst = max(kinds, key=lambda kind: kinds[kind]["kl_all"])
    print(f"sensitivity: {worst} costs the most, KL {kinds[worst]['kl_all']:.4f}")


if __name__ == "__main__":
    run(main)
