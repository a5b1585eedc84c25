"""Where a load test's result goes: a JSON file, the run's record, a short table."""

from dataclasses import asdict
from pathlib import Path

from tradewind import host
from tradewind.files import write_json
from tradewind.load.caching import NAME as CACHING
from tradewind.load.scenario import Outcome
from tradewind.tracking import record_run

SHOWN = ("ttft", "itl", "e2e", "refusal", "schedule_delay")


def report(outcome: Outcome, stage: str, path: Path, record: Path, url: str | None = None) -> None:
    """Write `path` and the run's record, print the table."""
    settings = asdict(outcome.settings)
    question = "caching" if outcome.settings.scenario == CACHING else "serving"
    if question == "serving":
        del settings["caching"]
    settings["model"] = outcome.model
    if url:  # which engine makes the answers, the server does not say
        settings |= {"url": url, "engine": None}
    tags = {key: str(settings[key]) for key in ("scenario", "engine", "model") if settings[key]}
    with record_run(
        stage=stage, question=question, variant=settings["model"], params=settings, tags=tags, path=record
    ) as run:
        for one in outcome.measurements:
            run.log(one)
        found = {one.name: asdict(one) for one in outcome.measurements}
        head = {"settings": settings, "seed": outcome.seed, "device": host.device(), "run_id": run.run_id}
        write_json(path, {**head, "measurements": found})
        run.artifact(path)
    print(table(outcome))


def table(outcome: Outcome) -> str:
    """Latencies by percentile, of each phase where there are some, then the other measurements."""
    found = {one.name: one for one in outcome.measurements}
    phases = dict.fromkeys(name.rpartition("/")[0] for name in found if "/" in name or name.endswith("ttft_p50_ms"))
    lines = []
    for phase in phases:
        timed = any(name.rpartition("/")[0] == phase and name.endswith("_p50_ms") for name in found)
        head = f"{'ms':>15} {'p50':>9} {'p95':>9} {'p99':>9}"
        lines += [*([f"{phase}:"] if phase else []), *([head] if timed else [])]
        part = {name.rpartition("/")[2]: one for name, one in found.items() if name.rpartition("/")[0] == phase}
        for name in SHOWN:
            values = [part.pop(f"{name}_{share}_ms", None) for share in ("p50", "p95", "p99")]
            cells = (f"{'-' if one is None or one.value is None else format(one.value, '.1f'):>9}" for one in values)
            if any(values):
                lines.append(f"{name.replace('_', ' '):>15} {' '.join(cells)}")
        if phase:
            shown = (f"{name} {one.value:.4g}" for name, one in part.items() if one.value is not None)
            lines.append(f"{'':>15} {', '.join(shown)}")
    others = (one for one in outcome.measurements if "/" not in one.name and not one.name.startswith(SHOWN))
    for one in others:
        if one.value is not None:
            lines.append(f"{one.name}: {one.value:.4g} {one.unit}".removesuffix(" 1"))
    return "\n".join(lines)
