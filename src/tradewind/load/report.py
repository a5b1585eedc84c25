"""Where a load test's result goes: a JSON file, the run's record, a short table."""

from dataclasses import asdict
from pathlib import Path

from tradewind import host
from tradewind.files import write_json
from tradewind.load.scenario import Outcome
from tradewind.tracking import record_run

SHOWN = ("ttft", "itl", "e2e")


def report(outcome: Outcome, stage: str, path: Path, record: Path, url: str | None = None) -> None:
    """Write `path` and the run's record, print the table."""
    settings = asdict(outcome.settings)
    if url:
        settings |= {"url": url, "model": None, "engine": None}
    tags = {key: str(settings[key]) for key in ("scenario", "engine", "model") if settings[key]}
    with record_run(
        stage=stage, question="serving", variant=settings["model"], params=settings, tags=tags, path=record
    ) as run:
        for one in outcome.measurements:
            run.log(one)
        found = {one.name: asdict(one) for one in outcome.measurements}
        head = {"settings": settings, "seed": outcome.seed, "device": host.device(), "run_id": run.run_id}
        write_json(path, {**head, "measurements": found})
        run.artifact(path)
    print(table(outcome))


def table(outcome: Outcome) -> str:
    """Latencies by percentile, then the other measurements."""
    found = {one.name: one for one in outcome.measurements}
    lines = [f"{'ms':>6} {'p50':>9} {'p95':>9} {'p99':>9}"]
    for name in SHOWN:
        values = [found.get(f"{name}_{share}_ms") for share in ("p50", "p95", "p99")]
        cells = (f"{'-' if one is None or one.value is None else format(one.value, '.1f'):>9}" for one in values)
        lines.append(f"{name.upper():>6} {' '.join(cells)}")
    others = (one for one in outcome.measurements if not one.name.startswith(SHOWN))
    lines += [f"{one.name}: {one.value:.4g} {one.unit}" for one in others if one.value is not None]
    return "\n".join(lines)
