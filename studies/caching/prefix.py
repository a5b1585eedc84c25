"""The prefix KV cache as a cache: what it finds and saves over budgets, and what a restart costs with and without files.

    python studies/caching/prefix.py [--variants-named student-int8 teacher-int8] [--budgets-mib 0 8 32 128]

1. Work: chats of several turns, each about a passage of its own, and single questions that share a passage; all share a
   system prompt. Turns of a chat stay in order, everything else is shuffled. Answers are greedy.
2. One scheduler per budget, each with an engine of its own, in one process. Every request goes to each in turn, alone, in
   an order that rotates: what else the machine does hits all alike. A later turn holds the answer that was given before.
3. The largest budget's scheduler also writes to files. It ends, a new one takes the folder, another begins cold, and both
   get one more turn of every chat.

Per request: TTFT (submit to first text, in process) and the processor seconds of the process meanwhile, which another
process's load does not stretch. All answers must be the same, or the program says so and ends with 1.
Not covered: requests that overlap (see the load tests), other prompts than these, accelerators.
"""

import argparse
import random
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from tqdm import tqdm

from tradewind import host
from tradewind.config import run
from tradewind.engine import load_engine
from tradewind.engine.requests import TERMINAL, Delta, Done, Event, Request
from tradewind.engine.sampling import SamplingParams
from tradewind.engine.scheduler import Scheduler, SchedulerSettings, Snapshot
from tradewind.engine.text import ByteTokenizer, Tokenizer
from tradewind.errors import UserError
from tradewind.files import atomic_path, read_jsonl, write_json
from tradewind.tracking import Measurement, git_commit, record_run

SYSTEM = (
    "You answer questions about the Python packages that are installed here. Answer from the documentation given, briefly "
    "and to the point. Say so where the documentation does not tell. Show code only where it was asked for, and name every "
    "function by its full path."
)
QUESTIONS = (
    "In one sentence, what is it for?",
    "Which arguments does it take?",
    "What does it return?",
    "What happens if an argument has the wrong type?",
    "Give a short example.",
    "What should I watch out for?",
)
WAIT_S = 600.0
MIB = 1 << 20


@dataclass(frozen=True)
class Work:
    """chats of so many turns; passages with so many questions each."""

    chats: int = 8
    turns: int = 4
    passages: int = 6
    questions: int = 4
    answer_tokens: int = 24
    max_len: int = 2048
    seed: int = 0


@dataclass(frozen=True)
class Ask:
    """One request to come. kind: chat or passage. place: which chat or passage, turn: which turn or question."""

    kind: str
    place: int
    turn: int


@dataclass
class Seen:
    """One request, as one scheduler answered it."""

    kind: str
    turn: int
    prompt_tokens: int
    cached_tokens: int
    ttft_ms: float
    cpu_ms: float
    tokens: tuple[int, ...]


@dataclass
class Side:
    """A scheduler and what it answered."""

    name: str
    scheduler: Scheduler
    seen: list[Seen] = field(default_factory=list)


def main() -> None:
    given = arguments()
    work = Work(given.chats, given.turns, given.passages, given.questions, given.answer_tokens, seed=given.seed)
    results: dict[str, Any] = {}
    for variant in given.variants_named:
        results[variant] = study(variant, given, work)
        record(variant, results[variant], given, work)
    head = {"device": host.device(), "git_commit": git_commit(), "engine": given.engine, "threads": given.threads,
            "work": asdict(work)}  # fmt: skip
    write_json(given.out, head | {"variants": results})
    with atomic_path(given.out.with_suffix(".png")) as temporary:
        picture(results, head["device"]).savefig(temporary, format="png", dpi=110, metadata={"Software": None})
    if wrong := sum(one["different_answers"] for one in results.values()):
        sys.exit(f"{wrong} answers differ from those without a cache")


def arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="The prefix cache over budgets, and a warm restart.")
    parser.add_argument("--variants-named", nargs="+", default=["student-int8", "teacher-int8"])
    parser.add_argument("--variants", type=Path, default=Path("artifacts/variants"))
    parser.add_argument("--corpus", type=Path, default=Path("artifacts/corpus/test.jsonl"))
    parser.add_argument("--out", type=Path, default=Path("reports/studies/caching/prefix.json"))
    parser.add_argument("--runs", type=Path, default=Path("reports/runs"))
    parser.add_argument("--engine", default="ort")
    parser.add_argument("--budgets-mib", nargs="+", type=float, default=[0, 8, 32, 128])
    for name, whole in (("threads", 1), ("seed", 0), ("chats", 8), ("turns", 4), ("passages", 6), ("questions", 4),
                        ("answer-tokens", 24)):  # fmt: skip
        parser.add_argument(f"--{name}", type=int, default=whole)
    given = parser.parse_args(argv)
    if 0 not in given.budgets_mib:
        raise UserError("budgets_mib: 0 is what the others are held against")
    return given


def study(variant: str, given: argparse.Namespace, work: Work) -> dict[str, Any]:
    passages = texts(given.corpus, work)
    order = asks(work)
    tokenizer = load_tokenizer(variant, given)
    folder = Path(tempfile.mkdtemp(prefix="prefixes-"))
    try:
        with sides(variant, given, tokenizer, folder, work) as made:
            histories = play(made, order, passages, work, tokenizer, variant)
            states = {side.name: side.scheduler.snapshot() for side in made}
        by_budget = {
            side.name: told(side.seen, made[0].seen, states[side.name]) | {"budget_mib": float(side.name)}
            for side in made
        }
        restart, wrong = restarted(variant, given, tokenizer, folder, work, histories)
    finally:
        shutil.rmtree(folder)
    wrong += sum(
        one.tokens != other.tokens for side in made[1:] for one, other in zip(side.seen, made[0].seen, strict=True)
    )
    return {"by_budget": by_budget, "restart": restart, "different_answers": wrong}


def load_tokenizer(variant: str, given: argparse.Namespace) -> Tokenizer:
    if given.engine == "mock":
        return ByteTokenizer()
    from tradewind.model.tokenizer import Tokenizer as ModelTokenizer

    return ModelTokenizer.load(given.variants / variant)


def texts(corpus: Path, work: Work) -> list[str]:
    """Passages of the corpus, as many as the work needs, none twice."""
    known = list(dict.fromkeys(row["passage"] for row in read_jsonl(corpus) if row.get("passage")))
    random.Random(work.seed).shuffle(known)
    needed = work.chats + work.passages
    if len(known) < needed:
        raise UserError(f"{corpus}: {len(known)} passages, {needed} are needed")
    return known[:needed]


def asks(work: Work) -> list[Ask]:
    """All requests: shuffled, but the turns of a chat in order."""
    draw = random.Random(work.seed)
    places = [("chat", chat) for chat in range(work.chats) for _ in range(work.turns)]
    places += [("passage", passage) for passage in range(work.passages) for _ in range(work.questions)]
    draw.shuffle(places)
    turns: dict[tuple[str, int], int] = {}
    order = []
    for place in places:
        order.append(Ask(*place, turns.setdefault(place, 0)))
        turns[place] += 1
    return order


def settings(budget_mib: float, folder: Path | None = None) -> SchedulerSettings:
    kept = int(budget_mib * MIB)
    if folder is None:
        return SchedulerSettings(prefix_cache_bytes=kept)
    return SchedulerSettings(prefix_cache_bytes=kept, prefix_cache_dir=str(folder), prefix_cache_disk_bytes=1 << 30)


def started(variant: str, given: argparse.Namespace, tokenizer: Tokenizer, chosen: SchedulerSettings,
            work: Work) -> Scheduler:  # fmt: skip
    place = None if given.engine == "mock" else given.variants / variant
    engine = load_engine(place, given.engine, slots=1, max_len=work.max_len, threads=given.threads)
    engine.warm_up()
    return Scheduler(engine, tokenizer, chosen)


@contextmanager
def sides(
    variant: str, given: argparse.Namespace, tokenizer: Tokenizer, folder: Path, work: Work
) -> Iterator[list[Side]]:
    """One per budget, smallest first; the largest writes files when it ends."""
    budgets = sorted(given.budgets_mib)
    made = [
        Side(
            f"{mib:g}", started(variant, given, tokenizer, settings(mib, folder if mib == budgets[-1] else None), work)
        )
        for mib in budgets
    ]
    try:
        yield made
    finally:
        for side in made:
            side.scheduler.close(WAIT_S)


History = list[dict[str, str]]


def play(made: Sequence[Side], order: Sequence[Ask], passages: Sequence[str], work: Work, tokenizer: Tokenizer,
         title: str) -> dict[int, History]:  # fmt: skip
    """Every request on every side. Gives each chat's messages."""
    histories: dict[int, History] = {chat: opening(passages[chat]) for chat in range(work.chats)}
    for count, one in enumerate(tqdm(order, desc=title, disable=None)):
        history = histories[one.place] if one.kind == "chat" else opening(passages[work.chats + one.place])
        put(history, QUESTIONS[one.turn % len(QUESTIONS)])
        prompt = tuple(tokenizer.chat(history))
        for place in range(len(made)):
            side = made[(place + count) % len(made)]
            side.seen.append(asked(side.scheduler, prompt, one, work))
        answer = b"".join(map(tokenizer.token_bytes, made[0].seen[-1].tokens)).decode("utf-8", "replace")
        history.append({"role": "assistant", "content": answer})
    return histories


def opening(passage: str) -> History:
    return [{"role": "system", "content": SYSTEM}, {"role": "user", "content": passage}]


def put(history: History, question: str) -> None:
    """The first question stands below the passage."""
    if history[-1]["role"] == "user":
        history[-1] = {"role": "user", "content": f"{history[-1]['content']}\n\n{question}"}
    else:
        history.append({"role": "user", "content": question})


def asked(scheduler: Scheduler, prompt: tuple[int, ...], one: Ask, work: Work) -> Seen:
    """One request, alone. Raises RuntimeError where it does not end well."""
    ended, tokens, last = threading.Event(), list[int](), list[Event]()
    times: list[tuple[float, float]] = []

    def sink(event: Event) -> None:
        if isinstance(event, Delta):
            tokens.extend(event.ids)
            if not times:
                times.append((time.monotonic(), time.process_time()))
        if isinstance(event, TERMINAL):
            last.append(event)
            ended.set()

    request = Request(prompt, work.answer_tokens, SamplingParams(temperature=0))
    start = time.monotonic(), time.process_time()
    scheduler.submit(request, sink)
    if not ended.wait(WAIT_S) or not isinstance(last[0], Done) or not times:
        raise RuntimeError(f"a request ended with {last or 'nothing'}")
    wall, cpu = (1000 * (end - begin) for begin, end in zip(start, times[0], strict=True))
    return Seen(one.kind, one.turn, len(prompt), last[0].cached_tokens, wall, cpu, tuple(tokens))


def told(seen: Sequence[Seen], without: Sequence[Seen], state: Snapshot) -> dict[str, Any]:
    """Of one side, beside the one without a cache."""
    kinds = {kind: share([one for one in seen if one.kind == kind]) for kind in ("chat", "passage")}
    saved = [(a.ttft_ms - b.ttft_ms, a.cpu_ms - b.cpu_ms) for a, b in zip(without, seen, strict=True)]
    return {
        "requests": len(seen),
        "prompt_tokens": sum(one.prompt_tokens for one in seen),
        "hit_share": share(seen),
        "hit_share_by_kind": kinds,
        "ttft_ms": quantiles([one.ttft_ms for one in seen]),
        "cpu_ms": quantiles([one.cpu_ms for one in seen]),
        "saved_s": {
            "by_metric": state.prefix_saved_s,
            "ttft": sum(wall for wall, _ in saved) / 1000,
            "cpu": sum(cpu for _, cpu in saved) / 1000,
        },
        "evicted": {"entries": state.prefix_evicted, "mib": state.prefix_evicted_bytes / MIB},
        "held": {"entries": state.prefix_entries, "mib": state.prefix_bytes / MIB},
    }


def share(seen: Sequence[Seen]) -> float | None:
    """Cached / prompt tokens, over all requests."""
    tokens = sum(one.prompt_tokens for one in seen)
    return sum(one.cached_tokens for one in seen) / tokens if tokens else None


def quantiles(values: Sequence[float]) -> dict[str, float]:
    return {f"p{part}": float(np.quantile(values, part / 100)) for part in (50, 95)}


def restarted(variant: str, given: argparse.Namespace, tokenizer: Tokenizer, folder: Path, work: Work,
              histories: dict[int, History]) -> tuple[dict[str, Any], int]:  # fmt: skip
    """One more turn of every chat: on a new scheduler over the files, and on one without. And how many answers differ."""
    budget = max(given.budgets_mib)
    files = [path.stat().st_size for path in folder.rglob("*.safetensors")]
    cold = Side("cold", started(variant, given, tokenizer, settings(budget), work))
    warm = Side("warm", started(variant, given, tokenizer, settings(budget, folder), work))
    try:
        for count, (chat, history) in enumerate(histories.items()):
            put(history, QUESTIONS[work.turns % len(QUESTIONS)])
            prompt, one = tuple(tokenizer.chat(history)), Ask("chat", chat, work.turns)
            for side in (cold, warm) if count % 2 else (warm, cold):
                side.seen.append(asked(side.scheduler, prompt, one, work))
        states = {side.name: side.scheduler.snapshot() for side in (cold, warm)}
    finally:
        for side in (cold, warm):
            side.scheduler.close(WAIT_S)
    result: dict[str, Any] = {side.name: told(side.seen, cold.seen, states[side.name]) for side in (cold, warm)}
    state = states["warm"]
    result["files"] = {"entries": len(files), "mib": sum(files) / MIB, "tokens_found": state.prefix_disk_hits,
                       "read_s": state.prefix_disk_read_s, "lost": state.prefix_disk_lost}  # fmt: skip
    wrong = sum(one.tokens != other.tokens for one, other in zip(cold.seen, warm.seen, strict=True))
    return result, wrong


def record(variant: str, result: dict[str, Any], given: argparse.Namespace, work: Work) -> None:
    params = {"engine": given.engine, "threads": given.threads, **asdict(work)}
    path = given.runs / f"caching-prefix-{variant}.json"
    with record_run(stage="caching-prefix", question="caching", variant=variant, params=params, path=path) as opened:
        rows = {f"budget_{name}_mib": one for name, one in result["by_budget"].items()}
        rows |= {f"restart_{name}": result["restart"][name] for name in ("cold", "warm")}
        for name, one in rows.items():
            for what, value, unit, formula in (
                ("hit_share", one["hit_share"], "ratio", "cached / prompt tokens, over all requests"),
                ("ttft_p50", one["ttft_ms"]["p50"], "ms", "submit to first text, in process, one request at a time"),
                ("ttft_p95", one["ttft_ms"]["p95"], "ms", "submit to first text, in process, one request at a time"),
                ("cpu_p50", one["cpu_ms"]["p50"], "ms", "processor time of the process from submit to first text"),
                (
                    "saved_cpu",
                    one["saved_s"]["cpu"],
                    "s",
                    "sum of the same requests' processor time without, less with",
                ),
                ("evicted", one["evicted"]["entries"], "entries", "taken by the budget"),
            ):
                opened.log(Measurement(f"{name}/{what}", value, unit, one["requests"], formula=formula, seed=work.seed))
        opened.log(Measurement("different_answers", result["different_answers"], "answers"))
        opened.artifact(given.out)


COLOURS = ("#1f77b4", "#d95f02")


def picture(results: dict[str, Any], device: str) -> Figure:
    """Hit share and median processor time to the first text over budgets, and a restart's first answers."""
    figure = Figure(figsize=(11, 3.8), layout="constrained")
    FigureCanvasAgg(figure)
    shares, times, restart = figure.subplots(1, 3)
    for (variant, result), colour in zip(results.items(), COLOURS, strict=False):
        rows = list(result["by_budget"].values())
        places = range(len(rows))
        for kind, style in (("chat", "-o"), ("passage", "--s")):
            shares.plot(places, [100 * (one["hit_share_by_kind"][kind] or 0) for one in rows], style, color=colour,
                        label=f"{variant}, {kind}")  # fmt: skip
        times.plot(places, [one["cpu_ms"]["p50"] for one in rows], "-o", color=colour, label=f"{variant}, p50")
        times.plot(places, [one["cpu_ms"]["p95"] for one in rows], ":^", color=colour, label=f"{variant}, p95")
        for axes in (shares, times):
            axes.set_xticks(list(places), [f"{one['budget_mib']:g}" for one in rows])
    width = 0.8 / max(1, len(results))
    for count, ((variant, result), colour) in enumerate(zip(results.items(), COLOURS, strict=False)):
        heights = [result["restart"][name]["cpu_ms"]["p50"] for name in ("cold", "warm")]
        bars = restart.bar([place + count * width for place in range(2)], heights, width, color=colour, label=variant)
        restart.bar_label(bars, fmt="%.0f", fontsize=8)
    restart.set_xticks([place + width * (len(results) - 1) / 2 for place in range(2)], ["cold", "warm, from files"])
    shares.set(title="Prompt tokens found", xlabel="budget in memory, MiB", ylabel="%", ylim=(0, 100))
    times.set(title="Processor time to the first text", xlabel="budget in memory, MiB", ylabel="ms", ylim=(0, None))
    restart.set(title="First answer of a chat after a restart, p50", ylabel="processor time, ms")
    for axes in (shares, times, restart):
        axes.grid(alpha=0.25)
        axes.title.set_fontsize(10)
        axes.legend(fontsize=7)
    figure.suptitle(device, fontsize=8, color="#555555")
    return figure


if __name__ == "__main__":
    run(main)
