"""A cluster whose parts are killed, stopped and slowed under load: which answers fail or change, and how soon it is whole.

    python -m benchmarks.chaos [--variant student-int8] [--seconds 180] [--every 20]

The life of a run:
1. A cluster of two replicas is started; every question is answered once, alone and undisturbed: what answers are held to.
2. Closed-loop workers ask the same questions over and over, first without a fault.
3. Under that load, a part is hurt: one replica killed with -9 every so often; one stopped for a while, so that it hangs;
   one that gets a fifth of its time; all replicas killed at once; the API killed; the proxy killed.
4. Every answer is compared with the undisturbed one (`benchmarks.answers`), and the cluster must become whole by itself.

Written to reports/benchmarks/chaos.json and a run record. `altered` is of texts, finish reasons and usage;
`altered_logprobs` of log-probabilities alone. Not covered: machines, networks and disks that fail, Ray's own processes.
"""

import argparse
import asyncio
import random
import re
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path

import httpx
import psutil
from tqdm import tqdm

from benchmarks.answers import TEXT, Answer, Question, ask, questions
from benchmarks.asking import AROUND_S, Place, Row, Work, around, counted, load, spread
from tradewind import host
from tradewind.cluster.deploy import attached
from tradewind.cluster.observed import running, tokens_by_replica
from tradewind.config import run
from tradewind.errors import UserError
from tradewind.files import read_jsonl, write_json
from tradewind.load.faults import Part, kill, processes
from tradewind.load.server import started
from tradewind.tracking import Measurement, git_commit, record_run

REPLICAS = 2
WHOLE_S, GLANCE_S, PROBE_S = 180.0, 0.1, 0.5
SLOW_PERIOD_S, SLOW_SHARE = 0.5, 0.2
"""Of a slowed process: its period, and the share of it in which it runs."""


@dataclass
class Fault:
    """begun: `time.monotonic`. whole_s: until the cluster was whole again."""

    begun: float
    whole_s: float


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--variant", default="student-int8")
    parser.add_argument("--engine", default="ort")
    parser.add_argument("--file", type=Path, default=Path("serve.yaml"))
    parser.add_argument("--corpus", type=Path, default=Path("artifacts/corpus"))
    parser.add_argument("--out", type=Path, default=Path("reports/benchmarks/chaos.json"))
    parser.add_argument("--only", choices=PARTS, nargs="+", default=list(PARTS))
    for name in ("seconds", "every", "other", "hang"):
        parser.add_argument(f"--{name}", type=float, default=getattr(Work, name))
    parser.add_argument("--workers", type=int, default=Work.workers)
    given = parser.parse_args()
    work = Work(given.seconds, given.every, given.other, given.hang, given.workers)
    asked = questions(given.variant, passages(given.corpus, work), work.tokens)
    options = ["up", str(given.file), "--model", given.variant, "--engine", given.engine, "--replicas", str(REPLICAS)]
    with started(options, module="tradewind.cluster") as url, attached():
        rows = asyncio.run(everything(url, asked, work, given.only))
    facts = {"device": host.device(), "git_commit": git_commit(), "work": asdict(work), "variant": given.variant}
    write_json(given.out, facts | {"parts": rows})
    _log(given.variant, given.engine, rows, work, given.out.parent.parent / "runs")
    print(table(rows))


def passages(corpus: Path, work: Work) -> list[str]:
    """The begins of the first test passages."""
    rows = read_jsonl(corpus / "test.jsonl")
    return list(dict.fromkeys(row["passage"][: work.characters] for row in rows))[: work.texts]


async def everything(url: str, asked: list[Question], work: Work, names: Sequence[str]) -> dict[str, Row]:
    async with httpx.AsyncClient(base_url=url, timeout=120) as http:
        place = Place(http, work, asked)
        await whole()
        for question in tqdm(asked, desc="undisturbed", disable=None):
            place.undisturbed.append(await ask(http, question))
            if place.undisturbed[-1].error:
                raise UserError(f"{question.kind}: {place.undisturbed[-1].error} from a cluster that nothing befell")
        rows = {}
        for name in tqdm(names, desc="parts", disable=None):
            rows[name] = await PARTS[name](place)
            print(table({name: rows[name]}), flush=True)
            await whole()
    return rows


async def failovers(place: Place) -> float:
    """That the API counted since it started."""
    text = (await place.http.get("/metrics")).text
    return sum(map(float, re.findall(r"^tradewind_failovers_total\{.*\} (\S+)$", text, re.M)))


# The cluster.


async def whole(without: Sequence[int] = ()) -> float:
    """Seconds until as many replicas run as there should be, without these processes. Raises UserError where that does not
    come."""
    begun = time.monotonic()
    while time.monotonic() - begun < WHOLE_S:
        alive = {one.pid for one in processes(Part.REPLICA)} - set(without)
        if len(alive) == REPLICAS and await asyncio.to_thread(running) == REPLICAS:
            return time.monotonic() - begun
        await asyncio.sleep(GLANCE_S)
    raise UserError(f"the cluster was not whole again within {WHOLE_S:.0f} s")


async def answers(place: Place) -> tuple[float, list[Answer]]:
    """Seconds until a short new request is answered, and what those that ended until then were told. One is sent every
    PROBE_S, whatever became of those before it. Raises UserError where none is answered."""
    begun = time.monotonic()
    body = {"model": place.questions[0].body["model"], "prompt": "Again", "max_tokens": 1, "stream": False}
    tasks: list[asyncio.Task[Answer]] = []
    while time.monotonic() - begun < WHOLE_S:
        tasks.append(asyncio.create_task(ask(place.http, Question("short", TEXT, body))))
        await asyncio.wait(tasks[-1:], timeout=PROBE_S)
        told = [one.result() for one in tasks if one.done()]
        if any(one.error is None for one in told):
            seconds = time.monotonic() - begun
            await asyncio.gather(*tasks)
            return seconds, told
        await asyncio.sleep(GLANCE_S)
    raise UserError(f"no new request was answered within {WHOLE_S:.0f} s")


# The parts of a run.


async def calm(place: Place) -> Row:
    async with load(place) as sent:
        await asyncio.sleep(place.work.other)
    return counted(place, sent)


async def kills(place: Place) -> Row:
    """One replica, drawn, every so often; the next one not before the cluster is whole."""
    chance, faults, before = random.Random(place.work.seed), list[Fault](), await failovers(place)
    async with load(place) as sent:
        begun = time.monotonic()
        for moment in tqdm(moments(place.work), desc="kills", disable=None):
            await asyncio.sleep(begun + moment - time.monotonic())
            victim = chance.choice(processes(Part.REPLICA))
            now = time.monotonic()
            victim.kill()
            faults.append(Fault(now, await whole([victim.pid])))
        await asyncio.sleep(begun + place.work.seconds - time.monotonic())
    return counted(place, sent) | {
        "kills": len(faults),
        "failovers": await failovers(place) - before,
        "whole_s": spread([one.whole_s for one in faults]),
        "gap_around_s": spread(around(sent, [one.begun for one in faults])),
    }


def moments(work: Work) -> list[float]:
    """Seconds of the kills."""
    return [number * work.every for number in range(1, int(work.seconds / work.every))]


async def hang(place: Place) -> Row:
    before = await failovers(place)
    async with load(place) as sent:
        await asyncio.sleep(place.work.other / 3)
        victim, begun = processes(Part.REPLICA)[0], time.monotonic()
        victim.suspend()
        try:
            seconds = await whole([victim.pid])
            await asyncio.sleep(begun + place.work.hang - time.monotonic())
        finally:
            with suppress(psutil.NoSuchProcess):
                victim.resume()
    return counted(place, sent) | {
        "failovers": await failovers(place) - before,
        "whole_s": spread([seconds]),
        "gap_around_s": spread(around(sent, [begun])),
    }


async def slow(place: Place) -> Row:
    """shares: of the tokens made by both, the slowed one's, before and under the fault."""
    before = await failovers(place)
    victim = processes(Part.REPLICA)[0]
    async with load(place) as sent:
        counts = [await asyncio.to_thread(tokens_by_replica)]
        await asyncio.sleep(place.work.other)
        counts.append(await asyncio.to_thread(tokens_by_replica))
        held = asyncio.create_task(_slowed(victim))
        await asyncio.sleep(place.work.other)
        held.cancel()
        await asyncio.gather(held, return_exceptions=True)
        counts.append(await asyncio.to_thread(tokens_by_replica))
    shares = [share(victim.pid, *pair) for pair in pairwise(counts)]
    return counted(place, sent) | {"failovers": await failovers(place) - before, "shares": shares}


def share(victim: int, before: dict[int, int], after: dict[int, int]) -> float | None:
    """Of the tokens made between two counts; None where the victim was replaced."""
    made = {pid: count - before.get(pid, 0) for pid, count in after.items()}
    return made[victim] / max(1, sum(made.values())) if victim in made else None


async def _slowed(victim: psutil.Process) -> None:
    """Until it is cancelled, or the process is gone."""
    with suppress(psutil.NoSuchProcess):
        try:
            while True:
                victim.suspend()
                await asyncio.sleep((1 - SLOW_SHARE) * SLOW_PERIOD_S)
                victim.resume()
                await asyncio.sleep(SLOW_SHARE * SLOW_PERIOD_S)
        finally:
            victim.resume()


async def all_gone(place: Place) -> Row:
    before = await failovers(place)
    row, told = await _hurt(place, Part.REPLICA, REPLICAS)
    refusals = [one for one in told if one.refused and one.retry_after]
    return row | {
        "failovers": await failovers(place) - before,
        "new_requests_refused": len(refusals),
        "refused_as": dict(Counter(f"{one.error}, Retry-After {one.retry_after}" for one in refusals)),
        "refusal_s": spread([one.ended - one.begun for one in refusals]),
    }


async def ingress_gone(place: Place) -> Row:
    row, _ = await _hurt(place, Part.INGRESS, 1)
    return row


async def proxy_gone(place: Place) -> Row:
    row, _ = await _hurt(place, Part.PROXY, 1)
    return row


async def _hurt(place: Place, part: Part, count: int) -> tuple[Row, list[Answer]]:
    """All processes of a part killed under load. answers_s: until a new request was answered; told_meanwhile: what those
    before it were told."""
    async with load(place) as sent:
        await asyncio.sleep(place.work.other / 3)
        begun = time.monotonic()
        if len(gone := kill(part, count)) != count:
            raise UserError(f"{len(gone)} processes of {part.name.lower()}, not {count}")
        seconds, told = await answers(place)
        whole_s = await whole(gone)
        await asyncio.sleep(max(0.0, begun + place.work.other - time.monotonic()))
    row = counted(place, sent) | {
        "answers_s": seconds,
        "whole_s": spread([whole_s + seconds]),
        "told_meanwhile": dict(Counter(one.error for one in told if one.error)),
        "gap_around_s": spread(around(sent, [begun])),
    }
    return row, told


PARTS: dict[str, Callable[[Place], Awaitable[Row]]] = {
    "calm": calm,
    "kills": kills,
    "hang": hang,
    "slow": slow,
    "all_gone": all_gone,
    "ingress_gone": ingress_gone,
    "proxy_gone": proxy_gone,
}


# What is told of it.


def table(rows: dict[str, Row]) -> str:
    columns = ("requests", "answered", "refused", "failed", "cut", "altered", "altered_logprobs", "failovers")
    lines = [f"{'':>13}" + "".join(f"{name:>17}" for name in (*columns, "gap p50/max s", "whole p50/max s"))]
    for name, row in rows.items():
        gap, back = row.get("gap_around_s") or row["gap_s"], row.get("whole_s")
        cells = [*(format(row[one], "g") if one in row else "-" for one in columns), _pair(gap), _pair(back)]
        lines.append(f"{name:>13}" + "".join(f"{cell:>17}" for cell in cells))
        extra = {
            key: row[key]
            for key in ("errors", "altered_kinds", "kills", "shares", "answers_s", "refused_as")
            if row.get(key)
        }
        lines += [f"{'':>15}{key}: {value}" for key, value in extra.items()]
    return "\n".join(lines)


def _pair(found: dict[str, float] | None) -> str:
    return f"{found['p50']:.2f}/{found['max']:.2f}" if found else "-"


def _log(variant: str, engine: str, rows: dict[str, Row], work: Work, runs: Path) -> None:
    path = runs / f"chaos-{variant}.json"
    with record_run(
        stage="chaos", question="serving", variant=variant, params=asdict(work), tags={"engine": engine}, path=path
    ) as made:
        for part, row in rows.items():
            for name in ("failed", "altered", "altered_logprobs", "cut"):
                formula = f"of the requests sent, part {part}; altered: against the undisturbed answer"
                made.log(Measurement(f"{part}/{name}", row[name], "requests", row["requests"], formula=formula))
            for name, formula in (
                ("gap_around_s", f"longest gap of each stream under way in the {AROUND_S:g} s after a fault"),
                ("whole_s", "a fault to all replicas running again"),
            ):
                for at in ("p50", "max") if row.get(name) else ():
                    held = row[name]
                    made.log(
                        Measurement(
                            f"{part}/{name[:-2]}_{at}_s", held[at], "s", int(held["n"]), None, f"{at} of: {formula}"
                        )
                    )


if __name__ == "__main__":
    run(main)
