"""What a simulation says in advance of a load, held against the load itself; then what a crowd would need, on paper.

    python -m benchmarks.planning [--variant teacher-int8] [--step-seconds 20] [--threads 2]
    python -m benchmarks.planning --url http://127.0.0.1:8000 --replicas 2 --threads 1 [--slots 8]

1. A server of its own is started (or `--url` is taken: a cluster of `--replicas` on this machine, each with `--slots` and
   `--threads`), and one user alone gives the prompt's tokens, what of them is cached, TTFT and ITL.
2. Service times come from the bare engine in this process: chunks of several lengths, steps of 1 to 8 rows, before and
   after the load tests. What a lone request takes beyond them is the overhead, of its first text and of each token. For
   replicas on one machine, the same again beside a second process gives how much they slow each other down.
3. Load tests: the ramp, Poisson arrivals at shares of the ramp's highest requests/s, overload. The simulation plays the
   same phases, and its timings go through the same measurements.
4. The error of each figure is predicted / measured - 1; by quantity its median and its worst. Those of one replica carry
   over to the plan for 10^3 to 10^6 users, which gives each replica a machine of its own: where the true figure would lie
   if the error were any of those. Those of several replicas are of one shared machine; the report shows them beside.

Written to reports/benchmarks/planning.json, by the number of replicas. Speculation is off in the server that is started
here; a cluster's should be. Not covered: other machines than this one, networks, answers of unlike lengths (see --spread).
"""

import argparse
import re
import statistics
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from tqdm import tqdm

from tradewind import host
from tradewind.config import run
from tradewind.engine import load_engine
from tradewind.files import read_json, write_json
from tradewind.load.prices import PRICE, PRICE_OF
from tradewind.load.results import Slo, measure
from tradewind.load.scenario import LoadSettings, drive, locustfile
from tradewind.load.server import await_ready, started
from tradewind.planning import service
from tradewind.planning.forecast import System, by_quantity, errors, figures, forecast, paper
from tradewind.planning.plan import Fit, Lengths, capacity, fitted
from tradewind.planning.service import Samples
from tradewind.planning.simulation import Limits, ServiceTimes
from tradewind.tracking import Measurement, git_commit, record_run

STEPS, PHASES = 6, 4
"""Of the ramp, of the overload test."""
ERROR = "predicted / measured - 1, over all phases of all runs"
USERS = (10**3, 10**4, 10**5, 10**6)


@dataclass(frozen=True)
class Work:
    """step_seconds: of each step of the ramp; Poisson runs take twice as long, phases of overload as long. shares: of the
    ramp's highest requests/s. sample_repeats: of the bare engine, before and after the loads."""

    step_seconds: int
    shares: tuple[float, ...]
    prompt_words: int
    answer_tokens: int
    slots: int
    threads: int
    replicas: int
    sample_repeats: int
    think_s: float
    price_per_hour: float
    slo: Slo = field(default_factory=lambda: Slo(5000.0, 250.0))
    ttft_goal_s: float = 5.0
    max_len: int = 1024
    seed: int = 0


@dataclass(frozen=True)
class Lone:
    """One user alone. cached: tokens of its prompts that were not run, on average."""

    prompt_tokens: int
    cached: int
    ttft_s: float
    itl_s: float


def main() -> None:
    given = arguments()
    work = Work(
        given.step_seconds, tuple(given.shares), given.prompt_words, given.answer_tokens, given.slots, given.threads,
        given.replicas, given.sample_repeats, given.think_s, given.price_per_hour,
    )  # fmt: skip
    result = planned(given, work)
    known = read_json(given.out) if given.out.is_file() else {}
    write_json(given.out, known | {str(work.replicas): result})
    _log(given.variant, given.engine, result, work, given.out.parent.parent / "runs")
    print(lines(result))


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Predicted against measured load.")
    parser.add_argument("--variant", default="teacher-int8")
    parser.add_argument("--engine", default="ort")
    parser.add_argument("--variants", type=Path, default=Path("artifacts/variants"))
    parser.add_argument("--out", type=Path, default=Path("reports/benchmarks/planning.json"))
    parser.add_argument("--url", help="a server that runs already, as a cluster does")
    parser.add_argument("--routing", default="power_of_two", help="the cluster's")
    parser.add_argument("--shares", type=float, nargs="+", default=[0.4, 0.8])
    for name, whole in (("step-seconds", 20), ("prompt-words", 64), ("answer-tokens", 64), ("slots", 8),
                        ("threads", 2), ("replicas", 1), ("sample-repeats", 7)):  # fmt: skip
        parser.add_argument(f"--{name}", type=int, default=whole)
    parser.add_argument("--think-s", type=float, default=300.0, help="between a user's answer and the next question")
    parser.add_argument("--price-per-hour", type=float, default=PRICE, help=PRICE_OF)
    return parser.parse_args()


def planned(given: argparse.Namespace, work: Work) -> dict[str, Any]:
    settings = LoadSettings(
        model=given.variant, engine=given.engine, prompt_words=work.prompt_words, answer_tokens=work.answer_tokens,
        slo_ttft_ms=work.slo.ttft_ms, slo_itl_ms=work.slo.itl_ms,
    )  # fmt: skip
    place = (str(given.variants / given.variant), given.engine, work.slots, work.max_len, work.threads)
    engine = load_engine(None if given.engine == "mock" else Path(place[0]), *place[1:])
    engine.warm_up()
    bar = tqdm(total=4 + len(work.shares), desc="planning", disable=None)
    with served(given, work) as url:
        lone = alone(settings, work, url)
        bar.update()
        context = lone.prompt_tokens + work.answer_tokens // 2
        before = service.sample(engine, context, work.sample_repeats, work.seed)
        sharing = 1.0
        if work.replicas > 1:
            sharing = service.sharing(engine, place, context, work.sample_repeats, work.seed)
        bar.update()
        runs = loads(settings, work, url, bar)
        later = service.sample(engine, context, work.sample_repeats, work.seed)
    fit, token_overhead = model(lone, before, later)
    system = System(
        fit.times, Limits(work.slots, ttft_goal_s=work.ttft_goal_s),
        Lengths(lone.prompt_tokens - lone.cached, work.answer_tokens), work.slo, work.replicas, sharing,
        given.routing, work.seed,
    )  # fmt: skip
    measured = {name: figures(raw, system) for name, raw in runs.items()}
    predicted = {name: forecast(scenario(name), raw["phases"], system) for name, raw in runs.items()}
    found = errors(predicted, measured)
    head = {"device": host.device(), "git_commit": git_commit(), "variant": given.variant, "engine": given.engine}
    result: dict[str, Any] = head | {
        "work": asdict(work) | {"shares": list(work.shares), "routing": given.routing, "price_of": PRICE_OF},
        "lone": asdict(lone),
        "service": asdict(fit)
        | {"token_overhead_s": token_overhead, "sharing": sharing, "drift": drift(before, later)},
        "samples": {"chunks": _merged(before, later).medians()[0], "steps": _merged(before, later).medians()[1]},
        "predicted": predicted,
        "measured": measured,
        "client": {name: _client(raw, work) for name, raw in runs.items()},
        "errors": found,
        "errors_by_quantity": by_quantity(found),
    }
    if work.replicas == 1:
        one = capacity(fit.times, system.limits, system.lengths, system.slo, seed=work.seed)
        result["capacity"] = asdict(one)
        result["paper"] = paper(USERS, work.think_s, one, system, work.price_per_hour, result["errors_by_quantity"])
    return result


@contextmanager
def served(given: argparse.Namespace, work: Work) -> Iterator[str]:
    """`--url`, or a server of our own without speculation."""
    options = ["--model", given.variant, "--engine", given.engine, "--variants", str(given.variants)]
    options += ["--slots", str(work.slots), "--threads", str(work.threads), "--max-len", str(work.max_len)]
    options += ["--ttft-goal-ms", str(round(1000 * work.ttft_goal_s)), "--lookup-tokens", "0"]
    with nullcontext(given.url) if given.url else started(options) as url:
        target = str(url).rstrip("/").removesuffix("/v1")
        await_ready(target, 30)
        yield target


def alone(settings: LoadSettings, work: Work, url: str) -> Lone:
    """Of the second half of a run by one user: the first warms up, and fills the prefix cache."""
    seconds = max(2, work.step_seconds // 2)
    drive(locustfile("steady"), url, replace(settings, users=1, seconds=seconds), work.seed + 1)
    asked, hit = cache(url)
    raw = drive(locustfile("steady"), url, replace(settings, users=1, seconds=seconds), work.seed + 2)
    asked_now, hit_now = cache(url)
    found = {one.name: one.value or 0.0 for one in measure(raw, 0.0, work.seed)}
    share = (hit_now - hit) / (asked_now - asked) if asked_now > asked else 0.0
    tokens = round(found["prompt_tokens"])
    return Lone(tokens, round(share * tokens), found["ttft_p50_ms"] / 1000, found["itl_p50_ms"] / 1000)


def cache(url: str) -> tuple[float, float]:
    """Prompt tokens looked up in the prefix cache and found there; 0 where the server does not say."""
    with urllib.request.urlopen(f"{url}/metrics", timeout=10) as reply:
        text = reply.read().decode()
    asked, hit = (
        sum(map(float, re.findall(rf"^vllm:prefix_cache_{name}(?:_total)?(?:\{{.*\}})? (\S+)$", text, re.M)))
        for name in ("queries", "hits")
    )
    return asked, hit


def loads(settings: LoadSettings, work: Work, url: str, bar: Any) -> dict[str, Mapping[str, Any]]:
    """Run -> its timings; a Poisson run is named with its share."""
    ramped = drive(locustfile("ramp"), url, replace(settings, seconds=STEPS * work.step_seconds), work.seed)
    bar.update()
    rates = [one.value for one in measure(ramped, 0.0, work.seed, work.slo) if one.name.endswith("/requests_per_s")]
    top = max(rate or 0.0 for rate in rates)
    runs: dict[str, Mapping[str, Any]] = {"ramp": ramped}
    for share in work.shares:
        given = replace(settings, seconds=2 * work.step_seconds, rate=share * top)
        runs[f"poisson {share:g}"] = drive(locustfile("poisson"), url, given, work.seed)
        bar.update()
    given = replace(settings, seconds=round(PHASES * work.step_seconds / 0.8))
    runs["overload"] = drive(locustfile("overload"), url, given, work.seed)
    bar.update()
    return runs


def scenario(name: str) -> str:
    return name.split()[0]


def model(lone: Lone, before: Samples, later: Samples) -> tuple[Fit, float]:
    """The fit with what a lone request takes beyond the engine: once, as `overhead`, and with each token, which is added
    to `step` (not to `row`: most of it is the turn's, not the answer's) and given apart."""
    chunks, steps = _merged(before, later).medians()
    fit = fitted(chunks, steps)
    bare = fit.times
    first = chunk_seconds(lone.prompt_tokens - lone.cached, bare)
    token = max(0.0, lone.itl_s - dict(steps)[1])
    overhead = max(0.0, lone.ttft_s - first)
    return replace(fit, times=replace(bare, overhead=overhead, step=bare.step + token)), token


def chunk_seconds(tokens: int, times: ServiceTimes) -> float:
    """Of a prompt where nothing else runs."""
    calls = -(-tokens // (2 * Limits().prefill_chunk))
    return calls * times.call + tokens / times.prefill_rate


def drift(before: Samples, later: Samples) -> float:
    """How many times as long a step took after the loads as before them, median over rows: 1 on a quiet machine."""
    return statistics.median(
        statistics.median(later.steps[rows]) / statistics.median(seconds) for rows, seconds in before.steps.items()
    )


def _merged(before: Samples, later: Samples) -> Samples:
    return Samples(
        {size: [*seconds, *later.chunks[size]] for size, seconds in before.chunks.items()},
        {rows: [*seconds, *later.steps[rows]] for rows, seconds in before.steps.items()},
    )


def _client(raw: Mapping[str, Any], work: Work) -> dict[str, float | None]:
    """Whether the load's own client was what was measured."""
    found = measure(raw, 0.0, work.seed, work.slo)
    return {one.name: one.value for one in found if one.name.startswith("client_")}


def lines(result: Mapping[str, Any]) -> str:
    times, work = result["service"]["times"], result["work"]
    out = [
        f"{result['variant']}, {work['replicas']} replicas: prefill {times['prefill_rate']:.0f} tokens/s + "
        f"{1000 * times['call']:.1f} ms a chunk, step {1000 * times['step']:.1f} + {1000 * times['row']:.2f} ms a row, "
        f"overhead {1000 * times['overhead']:.1f} ms, sharing {result['service']['sharing']:.2f}; residuals "
        f"{result['service']['chunk_residual']:.1%}, {result['service']['step_residual']:.1%}; drift "
        f"{result['service']['drift']:.2f}",
        f"{'':34} {'predicted':>10} {'measured':>10} {'error':>8}",
    ]
    for name, found in result["errors"].items():
        for figure, error in found.items():
            values = (result[side][name][figure] for side in ("predicted", "measured"))
            cells = " ".join(f"{value:10.2f}" for value in values)
            out.append(f"{name + ' ' + figure:34} {cells} {100 * error:+7.1f}%")
    for quantity, row in result["errors_by_quantity"].items():
        out.append(f"{quantity}: median error {row['median']:+.1%}, worst {row['worst']:+.1%} of {row['n']}")
    for row in result.get("paper", ()):
        low, high = row["replicas_range"]
        out.append(
            f"{row['users']:,} users: {row['rate']:.1f} requests/s, {row['replicas']} replicas [{low}, {high}], TTFT "
            f"p50 {row['ttft_p50_ms']:.0f} p95 {row['ttft_p95_ms']:.0f} ms, {row['cost_per_month']:,.0f} USD a month"
        )
    return "\n".join(out)


def _log(variant: str, engine: str, result: Mapping[str, Any], work: Work, runs: Path) -> None:
    params = asdict(work) | {"shares": list(work.shares)}
    path = runs / f"planning-{variant}-{work.replicas}.json"
    with record_run(
        stage="planning", question="serving", variant=variant, params=params, tags={"engine": engine}, path=path
    ) as made:
        for quantity, row in result["errors_by_quantity"].items():
            for kind in ("median", "worst"):
                formula = f"{kind} of {quantity}: {ERROR}"
                made.log(Measurement(f"{quantity}_error_{kind}", row[kind], "1", row["n"], None, formula, work.seed))


if __name__ == "__main__":
    run(main)
