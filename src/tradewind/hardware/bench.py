"""Measured runs on this host: variants through the engines, on the devices that they find.

The life of a bench: 1. peaks of each engine on this host (`peaks`), before and after the rest; 2. each variant and engine
gets a process of its own, and the processes take turns: prompts of several lengths, steps of several rows; 3. what a meter
says that decoding used, where there is one; 4. the roofline's prediction of every point from the peaks alone, and its error;
5. a training step of each float
model by JAX (`training`); 6. one file in reports/hardware/, and a run record for every variant and engine, tagged by device.

Of a point: `seconds` is the median of the rounds, `utilization` the share of the engine's peak that what bounds it reached.
Not covered: several devices at once (the engines run on one), the server (load tests), quality (the compression study).
"""

import multiprocessing
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

from tradewind import host
from tradewind.compression.rules import read_rules
from tradewind.compression.variant import Manifest, load_variant
from tradewind.engine import Engine, load_engine
from tradewind.evaluation.bootstrap import median_interval
from tradewind.evaluation.speed import Plan, Turns, take_turns
from tradewind.files import read_json, write_json
from tradewind.hardware.device import known_chip, load_device, slug
from tradewind.hardware.energy import meter
from tradewind.hardware.peaks import between, read_peaks
from tradewind.hardware.roofline import claim
from tradewind.hardware.roofline import step as estimate
from tradewind.hardware.storage import storage
from tradewind.hardware.training import TrainingPlan
from tradewind.planning.service import STEPS, chunk, step
from tradewind.tracking import Measurement, git_commit, home, record_run

FOLDER, RUNS = Path("reports/hardware"), Path("reports/runs")
ENGINES = ("ort", "jax")
JOULES = "joules_per_token"
KEPT = {
    "JAX_COMPILATION_CACHE_DIR": "jax",
    "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
}
"""What processes keep that they compile, so that only the first bench of a host waits for it; the folder is in home."""
COLUMNS = ("program", "rows", "tokens/s", "ms", "predicted", "error", "bound", "share of peak")


@dataclass(frozen=True)
class BenchPlan(Plan):
    """prompts: tokens. rows: of steps, in which each sees `context` tokens and more by those decoded. metered: seconds of
    decoding with all rows that a meter is read around; 0: none."""

    prompts: tuple[int, ...] = (32, 128, 256)
    rows: tuple[int, ...] = (1, 2, 4, 8)
    context: int = 192
    metered: float = 1.0

    def round(self, engine: Engine, seed: int) -> dict[str, float]:
        """Seconds by point, as `prefill 128` and `decode 4`; and joules a token where a meter tells.

        Each is run twice, and the second counts: before the first, another process had the caches.
        """
        tokens = [(seed + 7 * place) % engine.vocab_size for place in range(max(*self.prompts, self.context))]
        found = {f"prefill {size}": [chunk(engine, tokens[:size]) for _ in range(2)][1] for size in self.prompts}
        prefix = engine.prefill(tokens[: self.context])
        for slot in range(max(self.rows)):
            engine.insert(prefix, slot)
        for rows in self.rows:
            for _ in range(2):
                found[f"decode {rows}"] = step(engine, rows)
                for slot in range(rows):
                    engine.rewind(slot, self.context)
        if self.metered and (joules := self._metered(engine, found[f"decode {max(self.rows)}"])) is not None:
            found[JOULES] = joules
        for slot in range(max(self.rows)):
            engine.release(slot)
        return found

    def _metered(self, engine: Engine, seconds: float) -> float | None:
        counter = meter(self.engine == "jax" and accelerator() is not None)
        if counter is None:
            return None
        rows, before, calls = max(self.rows), counter.joules(), max(1, round(self.metered / (STEPS * seconds)))
        for _ in range(calls):
            step(engine, rows)
            for slot in range(rows):
                engine.rewind(slot, self.context)
        return (counter.joules() - before) / (calls * STEPS * rows)


def accelerator() -> str | None:
    """The kind of device that JAX runs on in this process, None on a CPU."""
    import jax

    return None if jax.default_backend() == "cpu" else str(jax.devices()[0].device_kind)


def bench(
    variants: Mapping[str, Path],
    engines: Sequence[str],
    plan: Mapping[str, Any],
    seed: int,
    folder: Path = FOLDER,
    training: TrainingPlan | None = None,
) -> dict[str, Any]:
    """Measure, predict, record. plan: of `BenchPlan`, but for the engine. training: None for no training steps; they are of
    the engine jax. Raises UserError for a variant or an engine that is not there."""
    manifests = {name: load_variant(path, verify=False) for name, path in variants.items()}
    head = {"tier": "measured", "device": host.device(), "slug": slug(host.device()), "host": host.facts()}
    found: dict[str, Any] = {**head, "seed": seed, "git_commit": git_commit(), "engines": {}}
    os.environ |= {name: str(home() / value) if name.endswith("DIR") else value for name, value in KEPT.items()}
    for engine in engines:
        work = BenchPlan(engine, **plan)
        before = in_process(engine_facts, engine, work.threads, work.repeats)
        turns = take_turns(variants, work, seed)
        after = in_process(engine_facts, engine, work.threads, work.repeats)
        facts = before | {"peaks": asdict(between(*(read_peaks(one["peaks"]) for one in (before, after))))}
        points = [point for name in variants for point in points_of(manifests[name], turns[name], work, facts, seed)]
        each = {name: whole(manifests[name], turns[name], work, seed) for name in variants}
        measured = {"plan": asdict(work), "variants": each, "points": points, "errors": errors(points)}
        found["engines"][engine] = {**facts, **measured}
        if engine == "jax" and training is not None:
            found["engines"][engine]["training"] = trained(manifests, training, seed)
        for name in variants:
            _record(name, engine, found)
    path = folder / f"{found['slug']}.json"
    write_json(path, joined(read_json(path), found) if path.is_file() else found)
    return found


def trained(manifests: Mapping[str, Manifest], work: TrainingPlan, seed: int) -> dict[str, Any]:
    """A training step of each shape among the float variants, by the name of the first that has it."""
    from tradewind.hardware.training import measure

    shapes: dict[str, Mapping[str, Any]] = {}
    for name, manifest in manifests.items():
        if name.endswith("-fp32") and manifest.config not in shapes.values():
            shapes[name] = manifest.config
    return {name: in_process(measure, shape, work, seed) for name, shape in shapes.items()}


def trace(variant: Path, plan: Mapping[str, Any], folder: Path) -> None:
    """What JAX's profiler sees of one warm round of the jax engine, kept in `folder` for XProf or Perfetto. To be called in a
    fresh process."""
    import jax

    work = BenchPlan("jax", **plan)
    engine = load_engine(variant, "jax", work.slots, work.max_len, work.threads)
    work.round(engine, 0)  # compiles
    with jax.profiler.trace(str(folder), create_perfetto_trace=True):
        work.round(engine, 0)
    engine.close()


def joined(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, Any]:
    """A host's file after a bench of some of its variants or engines: what was not measured anew is kept."""
    engines = dict(old["engines"])
    for name, part in new["engines"].items():
        before = engines.get(name, {"points": [], "variants": {}})
        rest = [row for row in before["points"] if row["variant"] not in part["variants"]]
        points = rest + part["points"]
        engines[name] = part | {
            "points": points,
            "variants": before["variants"] | part["variants"],
            "errors": errors(points),
        }
        if trained := before.get("training", {}) | part.get("training", {}):
            engines[name]["training"] = trained
    return {**new, "engines": engines}


def engine_facts(engine: str, threads: int, repeats: int) -> dict[str, Any]:
    """Where an engine runs, in what dtype, its meter and its peaks. To be called in a fresh process."""
    if engine == "ort":
        from tradewind.hardware import peaks_ort

        chip, dtype, peaks = None, "float32", peaks_ort.measure(threads, repeats)
    else:
        from tradewind.hardware import peaks_jax

        chip = accelerator()
        dtype, peaks = "bfloat16" if chip else "float32", peaks_jax.measure(repeats)
    counter = meter(chip is not None)
    return {"chip": chip or host.processor(), "dtype": dtype, "meter": counter and counter.name, "peaks": asdict(peaks)}


def in_process(function: Callable[..., Any], *given: Any) -> Any:
    """The answer of a fresh process, so that what it loads and compiles is gone before the next thing is measured."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(function, given)


def points_of(
    manifest: Manifest, turns: Turns, plan: BenchPlan, facts: Mapping[str, Any], seed: int
) -> Iterator[dict[str, Any]]:
    """A row for each point: measured seconds beside the roofline's. One that is faster than its chip's claimed peaks allow is
    `refused`, with the words why: either of the two is wrong."""
    machine, known = read_peaks(facts["peaks"]).machine(facts["chip"], float("inf")), known_chip(facts["chip"])
    kept = storage(manifest.name, read_rules(manifest.rules.get("rules", ())), plan.engine, facts["dtype"])
    for program, tokens, rows in points(plan):
        seconds = [values[f"{program} {tokens if program == 'prefill' else rows}"] for values in turns.rounds]
        past = seen(plan, 0 if program == "prefill" else plan.context, tokens) - tokens
        made = estimate(manifest.decoder, kept, machine, rows, tokens, past)
        middle = median(seconds)
        refused = None
        if known is not None:
            bound = estimate(manifest.decoder, kept, load_device(known).machine(), rows, tokens, past)
            refused = claim(rows * tokens / middle, bound, rows * tokens, f"{manifest.name} on {facts['chip']}")
        yield {
            "variant": manifest.name, "engine": plan.engine, "program": program, "rows": rows, "tokens": tokens,
            "context": past + tokens, "seconds": middle, "interval": median_interval(seconds, seed), "n": len(seconds),
            "tokens_per_s": rows * tokens / middle, "predicted_s": made.seconds, "error": made.seconds / middle - 1,
            "bound": made.bound, "utilization": (made.compute_s + made.memory_s) / middle,
            "flops_per_s": made.flops / middle, "bytes_per_s": made.bytes / middle,
            "refused": refused,
        }  # fmt: skip


def points(plan: BenchPlan) -> Iterator[tuple[str, int, int]]:
    """Program, new tokens of a row, rows."""
    yield from (("prefill", size, 1) for size in plan.prompts)
    yield from (("decode", 1, rows) for rows in plan.rows)


def seen(plan: BenchPlan, past: int, tokens: int) -> int:
    """Tokens that attention runs over: the jax engine's calls see a whole bucket."""
    if plan.engine != "jax":
        return past + tokens
    from tradewind.engine.jax import CONTEXTS

    return min((size for size in CONTEXTS if past + tokens <= size < plan.max_len), default=plan.max_len)


def whole(manifest: Manifest, turns: Turns, plan: BenchPlan, seed: int) -> dict[str, Any]:
    """Of a variant as a whole: memory, seconds to load, joules a token where a meter told; and what a planner must know."""
    joules = [values[JOULES] for values in turns.rounds if JOULES in values]
    found: dict[str, Any] = {"peak_rss_bytes": turns.peak_rss, "load_s": turns.load_s, "shape": manifest.config,
                             "rules": manifest.rules.get("rules", [])}  # fmt: skip
    if joules:
        found[JOULES] = {"value": median(joules), "interval": median_interval(joules, seed), "rows": max(plan.rows)}
    return found


def errors(rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Of predicted / measured - 1 over points: median and worst magnitude, and the median with its sign."""
    sizes = [abs(row["error"]) for row in rows]
    return {"median": median(sizes), "worst": max(sizes), "bias": median(row["error"] for row in rows), "n": len(rows)}


def table(found: Mapping[str, Any]) -> str:
    """Markdown: a line a point, and below each engine the error of its predictions."""
    lines = [f"{found['device']}, measured; predicted by the roofline of this host's peaks"]
    for engine, part in found["engines"].items():
        lines += ["", f"| {engine} on {part['chip']} | {' | '.join(COLUMNS)} |", f"|---|---|{'---:|' * 5}---|---:|"]
        lines += [f"| {' | '.join(_cells(row))} |" for row in part["points"]]
        wrong = part["errors"]
        share = f"median {wrong['median']:.0%}, worst {wrong['worst']:.0%} of {wrong['n']} points"
        lines += ["", f"{engine}: error of the roofline, {share}"]
        lines += [f"refused: {row['refused']}" for row in part["points"] if row.get("refused")]
        for name, row in part.get("training", {}).items():
            size, share = f"{row['rows']} x {row['length']} tokens", f"{row['utilization']:.0%}"
            lines.append(
                f"training {name}, {size} a step: {row['tokens_per_s']:,.0f} token/s, {share} of the peak's FLOP/s"
            )
    return "\n".join(lines)


def _cells(row: Mapping[str, Any]) -> tuple[str, ...]:
    what = f"prefill {row['tokens']}" if row["program"] == "prefill" else f"decode at {row['context']}"
    times = (f"{1000 * row[name]:.2f}" for name in ("seconds", "predicted_s"))
    return (row["variant"], what, str(row["rows"]), f"{row['tokens_per_s']:,.0f}", *times, f"{row['error']:+.0%}",
            row["bound"], f"{row['utilization']:.0%}")  # fmt: skip


def _record(name: str, engine: str, found: Mapping[str, Any]) -> None:
    part, device = found["engines"][engine], found["slug"]
    tags = {"engine": engine, "device": device, "chip": part["chip"], "tier": "measured"}
    path = RUNS / f"bench-{device}-{name}-{engine}.json"
    with record_run(
        stage="bench", question="hardware", variant=name, params=part["plan"], tags=tags, path=path
    ) as made:
        for row in part["points"]:
            if row["variant"] == name:
                size = row["tokens"] if row["program"] == "prefill" else row["rows"]
                how = (
                    f"tokens / median seconds of {row['n']} rounds; context {row['context']}, engine {engine}, in turns"
                )
                fast, slow = (row["rows"] * row["tokens"] / bound for bound in row["interval"])
                made.log(Measurement(f"{row['program']}_{size}_tokens_per_s", row["tokens_per_s"], "token/s", row["n"],
                                     (slow, fast), how, found["seed"]))  # fmt: skip
        made.log(Measurement("peak_rss_bytes", part["variants"][name]["peak_rss_bytes"], "B", 1, None, "VmHWM"))
