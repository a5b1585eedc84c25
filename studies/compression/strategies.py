"""Distillation strategies on equal tokens: the initial student trained once by each, judged on text that none saw.

    python -m studies.compression.strategies

All learn from one teacher cache, on the same rows in the same order (on-policy rounds replace a share of them, and begin the
rate's schedule anew). Judged at
the answers' tokens of validation conversations, by what the teacher says there. Results: `strategies.json` among the study's
reports.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from flax import nnx
from tqdm import tqdm

from studies.compression.places import REPORTS, RUNS, STUDY, model_folder, plan
from tradewind import host
from tradewind.compression.distill import DistillConfig, distill
from tradewind.compression.on_policy import Scorer
from tradewind.compression.teacher_cache import TeacherCache, ask_teacher
from tradewind.config import build, run, stage_params
from tradewind.evaluation.bootstrap import ratio_interval
from tradewind.files import read_json, read_jsonl, write_json
from tradewind.model.decoder import DecoderConfig
from tradewind.model.tokenizer import Tokenizer
from tradewind.model.weights import Flat, load_hf, to_model
from tradewind.tracking import Measurement, git_commit, record_run
from tradewind.training.data import draw, pack
from tradewind.training.losses import combine
from tradewind.training.taps import Taps, run_model

INITIAL, TEACHER = "student_init", "teacher"
TRAIN, VALIDATION = "artifacts/corpus/train.jsonl", "artifacts/corpus/validation.jsonl"
FORMULA = (
    "sum over answer tokens of the validation rows / their number; interval by resampling rows; KL over the teacher's top "
    "tokens and one outcome for all others"
)
JUDGES = {"cross_entropy": "cross_entropy", "kl_to_teacher": "logits_kl"}
"""Measure -> metric of the losses."""
BASIS = "kl"
"""The strategy that others are compared with."""
UNTRAINED = "none"
"""Stands among the strategies for the initial student."""


def main() -> None:
    settings, seed = plan()["strategies"], stage_params("evaluate")["seed"]
    config, flat = load_hf(model_folder(INITIAL))
    tokenizer = Tokenizer.load(model_folder(INITIAL))
    teacher_ids = np.asarray(read_json(model_folder(INITIAL) / "vocabulary.json")["teacher_ids"], np.int32)
    scorer = Scorer(to_model(*load_hf(model_folder(TEACHER))), teacher_ids, settings["k"], rows=4)
    taps = Taps(tuple(settings["streams"]), settings["relation_heads"])
    learned = teacher_answers(scorer, tokenizer, TRAIN, settings["tokens"], settings["length"], seed, taps)
    unseen = teacher_answers(scorer, tokenizer, VALIDATION, settings["validation_tokens"], settings["length"], seed)
    judged = {UNTRAINED: (judge(config, flat, unseen), 0.0)}
    for name, own in settings["strategies"].items():
        choice = build(DistillConfig, settings["training"] | own, f"strategies.{name}")
        trained, result = distill(config, flat, learned, choice, seed, scorer=scorer)
        judged[name] = judge(config, trained, unseen), result.tokens_per_s
    beside = {"basis": judged[BASIS][0], "untrained": judged[UNTRAINED][0]}
    rows = [row(name, sums, rate, beside, seed) for name, (sums, rate) in judged.items()]
    path = RUNS / f"{STUDY}-strategies.json"
    with record_run(stage="strategies", question=STUDY, variant=INITIAL, params=settings, path=path) as made:
        for one in rows:
            for key in JUDGES:
                made.log(Measurement(f"{key}_{one['strategy']}", one[key], "nat", unseen.packed.targets,
                                     one[f"{key}_ci"], FORMULA, seed))  # fmt: skip
    head = {"device": host.device(), "git_commit": git_commit(), "run_id": made.run_id, "initial": INITIAL}
    facts = {"trained_tokens": settings["training"]["tokens"], "trained_targets": learned.packed.targets,
             "judged_tokens": unseen.packed.targets, "basis": BASIS}  # fmt: skip
    write_json(REPORTS / "strategies.json", {**head, **facts, "params": settings, "rows": rows})
    best = min(rows, key=lambda one: one["kl_to_teacher"])
    print(f"strategies: {best['strategy']} is nearest to the teacher, KL {best['kl_to_teacher']:.4f}")


def teacher_answers(
    scorer: Scorer, tokenizer: Tokenizer, source: str, tokens: int, length: int, seed: int, taps: Taps | None = None
) -> TeacherCache:
    """What the teacher says about conversations of a file."""
    conversations = [row["messages"] for row in read_jsonl(source)]
    packed = pack(draw(conversations, tokenizer, tokens, length, seed), length)
    return ask_teacher(scorer.teacher, scorer.teacher_ids, packed, scorer.k, scorer.rows, taps)


def judge(config: DecoderConfig, flat: Flat, cache: TeacherCache) -> Mapping[str, np.ndarray]:
    """By measure its sum in nats over each row's answer tokens, and `count` of them."""
    model, strategy = to_model(config, flat), combine({"cross_entropy": 1.0, "logits": 1.0})

    @nnx.jit
    def metrics(model: Any, batch: Any, targets: Any) -> Any:
        return strategy(run_model(model, batch), targets)[1]

    sums: dict[str, list[float]] = {key: [] for key in (*JUDGES, "count")}
    for index in tqdm(range(len(cache.packed)), desc="judge", unit="row", disable=None):
        batch, targets = cache.take(np.asarray([index]))
        found, count = metrics(model, batch, targets), float(targets.weights.sum())
        sums["count"].append(count)
        for key, metric in JUDGES.items():
            sums[key].append(float(found[metric]) * count)
    return {key: np.asarray(values) for key, values in sums.items()}


def row(
    name: str, sums: Mapping[str, np.ndarray], rate: float, beside: Mapping[str, Mapping[str, np.ndarray]], seed: int
) -> dict[str, Any]:
    """Means with intervals, and the KL beyond that of others (`basis`, `untrained`), row by row."""
    out: dict[str, Any] = {"strategy": name, "tokens_per_s": rate}
    for key in JUDGES:
        out[key] = float(sums[key].sum() / sums["count"].sum())
        out[f"{key}_ci"] = ratio_interval(sums[key], sums["count"], seed)
    for other, theirs in beside.items():
        more = sums["kl_to_teacher"] - theirs["kl_to_teacher"]
        out[f"kl_beyond_{other}"] = float(more.sum() / sums["count"].sum())
        out[f"kl_beyond_{other}_ci"] = ratio_interval(more, sums["count"], seed)
    return out


if __name__ == "__main__":
    run(main)
