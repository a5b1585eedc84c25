"""Whether an answer depends on how it was run: the same greedy prompts alone, in batches, joining late, from the prefix
cache, with speculation, through a cluster and after its replicas died, over each variant and engine.

    python -m benchmarks.equivalence [--variant teacher-int8 ...] [--engine ort] [--prompts 200] [--tokens 128]
                                     [--cluster]

Prompts are test questions; answers have a fixed length, so that they run on past what the model was taught. A prompt
alone, one after the other, is the reference. Counted for each way: answers whose tokens differ, and the largest
difference of a token's log-probability before the first token that differs. Results go to
reports/benchmarks/equivalence.json, each variant and engine beside those that are there already.

With --cluster two replicas on Ray Serve answer, as the server's parameters say (prefix cache, drafts), reached as the API
reaches them (`benchmarks.attached`: token ids and log-probabilities as they are, where HTTP would round and print them);
then again while one of the two is killed with -9 in the middle of every batch, whose answers another one goes on with.
Counted then too: replicas lost under a request, and requests that came to another replica in mid-answer. These two ways
are added to those that are there of the same work.

Not covered: sampled answers (their seeds make them functions of the same logits). Engines whose logits depend on how many
tokens a call feeds make no drafts, so speculation is not run over them.
"""

import argparse
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from tqdm import tqdm

from tradewind import host
from tradewind.config import run
from tradewind.engine import ENGINES, load_engine
from tradewind.engine.requests import TERMINAL, Delta, Done, Event, Request, Sink
from tradewind.engine.sampling import SamplingParams
from tradewind.engine.scheduler import Scheduler, SchedulerSettings
from tradewind.errors import UserError
from tradewind.evaluation.questions import questions, stratified
from tradewind.evaluation.variant import load_codec, load_manifest
from tradewind.files import read_json, read_jsonl, write_json
from tradewind.load.faults import Part, kill
from tradewind.tracking import Measurement, git_commit, record_run

if TYPE_CHECKING:
    from benchmarks.attached import Attached

SLOTS, MAX_LEN, ANSWER_S = 8, 1024, 600
PLAIN = SchedulerSettings()
DRAFTED = SchedulerSettings(lookup_tokens=8)


@dataclass(frozen=True)
class Way:
    """How prompts are sent: `together` at most are under way. in_groups: the next group waits for the whole one before,
    otherwise a prompt joins whenever an answer ends. twice: what counts is the second time."""

    together: int
    settings: SchedulerSettings = PLAIN
    in_groups: bool = True
    twice: bool = False


WAYS: Mapping[str, Way] = {
    "alone": Way(1),
    **{f"batch of {count}": Way(count) for count in range(2, SLOTS + 1)},
    "late-joined": Way(SLOTS, in_groups=False),
    "prefix-cached": Way(4, replace(PLAIN, prefix_cache_bytes=64 << 20), twice=True),
    "speculative": Way(1, DRAFTED),
    "speculative, late-joined": Way(SLOTS, replace(DRAFTED, lookup_max_rows=SLOTS), in_groups=False),
}
REPLICAS = 2
THROUGH, AFTER = "through the cluster", "after failover"
BOTH = REPLICAS * SLOTS
"""Answers that fill the cluster."""
KILLED_AT = 0.3
"""Share of a batch's tokens at which a replica is killed."""
WHOLE_S, GLANCE_S = 300.0, 0.02
Rows = dict[str, dict[str, Any]]


class Runner(Protocol):
    """A scheduler, or what stands in its place."""

    def submit(self, request: Request, sink: Sink) -> Any: ...


@dataclass
class Answer:
    """A request's events, and a permit that is given back at its end."""

    permits: threading.Semaphore
    tokens: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    end: Event | None = None

    def __call__(self, event: Event) -> None:
        if isinstance(event, Delta):
            self.tokens += [entry.token for entry in event.logprobs]
            self.logprobs += [entry.logprob or 0.0 for entry in event.logprobs]
        if isinstance(event, TERMINAL):
            self.end = event
            self.permits.release()


def main() -> None:
    parser = argparse.ArgumentParser(description="The same greedy answers, run in every way there is.")
    parser.add_argument("--variant", action="append", help="default: teacher-int8")
    parser.add_argument("--variants", type=Path, default=Path("artifacts/variants"))
    parser.add_argument("--corpus", type=Path, default=Path("artifacts/corpus"))
    parser.add_argument("--engine", default="ort", choices=[name for name in ENGINES if name != "mock"])
    parser.add_argument("--out", type=Path, default=Path("reports/benchmarks/equivalence.json"))
    for option, default in (("prompts", 200), ("tokens", 128), ("threads", 2)):
        parser.add_argument(f"--{option}", type=int, default=default)
    parser.add_argument("--cluster", action="store_true", help="the ways over replicas on Ray Serve, and no other")
    given = parser.parse_args()
    for name in given.variant or ["teacher-int8"]:
        manifest = load_manifest(given.variants, name)
        rows = compare_replicas(name, given) if given.cluster else compare_ways(name, given)
        print(table(f"{name}, {given.engine}", rows))
        params = {"prompts": given.prompts, "tokens": given.tokens, "threads": given.threads}
        kept = read_json(given.out) if given.out.exists() else {}
        same = params | {"weights_digest": manifest["weights_digest"]}
        rows = merged(kept.get(f"{name} {given.engine}", {}), same, rows)
        _log(name, given.engine, rows, params, given.out.parent.parent / "runs")
        entry = {"device": host.device(), "git_commit": git_commit()} | same | {"ways": rows}
        write_json(given.out, kept | {f"{name} {given.engine}": entry})


def merged(entry: Mapping[str, Any], same: Mapping[str, Any], rows: Rows) -> Rows:
    """With the entry's other ways, where it is of the same work on the same weights."""
    others: Rows = entry["ways"] if same.items() <= entry.items() else {}
    return others | rows


def compare_ways(name: str, given: argparse.Namespace) -> Rows:
    requests, rows = requests_of(name, given), Rows()
    reference: list[Answer] = []
    for label, way in WAYS.items():
        answers = alone(name, given, requests, label, way)
        if answers is not None:
            reference = reference or answers
            rows[label] = difference(reference, answers)
    return rows


def requests_of(name: str, given: argparse.Namespace) -> list[Request]:
    codec = load_codec(given.variants / name)
    asked = stratified(questions(list(read_jsonl(given.corpus / "test.jsonl")), codec), given.prompts)
    if len(asked) < given.prompts:
        raise UserError(f"{given.corpus}/test.jsonl has {len(asked)} questions, not {given.prompts}")
    params = SamplingParams(temperature=0, logprobs=0)
    return [Request(q.prompt, given.tokens, params, ignore_eos=True) for q in asked]


def alone(
    name: str, given: argparse.Namespace, requests: Sequence[Request], label: str, way: Way
) -> list[Answer] | None:
    """In one process; None where the engine does not go that way."""
    engine = load_engine(given.variants / name, given.engine, SLOTS, MAX_LEN, given.threads)
    if way.settings.lookup_tokens and not engine.exact_feeds:
        engine.close()
        return None
    codec = load_codec(given.variants / name)
    scheduler = Scheduler(engine, codec, way.settings)  # type: ignore[arg-type] # a Codec of a variant is one
    try:
        return send(scheduler, requests, way, f"{name}, {label}")
    finally:
        scheduler.close()


def compare_replicas(name: str, given: argparse.Namespace) -> Rows:
    """Alone, through a cluster, and through one whose replicas die."""
    from benchmarks.attached import cluster, reached

    requests = requests_of(name, given)
    reference = alone(name, given, requests, "alone", WAYS["alone"])
    assert reference is not None
    args = {"model": name, "variants": str(given.variants.resolve()), "slots": SLOTS, "max_len": MAX_LEN}
    args |= {"engine": given.engine, "threads": given.threads, "ttft_goal_ms": 0}  # nothing is to be refused
    with cluster(args, "--replicas", str(REPLICAS)), reached() as there:
        through = difference(reference, send(there, requests, Way(BOTH, in_groups=False), f"{name}, {THROUGH}"))
        before = there.losses()
        killing = partial(kill_one, there)
        after = difference(reference, send(there, requests, Way(BOTH), f"{name}, {AFTER}", killing))
        lost = {key: count - before[key] for key, count in there.losses().items()}
    return {"alone": difference(reference, reference), THROUGH: through | before, AFTER: after | lost}


def kill_one(there: "Attached", answers: Sequence["Answer"], expected: int) -> None:
    """A replica, when `KILLED_AT` of the expected tokens are there; the next batch waits until another takes its place."""

    known = there.replicas
    _until(lambda: sum(len(one.tokens) for one in answers) >= KILLED_AT * expected, "enough tokens")
    kill(Part.REPLICA)
    _until(lambda: len(there.replicas) >= REPLICAS and bool(there.replicas - known), "another replica")


def _until(there: Callable[[], bool], what: str) -> None:
    latest = time.monotonic() + WHOLE_S
    while not there():
        if time.monotonic() > latest:
            raise UserError(f"no {what} within {WHOLE_S:.0f} s")
        time.sleep(GLANCE_S)


def send(
    scheduler: Runner,
    requests: Sequence[Request],
    way: Way,
    label: str,
    meanwhile: Callable[[Sequence[Answer], int], None] = lambda answers, expected: None,
) -> list[Answer]:
    """One answer a request, in order. meanwhile: called while each group runs, with its answers, and the tokens that they
    will have. Raises UserError for an answer that failed."""
    answers: list[Answer] = []
    for first in tqdm(range(0, len(requests), way.together), desc=label, disable=None) if way.in_groups else (0,):
        group = requests[first : first + way.together] if way.in_groups else requests
        for _ in range(1 + way.twice):
            permits = threading.Semaphore(way.together)
            made = []
            for request in group:
                _permit(permits)
                made.append(Answer(permits))
                scheduler.submit(request, made[-1])
            meanwhile(made, sum(request.max_tokens for request in group))
            for _ in range(way.together):
                _permit(permits)
        if failed := [answer.end for answer in made if not isinstance(answer.end, Done)]:
            raise UserError(f"{label}: an answer ended with {failed[0]}")
        answers += made
    return answers


def _permit(permits: threading.Semaphore) -> None:
    if not permits.acquire(timeout=ANSWER_S):
        raise UserError(f"no answer within {ANSWER_S} s")


def difference(reference: Sequence[Answer], answers: Sequence[Answer]) -> dict[str, Any]:
    """How many answers differ from the reference, and by how much log-probabilities do where the tokens are the same."""
    differing, largest, cached, drafted, right = 0, 0.0, 0, 0, 0
    for want, made in zip(reference, answers, strict=True):
        differing += want.tokens != made.tokens
        same = next((i for i, (a, b) in enumerate(zip(want.tokens, made.tokens, strict=True)) if a != b), None)
        pairs = zip(want.logprobs[:same], made.logprobs[:same], strict=True)
        largest = max([largest, *(abs(a - b) for a, b in pairs)])
        if isinstance(made.end, Done):
            cached += made.end.cached_tokens
            right += made.end.accepted_prediction_tokens
            drafted += made.end.accepted_prediction_tokens + made.end.rejected_prediction_tokens
    return {
        "answers": len(answers),
        "differing": differing,
        "largest_logprob_difference": largest,
        "cached_tokens": cached,
        "drafted_tokens": drafted,
        "accepted_tokens": right,
    }


def _log(name: str, engine: str, rows: Mapping[str, Mapping[str, Any]], params: dict[str, int], runs: Path) -> None:
    path, tags = runs / f"equivalence-{engine}-{name}.json", {"engine": engine}
    with record_run(stage="equivalence", question="serving", variant=name, params=params, tags=tags, path=path) as made:
        for way, row in rows.items():
            label = f"differing_{way.replace(', ', '_').replace(' ', '_').replace('-', '_')}"
            formula = "answers whose tokens are not those of the same prompt alone"
            made.log(Measurement(label, row["differing"], "1", row["answers"], None, formula))


def table(title: str, rows: Mapping[str, Mapping[str, Any]]) -> str:
    head = f"{title}\n{'way':26} {'answers':>8} {'differ':>7} {'logprob':>9} {'cached':>8} {'drafted':>8} {'right':>8}"
    head += f" {'resumed':>8}"
    lines = [
        f"{way:26} {row['answers']:8} {row['differing']:7} {row['largest_logprob_difference']:9.2g} "
        f"{row['cached_tokens']:8} {row['drafted_tokens']:8} {row['accepted_tokens']:8} "
        f"{row.get('resumed', 0):8}"
        for way, row in rows.items()
    ]
    return "\n".join([head, *lines])


if __name__ == "__main__":
    run(main)
