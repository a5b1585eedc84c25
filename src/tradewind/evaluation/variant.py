"""Evaluation of one variant, and of the baselines that need no training, as the `evaluate` stage runs them.

A variant is a folder under artifacts/variants; its fp32 parent (and a student's teacher) run once, as references that
are kept outside the stage's outputs and made again where they are missing. Numbers do not depend on whether they were
kept.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tradewind.corpus.prompt import Message
from tradewind.engine import Engine, load_engine
from tradewind.errors import UserError
from tradewind.evaluation.divergence import Comparison, Positions, Recorder, Saved
from tradewind.evaluation.generate import Scored, answers, scored
from tradewind.evaluation.metrics import nats
from tradewind.evaluation.questions import Codec, Question, by_hash, few_shots, questions, stratified
from tradewind.evaluation.scores import (
    Row,
    answer_measurements,
    answer_row,
    divergence_measurements,
    likelihood_measurements,
    teacher_measurement,
)
from tradewind.files import digest, read_json, read_jsonl
from tradewind.tracking import Measurement, home

Sample = Mapping[str, Any]


@dataclass(frozen=True)
class Settings:
    """The parameters of the stage. `questions_per_kind` null takes the whole test set."""

    engine: str
    slots: int
    max_len: int
    threads: int
    max_new_tokens: int
    questions_per_kind: int | None
    answer_positions: int
    prompts: int
    prompt_stride: int
    teacher_questions: int
    shots: int
    shot_tokens: int
    shot_questions_per_kind: int | None

    @property
    def positions(self) -> Positions:
        return Positions(self.answer_positions, self.prompts, self.prompt_stride)

    @property
    def gold_positions(self) -> Positions:
        return Positions(self.answer_positions, prompts=0, prompt_stride=self.prompt_stride)


@dataclass(frozen=True)
class Place:
    """Where the inputs of the stage lie. vocabulary: of a student, its ids in its teacher's; None: they are the same."""

    variants: Path = Path("artifacts/variants")
    corpus: Path = Path("artifacts/corpus")
    vocabulary: Path | None = Path("artifacts/student/vocabulary.json")


@dataclass(frozen=True)
class Result:
    """questions_digest names the samples that were asked: results with the same one may be compared row by row."""

    rows: list[Row]
    measurements: list[Measurement]
    questions_digest: str


def evaluate_variant(name: str, settings: Settings, seed: int, place: Place = Place()) -> Result:
    """Answers, likelihood and divergences of one variant."""
    manifest = load_manifest(place.variants, name)
    codec = load_codec(place.variants / name)
    samples = chosen(read_jsonl(place.corpus / "test.jsonl"), settings.questions_per_kind)
    asked = questions(samples, codec)
    observers = _observers(name, manifest, asked, settings, place)
    rows = _answer(place.variants / name, codec, samples, asked, settings, list(observers.values()))
    found = answer_measurements(rows, seed) + likelihood_measurements(rows, seed)
    for key, observer in observers.items():
        if isinstance(observer, Recorder):
            observer.save(_reference_path(name, manifest, asked, settings))
        elif key == "parent":
            found += divergence_measurements(observer, seed)
        else:
            found.append(teacher_measurement(observer, seed))
    return Result(rows, found, digest(samples))


def few_shot_baseline(name: str, settings: Settings, seed: int, place: Place = Place()) -> Result:
    """The variant `name` with examples from the training split before every question."""
    codec = load_codec(place.variants / name)
    samples = chosen(read_jsonl(place.corpus / "test.jsonl"), settings.shot_questions_per_kind)
    train = read_jsonl(place.corpus / "train.jsonl")
    shots: list[Message] = few_shots(train, settings.shots, settings.shot_tokens, lambda text: len(codec.encode(text)))
    rows = _answer(place.variants / name, codec, samples, questions(samples, codec, shots), settings, [])
    found = answer_measurements(rows, seed) + likelihood_measurements(rows, seed)
    return Result(rows, found, digest(samples))


def passage_baseline(
    settings: Settings, seed: int, say: Callable[[str], str], place: Place = Place()
) -> Result:  # fmt: skip
    """The answer is a function of the passage alone (its first sentence), whatever the question."""
    samples = chosen(read_jsonl(place.corpus / "test.jsonl"), settings.questions_per_kind)
    rows = [answer_row(sample, say(sample["passage"])) for sample in samples]
    return Result(rows, answer_measurements(rows, seed), digest(samples))


def load_manifest(variants: Path, name: str) -> dict[str, Any]:
    """The variant's manifest; an unknown name gives a UserError with the choices."""
    known = sorted(path.parent.name for path in variants.glob("*/manifest.json"))
    if name not in known:
        raise UserError(f"no variant {name!r} in {variants} (choices: {', '.join(known) or 'none yet'})")
    manifest: dict[str, Any] = read_json(variants / name / "manifest.json")
    return manifest


def load_codec(folder: Path) -> Codec:
    from tradewind.model.tokenizer import Tokenizer

    return Tokenizer.load(folder)


def chosen(samples: Sequence[Sample], per_kind: int | None) -> list[Sample]:
    """The samples in file order, or `per_kind` of each kind by the hash of their ids."""
    if per_kind is None:
        return list(samples)
    kept: dict[str, list[str]] = {}
    for sample in sorted(samples, key=lambda s: by_hash(s["id"])):
        kept.setdefault(sample["kind"], []).append(sample["id"])
    wanted = {name for names in kept.values() for name in names[:per_kind]}
    return [sample for sample in samples if sample["id"] in wanted]


def _engine(folder: Path, settings: Settings) -> Engine:
    return load_engine(folder, settings.engine, settings.slots, settings.max_len, settings.threads)


def _keep_prompts(asked: Sequence[Question], settings: Settings) -> frozenset[str]:
    return frozenset(question.id for question in stratified(asked, settings.prompts))


def _answer(
    folder: Path,
    codec: Codec,
    samples: Sequence[Sample],
    asked: Sequence[Question],
    settings: Settings,
    observers: Sequence[Callable[[Scored], None]],
) -> list[Row]:
    """Rows in the order of the samples; observers see every scored question."""
    likelihood: dict[str, float] = {}

    def observe(item: Scored) -> None:
        likelihood[item.question.id] = nats(item.gold_logits, item.question.gold)
        for observer in observers:
            observer(item)

    engine = _engine(folder, settings)
    try:
        keep = _keep_prompts(asked, settings) if observers else frozenset()
        said = answers(engine, scored(engine, asked, keep), settings.max_new_tokens, codec.eos_token_ids, observe)
    finally:
        engine.close()
    return [
        answer_row(
            sample,
            codec.decode(list(said[question.id].tokens)).strip(),
            finished=said[question.id].finished,
            tokens=len(said[question.id].tokens),
            nats=likelihood[question.id],
            gold_tokens=len(question.gold),
            gold_bytes=len(question.answer.encode()),
        )
        for sample, question in zip(samples, asked, strict=True)
    ]


def _observers(
    name: str, manifest: Mapping[str, Any], asked: Sequence[Question], settings: Settings, place: Place
) -> dict[str, Recorder | Comparison]:
    """An fp32 variant that others are compared with is recorded; a quantized one is compared with its parent, a student
    with its teacher."""
    out: dict[str, Recorder | Comparison] = {}
    if parent := manifest["parent"]:
        out["parent"] = Comparison(settings.positions, _parent_reference(parent, asked, settings, place))
    elif _has_children(name, place.variants):
        out["parent"] = Recorder(settings.positions)
    if manifest["model"] not in ("base", "teacher"):
        out["teacher"] = Comparison(
            settings.gold_positions, _teacher_reference(manifest["model"], asked, settings, place)
        )
    return out


def _has_children(name: str, variants: Path) -> bool:
    return any(read_json(path)["parent"] == name for path in variants.glob("*/manifest.json"))


def _parent_reference(name: str, asked: Sequence[Question], settings: Settings, place: Place) -> Saved:
    path = _reference_path(name, load_manifest(place.variants, name), asked, settings)
    if not path.exists():
        _record(
            place.variants / name, asked, _keep_prompts(asked, settings), Recorder(settings.positions), path, settings
        )
    return Saved(path)


def _teacher_reference(student: str, asked: Sequence[Question], settings: Settings, place: Place) -> Saved:
    """The teacher on the student's tokens: gold answers of `teacher_questions` questions."""
    name = "teacher-fp32"
    manifest = load_manifest(place.variants, name)
    whole = range(manifest["config"]["vocab_size"])
    ids = read_json(place.vocabulary)["teacher_ids"] if place.vocabulary else list(whole)
    mapped = [question.mapped(ids) for question in stratified(asked, settings.teacher_questions)]
    path = _reference_path(name, manifest, mapped, settings, student, ids)
    if not path.exists():
        _record(place.variants / name, mapped, frozenset(), Recorder(settings.gold_positions, ids), path, settings)
    return Saved(path)


def _record(
    folder: Path, asked: Sequence[Question], keep: frozenset[str], recorder: Recorder, path: Path, settings: Settings
) -> None:
    engine = _engine(folder, settings)
    try:
        for item in scored(engine, asked, keep):
            recorder(item)
    finally:
        engine.close()
    recorder.save(path)


def _reference_path(
    name: str,
    manifest: Mapping[str, Any],
    asked: Sequence[Question],
    settings: Settings,
    student: str = "self",
    columns: Sequence[int] | None = None,
) -> Path:
    """Named by all that the reference is a function of, and for whom. Older ones of the same variant and purpose are
    removed."""
    key = digest(
        {
            "weights": manifest["weights_digest"],
            "engine": settings.engine,
            "questions": [[q.id, q.prompt, q.gold] for q in asked],
            "positions": [settings.answer_positions, settings.prompts, settings.prompt_stride],
            "columns": columns,
        }
    )
    folder = home() / "references"
    stem = f"{name}.{student}"
    path = folder / f"{stem}.{key}.safetensors"
    for old in folder.glob(f"{stem}.*.safetensors"):
        if old != path:
            old.unlink()
    return path
