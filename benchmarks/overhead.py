"""What the API costs: the same work over HTTP and on the bare engine, in turns.

    python -m benchmarks.overhead [--variant teacher-int8] [--streams 1 8] [--repeats 5]

One repeat is `requests` greedy completions one after the other, then, for each other number of streams, so many at once;
128 tokens in and 64 out, prompts new in each repeat and the same for both sides. The bare engine runs in this process,
the server in one of its own; who goes first changes each time, and the other is idle meanwhile. The bare loop keeps to
the scheduler's order (one chunk of prompt, two where nothing runs, between two steps), chooses the largest logit and does
nothing else: no text, no queue, no checks. So the difference is all that is above the engine: scheduler, sampling,
detokenization, HTTP, and the client's own share of the processor.

Compared are tokens/s (of whole requests, first to last byte) as a ratio and TTFT as a difference, each within a repeat;
medians and 95 % bootstrap intervals are printed and written to reports/benchmarks/overhead.json.
Goals: at most 5 % of tokens/s and 3 ms of TTFT.
"""

import argparse
import asyncio
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from tqdm import tqdm

from benchmarks.client import post
from benchmarks.llama_cpp import Work as Prompting
from benchmarks.llama_cpp import ours
from benchmarks.llama_cpp import prompts as windows
from benchmarks.servers import Server, started
from tradewind import host
from tradewind.config import run
from tradewind.engine import Engine, load_engine
from tradewind.errors import UserError
from tradewind.evaluation.bootstrap import median_interval
from tradewind.files import write_json
from tradewind.tracking import Measurement, git_commit, record_run

CHUNK, IDLE_CHUNKS = 128, 2
"""Tokens of prompts between two steps, and how many times that where no answer runs: the scheduler's own."""
GOAL_SHARE, GOAL_TTFT_MS = 0.05, 3.0

Side = Callable[[Sequence[list[int]], int], tuple[float, float]]
"""Prompts run at once and tokens of each answer -> tokens/s of all together, median TTFT in ms."""


@dataclass(frozen=True)
class Work:
    """requests: one after the other, in a repeat of one stream. slots: of both sides."""

    repeats: int
    requests: int
    streams: tuple[int, ...]
    prompt_tokens: int
    answer_tokens: int
    threads: int
    slots: int = 8


def main() -> None:
    parser = argparse.ArgumentParser(description="The API's cost over the bare engine.")
    parser.add_argument("--variant", default="teacher-int8")
    parser.add_argument("--variants", type=Path, default=Path("artifacts/variants"))
    parser.add_argument("--corpus", type=Path, default=Path("artifacts/corpus"))
    parser.add_argument("--out", type=Path, default=Path("reports/benchmarks/overhead.json"))
    parser.add_argument("--streams", type=int, nargs="+", default=[1, 8])
    for field, default in (("repeats", 5), ("requests", 3), ("threads", 2)):
        parser.add_argument(f"--{field}", type=int, default=default)
    given = parser.parse_args()
    work = Work(given.repeats, given.requests, tuple(given.streams), 128, 64, given.threads)
    prompting = Prompting(work.repeats, work.requests, work.prompt_tokens, work.answer_tokens, work.threads)
    engine = load_engine(given.variants / given.variant, "ort", work.slots, 1024, work.threads)
    engine.warm_up()
    server = ours(given.variant, given.variants, prompting)
    # Nothing is to be refused here, and drafts would hide what the API costs.
    server = replace(server, command=(*server.command, "--ttft-goal-ms", "0", "--lookup-tokens", "0"))
    with started(server):
        sides = {"http": over_http(server), "bare": bare(engine)}
        values = compare(sides, windows(given.variants / given.variant, given.corpus, prompting), work)
    result = summarize(values)
    _log(given.variant, result, work, given.out.parent.parent / "runs")
    facts = {"device": host.device(), "git_commit": git_commit(), "work": asdict(work), "variant": given.variant}
    write_json(given.out, facts | {"streams": result})
    print(lines(result))


def over_http(server: Server) -> Side:
    """Raises UserError where a reply is not the work asked for."""

    async def at_once(asked: Sequence[list[int]], answer_tokens: int) -> tuple[float, float]:
        common = {"model": server.model, "max_tokens": answer_tokens, "temperature": 0, "ignore_eos": True}
        common |= {"stream": True, "stream_options": {"include_usage": True}}
        begun = time.perf_counter()
        replies = await asyncio.gather(
            *(post(server.port, "/v1/completions", common | {"prompt": prompt}) for prompt in asked)
        )
        seconds = time.perf_counter() - begun
        for reply in replies:
            if reply.first is None or reply.completion_tokens != answer_tokens:
                raise UserError(f"the server answered {reply} where {answer_tokens} tokens were asked for")
        first = statistics.median(1000 * (reply.first or 0.0) for reply in replies)
        return answer_tokens * len(replies) / seconds, first

    return lambda asked, answer_tokens: asyncio.run(at_once(asked, answer_tokens))


def bare(engine: Engine) -> Side:
    """The engine's own calls and a largest logit."""

    def at_once(asked: Sequence[list[int]], answer_tokens: int) -> tuple[float, float]:
        begun = time.perf_counter()
        waiting, firsts = list(asked), []
        last: dict[int, int] = {}
        left: dict[int, int] = {}
        free = list(range(engine.slots))
        while waiting or last:
            room = CHUNK * (1 if last else IDLE_CHUNKS)
            while waiting and free and room >= len(waiting[0]):
                prompt, slot = waiting.pop(0), free.pop()
                room -= len(prompt)
                prefix = engine.prefill(prompt)
                assert prefix.logits is not None
                last[slot], left[slot] = int(prefix.logits.argmax()), answer_tokens - 1
                firsts.append(1000 * (time.perf_counter() - begun))
                engine.insert(prefix, slot)
            for slot, lines in engine.step({slot: (token,) for slot, token in last.items()}).items():
                last[slot] = int(lines[-1].argmax())
                left[slot] -= 1
            for slot in [slot for slot, count in left.items() if not count]:
                del last[slot], left[slot]
                engine.release(slot)
                free.append(slot)
        return answer_tokens * len(asked) / (time.perf_counter() - begun), statistics.median(firsts)

    return at_once


Values = dict[int, dict[str, dict[str, list[float]]]]
"""Streams -> measure -> side -> value of each repeat."""


def compare(sides: dict[str, Side], texts: Iterator[list[int]], work: Work) -> Values:
    """One uncounted repeat warms both up."""
    values: Values = {n: {m: {side: [] for side in sides} for m in ("tokens_per_s", "ttft_ms")} for n in work.streams}
    for number in tqdm(range(work.repeats + 1), desc="repeats", disable=None):
        for streams in work.streams:
            groups = [[next(texts) for _ in range(streams)] for _ in range(work.requests if streams == 1 else 1)]
            for name in sides if number % 2 else reversed(sides):
                seen = [sides[name](group, work.answer_tokens) for group in groups]
                if number:
                    values[streams]["tokens_per_s"][name].append(statistics.median(rate for rate, _ in seen))
                    values[streams]["ttft_ms"][name].append(statistics.median(first for _, first in seen))
    return values


def summarize(values: Values) -> dict[str, Any]:
    """Of each number of streams: the share of tokens/s lost, and the TTFT added in ms, with intervals."""
    out: dict[str, Any] = {}
    for streams, measures in values.items():
        rates, firsts = measures["tokens_per_s"], measures["ttft_ms"]
        lost = [1 - http / own for http, own in zip(rates["http"], rates["bare"], strict=True)]
        added = [http - own for http, own in zip(firsts["http"], firsts["bare"], strict=True)]
        out[str(streams)] = {
            "lost_share": {"median": statistics.median(lost), "interval": list(median_interval(lost, seed=0))},
            "ttft_added_ms": {"median": statistics.median(added), "interval": list(median_interval(added, seed=0))},
            "repeats": measures,
        }
    return out


def lines(result: dict[str, Any]) -> str:
    out = []
    for streams, row in result.items():
        lost, added = row["lost_share"], row["ttft_added_ms"]
        medians = {name: statistics.median(values) for name, values in row["repeats"]["tokens_per_s"].items()}
        out.append(
            f"{streams} streams: {100 * lost['median']:.1f} % [{100 * lost['interval'][0]:.1f}, "
            f"{100 * lost['interval'][1]:.1f}] of tokens/s lost (goal {100 * GOAL_SHARE:.0f} %; http "
            f"{medians['http']:.1f}, bare {medians['bare']:.1f}), TTFT +{added['median']:.1f} ms "
            f"[{added['interval'][0]:.1f}, {added['interval'][1]:.1f}] (goal {GOAL_TTFT_MS:.0f} ms)"
        )
    return "\n".join(out)


def _log(variant: str, result: dict[str, Any], work: Work, runs: Path) -> None:
    params = asdict(work) | {"streams": list(work.streams)}
    path = runs / f"overhead-{variant}.json"
    with record_run(
        stage="overhead", question="serving", variant=variant, params=params, tags={"engine": "ort"}, path=path
    ) as made:
        for streams, row in result.items():
            for name, unit, formula in (
                ("lost_share", "1", "median over repeats of 1 - tokens/s over HTTP / tokens/s of the bare engine"),
                ("ttft_added_ms", "ms", "median over repeats of TTFT over HTTP - TTFT of the bare engine"),
            ):
                low, high = row[name]["interval"]
                measured = row[name]["median"]
                made.log(Measurement(f"{name}_at_{streams}", measured, unit, work.repeats, (low, high), formula, 0))


if __name__ == "__main__":
    run(main)
