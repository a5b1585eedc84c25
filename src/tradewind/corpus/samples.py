"""Records -> the conversations of train, validation and test, in a fixed order.

1. Families fall on one side each (`families.split_of`); a passage shows records of its own side only.
2. Records are ordered so that any beginning of the training file mixes packages (weights: square root of their size).
3. A training conversation asks several questions of one passage; kinds that were asked least so far go first.
4. A test or validation sample asks one question; kinds come in equal parts, a family is used once where possible.
"""

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from tradewind.corpus.families import split_of
from tradewind.corpus.passages import Shown, brief, show
from tradewind.corpus.phrasings import chance
from tradewind.corpus.prompt import REFUSAL, conversation
from tradewind.corpus.questions import KINDS, Question, asked, content_words, unanswerable, which
from tradewind.corpus.records import Record

Sample = dict[str, Any]
MIN_SECTIONS = 3
_WHICH_EVERY = 7  # one training passage in seven shows several records, so that `which` is as common as other kinds


@dataclass(frozen=True)
class SampleConfig:
    """How many samples of which shape; `test_per_kind` and `validation_per_kind` count samples of each kind."""

    train_conversations: int
    questions_per_conversation: int
    validation_per_kind: int
    test_per_kind: int
    validation_share: float
    test_share: float
    seed: int


def make_samples(records: Sequence[Record], config: SampleConfig) -> dict[str, list[Sample]]:
    """Samples by split: `train` in training order, `validation` and `test` by kind."""
    sides: dict[str, list[Record]] = {"train": [], "validation": [], "test": []}
    for record in records:
        sides[split_of(record.family, config.validation_share, config.test_share)].append(record)
    return {
        "train": _train(sides["train"], config),
        "validation": _exam(sides["validation"], "validation", config.validation_per_kind, config.seed),
        "test": _exam(sides["test"], "test", config.test_per_kind, config.seed),
    }


def eligible(records: Sequence[Record], key: str) -> list[Shown]:
    """The passages with enough sections to ask about."""
    shown = [show(record, order=_first_parameters(record, key)) for record in records if record.kind != "module"]
    return [passage for passage in shown if passage.sections >= MIN_SECTIONS]


def interleave(shown: Sequence[Shown], key: str) -> list[Shown]:
    """An order in which every beginning mixes packages by the square root of their size; hashed within a package."""
    packages: dict[str, list[Shown]] = defaultdict(list)
    for passage in sorted(shown, key=lambda p: chance(key, p.record.id)):
        packages[passage.record.package].append(passage)
    placed = []
    for package, passages in packages.items():
        offset = (chance(key, package) % 1000) / 1000
        placed += [((i + offset) / len(passages) ** 0.5, package, i) for i in range(len(passages))]
    return [packages[package][i] for _, package, i in sorted(placed)]


def _first_parameters(record: Record, key: str) -> list[str]:
    """Which parameters a passage keeps when not all fit: three by hash, so that not only the first are asked for."""
    names = [item.name for item in record.sections.parameters]
    return sorted(names, key=lambda name: chance("keep", key, record.id, name))[:3]


# Training ------------------------------------------------------------------------------------------------------------


def _train(records: Sequence[Record], config: SampleConfig) -> list[Sample]:
    key = f"train{config.seed}"
    shown = _with_scarce(interleave(eligible(records, key), key))
    strangers = _Strangers(records, key)
    neighbours = _Neighbours(records, key)
    used: Counter[str] = Counter(dict.fromkeys(KINDS, 0))
    samples: list[Sample] = []
    for number, passage in enumerate(shown):
        if len(samples) >= config.train_conversations:
            break
        if number % _WHICH_EVERY == _WHICH_EVERY - 1 and (
            several := _several(passage.record, neighbours, strangers, key)
        ):
            text, questions = several
        else:
            text, questions = passage.text, _choose(passage, strangers, used, config.questions_per_conversation, key)
        if questions:
            used.update(question.kind for question in questions)
            samples.append(_sample(f"train-{len(samples):05d}", text, questions))
    return samples


def _with_scarce(shown: list[Shown]) -> list[Shown]:
    """Passages that say what is raised are scarce: one in three comes from among them as long as there are any."""
    scarce = [passage for passage in shown if passage.raises]
    others = [passage for passage in shown if not passage.raises]
    mixed: list[Shown] = []
    for i, passage in enumerate(scarce):
        mixed += [*others[2 * i : 2 * i + 2], passage]
    return mixed + others[2 * len(scarce) :]


def _choose(passage: Shown, strangers: "_Strangers", used: Counter[str], most: int, key: str) -> list[Question]:
    """Up to `most` questions of different kinds, least asked kinds first, in hashed order."""
    options = asked(passage, key)
    options["unanswerable"] = unanswerable(passage, strangers.of(passage.record), key)
    count = most - chance("count", key, passage.record.id) % 2
    chosen: list[Question] = []
    for kind in sorted(options, key=lambda kind: (used[kind], chance("tie", key, passage.record.id, kind))):
        turns = next((t for t in (_turns(q) for q in options[kind]) if _fits(t, chosen)), [])
        if turns and len(chosen) + len(turns) <= count:
            chosen += turns
    return _shuffled(chosen, f"{key}{passage.record.id}")


def _turns(question: Question) -> list[Question]:
    """A multi-turn question brings its earlier turn along."""
    if question.earlier is None:
        return [question]
    text, answer = question.earlier
    return [Question("earlier", text, answer, question.symbols, question.topic), question]


def _fits(turns: list[Question], chosen: list[Question]) -> bool:
    """Whether the turns ask nothing that is asked already: same question, or same answer to the same topic."""
    texts = {question.text for question in chosen}
    facts = {question.answer for question in chosen if question.answerable}
    return bool(turns) and not any(turn.text in texts or turn.answer in facts for turn in turns)


def _shuffled(questions: list[Question], key: str) -> list[Question]:
    """Hashed order in which a follow-up stays right after the turn it refers to."""
    groups: list[list[Question]] = []
    for question in questions:
        if question.earlier is not None and groups and groups[-1][-1].kind == "earlier":
            groups[-1].append(question)
        else:
            groups.append([question])
    groups.sort(key=lambda group: chance("order", key, group[0].text))
    return [question for group in groups for question in group]


def _several(
    target: Record, neighbours: "_Neighbours", strangers: "_Strangers", key: str
) -> tuple[str, list[Question]] | None:
    """A passage of several records: two questions which of them fits, one for which none does, one about a summary."""
    records = neighbours.with_others(target)
    if len(records) < 3:
        return None
    found = [which(records, record, key) for record in sorted(records, key=lambda r: chance("two", key, r.id))]
    questions = [question for question in found if question][:2]
    if not questions:
        return None
    if chance("none fits", key, target.id) % 2 and (none := _none_fits(records, neighbours, key)):
        questions.append(none)
    record = records[chance("about", key, target.id) % len(records)]
    options = asked(Shown(record, brief(record), summary=show(record).summary), key).get("summary", [])
    return "\n\n".join(brief(r) for r in records), _shuffled(questions + options[:1], f"{key}{target.id}")


def _none_fits(
    records: Sequence[Record], neighbours: "_Neighbours", key: str, held_out: bool = False
) -> Question | None:
    """A "which" question about a record that is not shown; its words must not fit what is shown."""
    stranger = neighbours.stranger(records)
    question = which([*records, stranger], stranger, key, held_out) if stranger else None
    return Question("unanswerable", question.text, REFUSAL, (records[0].id,)) if question else None


# Validation and test -------------------------------------------------------------------------------------------------


def _exam(records: Sequence[Record], split: str, per_kind: int, seed: int) -> list[Sample]:
    """`per_kind` samples of every kind (fewer where the records offer fewer), by kind and symbol hash."""
    key = f"{split}{seed}"
    strangers, neighbours = _Strangers(records, key), _Neighbours(records, key)
    shown = interleave(eligible(records, key), key)
    options = {passage.record.id: _exam_options(passage, strangers, neighbours, split, key) for passage in shown}
    offered = Counter(kind for found in options.values() for kind in found)
    chosen: dict[str, list[Sample]] = {}
    families: set[str] = set()
    for kind in sorted(KINDS, key=lambda kind: (offered[kind], kind)):  # scarce kinds choose first
        chosen[kind] = []
        for fresh in (True, False):
            for passage in shown:
                if len(chosen[kind]) >= per_kind or kind not in options[passage.record.id]:
                    continue
                if (passage.record.family in families) == fresh:
                    continue
                families.add(passage.record.family)
                text, question = options[passage.record.id].pop(kind)
                turns = _turns(question)
                chosen[kind].append(_sample(f"{split}-{kind}-{len(chosen[kind]):02d}", text, turns))
    return [sample for kind in KINDS for sample in chosen[kind]]


def _exam_options(
    passage: Shown, strangers: "_Strangers", neighbours: "_Neighbours", split: str, key: str
) -> dict[str, tuple[str, Question]]:
    """One question of each kind about one record; in the test set half of them in held-out wordings."""
    held_out = split == "test" and chance("held out", key, passage.record.id) % 2 == 0
    found = {kind: (passage.text, questions[0]) for kind, questions in asked(passage, key, held_out).items()}
    if none := unanswerable(passage, strangers.of(passage.record), key, held_out):
        found["unanswerable"] = (passage.text, none[0])
    records = neighbours.with_others(passage.record)
    if len(records) >= 3 and (question := which(records, passage.record, key, held_out)):
        found["which"] = ("\n\n".join(brief(record) for record in records), question)
    return found


# Shared --------------------------------------------------------------------------------------------------------------


class _Strangers:
    """Parameter names of a package's other functions: plausible, and not in the passage at hand."""

    def __init__(self, records: Sequence[Record], key: str) -> None:
        self.key = key
        counted: dict[str, Counter[str]] = defaultdict(Counter)
        for record in records:
            counted[record.package].update(item.name for item in record.sections.parameters if len(item.name) > 2)
        self.common = {
            package: [n for n, _ in sorted(c.items(), key=lambda i: (-i[1], i[0]))[:80]]
            for package, c in counted.items()
        }

    def of(self, record: Record) -> list[str]:
        own = record.signature + " ".join(item.name for item in record.sections.parameters)
        names = [name for name in self.common.get(record.package, []) if name not in own]
        return sorted(names, key=lambda name: chance("stranger", self.key, record.id, name))[:4]


class _Neighbours:
    """Records of the same module or package to show beside a record, all of the same split."""

    def __init__(self, records: Sequence[Record], key: str) -> None:
        self.key = key
        self.groups: dict[str, list[Record]] = defaultdict(list)
        for record in records:
            if (
                record.kind in ("function", "class", "method")
                and len(content_words(record.sections.summary, record.name)) >= 3
            ):
                self.groups[record.id.rpartition(".")[0]].append(record)
                self.groups["package:" + record.package].append(record)

    def with_others(self, record: Record) -> list[Record]:
        """The record and two or three others, in hashed order; families differ."""
        if len(content_words(record.sections.summary, record.name)) < 3:
            return [record]
        shown, seen = [record], {record.family}
        for group in (record.id.rpartition(".")[0], "package:" + record.package):
            for other in self._hashed(self.groups[group], record):
                if len(shown) < 3 + chance("size", self.key, record.id) % 2 and other.family not in seen:
                    shown.append(other)
                    seen.add(other.family)
        return sorted(shown, key=lambda r: chance("place", self.key, record.id, r.id))

    def stranger(self, shown: Sequence[Record]) -> Record | None:
        """A record of the same package that is not shown."""
        families = {record.family for record in shown}
        group = self.groups["package:" + shown[0].package]
        return next((r for r in self._hashed(group, shown[0]) if r.family not in families), None)

    def _hashed(self, group: Sequence[Record], record: Record) -> Iterator[Record]:
        """Members of a group from a hashed place on, each once."""
        start = chance("start", self.key, record.id) % max(1, len(group))
        yield from group[start:]
        yield from group[:start]


def _sample(name: str, passage: str, questions: Sequence[Question]) -> Sample:
    last = questions[-1]
    return {
        "id": name,
        "kind": last.kind,
        "kinds": [question.kind for question in questions],
        "symbols": sorted({symbol for question in questions for symbol in question.symbols}),
        "passage": passage,
        "question": last.text,
        "answer": last.answer,
        "answerable": last.answerable,
        "messages": conversation(passage, [(question.text, question.answer) for question in questions]),
    }
