"""The load test `caching` as the study runs it: 1,000 questions by Zipf with exponent 1, a cache for half of their answers,
warmed up with 5,000 requests of another seed; then a smaller one over Redis, which is stopped and killed at its end.

    python -m studies.caching.load

The answers' length is such that half of them fill the smallest budget, 1 MiB: that, and half a second for each, is what the
forecast assumes. Results: reports/studies/caching/load.json. Not covered: more exponents and tenants (see traces.py, which
simulates them), caches before several replicas, other seeds of the requests (sweep.py has those; intervals here are over
seconds or requests of one run).
"""

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from tradewind import host
from tradewind.config import run
from tradewind.files import write_json
from tradewind.load.caching import CachingSettings
from tradewind.load.report import table
from tradewind.load.scenario import LoadSettings, Outcome, run_scenario
from tradewind.tracking import git_commit, record_run

REPORT, RUNS = Path("reports/studies/caching/load.json"), Path("reports/runs")
SEED = 0
MEMORY = LoadSettings(
    "caching", "student-int8", users=4, seconds=100, prompt_words=32, answer_tokens=44, rate=50.0,
    caching=CachingSettings(questions=1000, warm_requests=5000, cache_mib=1, assumed_bytes=1553, assumed_s=0.5),
)  # fmt: skip
REDIS = replace(
    MEMORY, seconds=80, caching=replace(MEMORY.caching, store="redis", questions=300, warm_requests=300)
)  # fmt: skip
"""Eight seconds a phase: some 60 requests of each outage."""


def main() -> None:
    result: dict[str, Any] = {"device": host.device(), "git_commit": git_commit(), "seed": SEED}
    for name, settings in (("memory", MEMORY), ("redis", REDIS)):
        outcome = run_scenario(settings, SEED)
        print(f"{name}:\n{table(outcome)}")
        result[name] = recorded(name, outcome)
    write_json(REPORT, result)


def recorded(name: str, outcome: Outcome) -> dict[str, Any]:
    settings = asdict(outcome.settings)
    path, tags = RUNS / f"caching-load-{name}.json", {"scenario": "caching", "store": name}
    with record_run(
        stage=f"caching-load-{name}",
        question="caching",
        variant=outcome.settings.model,
        params=settings,
        tags=tags,
        path=path,
    ) as made:
        for one in outcome.measurements:
            made.log(one)
        return {
            "settings": settings,
            "run_id": made.run_id,
            "measurements": {one.name: asdict(one) for one in outcome.measurements},
        }


if __name__ == "__main__":
    run(main)
