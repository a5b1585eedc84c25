"""The corpus as files: records, conversations, code tasks and a summary, all appearing at once or not at all.

Everything written is a function of the installed packages and the configuration: no times, no paths of this machine.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tradewind.config import build
from tradewind.corpus.code_tasks import code_tasks
from tradewind.corpus.extract import PackageChoice, counts, extract
from tradewind.corpus.families import SPLITS, assign_families, split_of
from tradewind.corpus.questions import KINDS
from tradewind.corpus.records import Record
from tradewind.corpus.samples import Sample, SampleConfig, make_samples
from tradewind.errors import UserError
from tradewind.files import atomic_path, digest, write_json, write_jsonl

CHARACTERS_PER_TOKEN = 4  # of the base's tokenizer on English documentation, rounded; for the size estimates only


@dataclass(frozen=True, kw_only=True)
class CorpusConfig(SampleConfig):
    """The `corpus` section: which packages, how many samples; `timeout_s` bounds each subprocess of a package.

    `verify_data` is for the pipeline script: whether data/ must be as locked.
    """

    packages: tuple[dict[str, object], ...]
    timeout_s: float
    processes: int
    verify_data: bool

    def choices(self) -> list[PackageChoice]:
        """The package lines; UserError where a line has unknown keys or a package is listed twice."""
        rows = [build(PackageChoice, row, "corpus.packages") for row in self.packages]
        twice = [name for name, count in Counter(row.package for row in rows).items() if count > 1]
        if not rows or twice:
            raise UserError(f"corpus.packages: {f'{twice[0]!r} is listed twice' if twice else 'no package is listed'}")
        return rows


def build_corpus(config: CorpusConfig, folder: str | Path) -> dict[str, object]:
    """Extract, make samples and write `folder`; returns what stands in its summary.json."""
    records = extract(config.choices(), config.timeout_s, config.processes)
    return write_corpus(records, config, folder)


def write_corpus(records: Sequence[Record], config: SampleConfig, folder: str | Path) -> dict[str, object]:
    """Families, samples, code tasks and summary of the given records, written to `folder`."""
    assign_families(records)
    samples = make_samples(records, config)
    sides = {r.family: split_of(r.family, config.validation_share, config.test_share) for r in records}
    tasks = list(code_tasks(records, sides))
    summary = summarize(records, sides, samples, tasks)
    with atomic_path(folder) as temporary:
        temporary.mkdir()
        write_jsonl(temporary / "records.jsonl", [record.to_json() for record in records])
        for split in SPLITS:
            write_jsonl(temporary / f"{split}.jsonl", samples[split])
        write_jsonl(temporary / "code_tasks.jsonl", tasks)
        write_json(temporary / "summary.json", summary)
    return summary


def summarize(
    records: Sequence[Record],
    sides: dict[str, str],
    samples: dict[str, list[Sample]],
    tasks: Sequence[dict[str, object]],
) -> dict[str, object]:
    """Counts per package, kind and split, sizes, and the digest that names the test set."""
    return {
        "objects": len(records),
        "packages": {p: {"objects": n, "version": _version(records, p)} for p, n in sorted(counts(records).items())},
        "object_kinds": dict(sorted(Counter(record.kind for record in records).items())),
        "families": len(sides),
        "splits": dict(sorted(Counter(sides[record.family] for record in records).items())),
        "samples": {split: len(rows) for split, rows in samples.items()},
        "questions": {split: _by_kind(rows) for split, rows in samples.items()},
        "tokens_estimated": {split: sum(map(_tokens, rows)) for split, rows in samples.items()},
        "code_tasks": dict(sorted(Counter(str(task["split"]) for task in tasks).items())),
        "test_digest": digest(samples["test"]),
    }


def _by_kind(rows: Sequence[Sample]) -> dict[str, int]:
    kinds = Counter(kind for row in rows for kind in row["kinds"])
    return {kind: kinds[kind] for kind in KINDS}


def _tokens(row: Sample) -> int:
    return sum(len(message["content"]) for message in row["messages"]) // CHARACTERS_PER_TOKEN


def _version(records: Sequence[Record], package: str) -> str:
    return next(record.version for record in records if record.package == package)
