"""A plan for this machine, deployed and loaded: predicted against measured.

    python -m studies.hardware.trip

1. The planner chooses a variant and an engine of this host for the goal, at a share of the rate that one replica would keep
   it at, says what TTFT p95 that gives, and writes its file. 2. A server starts from that file; one user alone tells what it
   adds to the bare engine, and how many tokens a prompt has. 3. The simulation, told so, plays Poisson arrivals of a seed. 4.
   Locust sends the same arrivals. 5. Results: reports/studies/hardware/trip.json, errors as predicted / measured - 1: of the
   plan, which knew nothing of this server, and of the simulation that was told of one user. Not covered: several replicas,
   caches.
"""

from dataclasses import asdict, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from benchmarks.planning import Work, alone
from tradewind import host
from tradewind.config import read_params, run
from tradewind.errors import UserError
from tradewind.files import read_json, write_json
from tradewind.hardware import places
from tradewind.hardware.goal import Budget, Demand, Wanted, read_words
from tradewind.hardware.planner import Planned, as_record, plan
from tradewind.load.results import measure
from tradewind.load.scenario import LoadSettings, drive, locustfile
from tradewind.load.server import started
from tradewind.planning.forecast import System, figures, forecast
from tradewind.planning.plan import capacity
from tradewind.planning.simulation import Limits
from tradewind.serving.planned import planned_text
from tradewind.tracking import Measurement, git_commit, record_run

PLAN, RESULT = Path("studies/hardware/params.yaml"), Path("reports/studies/hardware/trip.json")
BENCHED, REPORTS = Path("reports/studies/hardware/bench.json"), Path("reports")
WANTED = ("ttft_p50_ms", "ttft_p95_ms", "itl_p50_ms", "goodput_share")


def main() -> None:
    given = read_params(PLAN)
    result = trip(given["trip"], given["seed"])
    write_json(RESULT, result)
    for name, error in result["errors"].items():
        print(
            f"{name}: predicted {result['predicted'][name]:.1f}, measured {result['measured'][name]:.1f}, {error:+.1%}"
        )


def trip(given: dict[str, Any], seed: int) -> dict[str, Any]:
    wanted, limits = read_words(Wanted, given["slo"], "slo"), Limits()
    demand = read_words(Demand, f"rate=1,{given['load']},answer={given['answer_tokens']}", "load")
    planned, demand = planned_here(wanted, demand, limits, given["share"], seed)
    chosen = planned.chosen
    settings = LoadSettings(
        model=chosen.model.name, engine=chosen.place.engine, prompt_words=given["prompt_words"],
        answer_tokens=given["answer_tokens"], rate=demand.rate, seconds=given["load_seconds"],
        slo_ttft_ms=wanted.ttft_p95_ms, slo_itl_ms=wanted.itl_ms,
    )  # fmt: skip
    values = {"model": chosen.model.name, "engine": chosen.place.engine, "cache": "none", "lookup_tokens": 0,
              "slots": limits.slots, "ttft_goal_ms": round(wanted.ttft_p95_ms)}  # fmt: skip
    work = Work(
        2 * given["lone_seconds"], (), given["prompt_words"], given["answer_tokens"], limits.slots, 2, 1, 1, 0, 0
    )
    with TemporaryDirectory() as folder:
        file = Path(folder) / "plan.yaml"
        file.write_text(planned_text(values, chosen.replicas, "of studies/hardware/trip.py"), encoding="utf-8")
        with started(["--plan", str(file)]) as url:
            lone = alone(settings, work, url)
            times = chosen.place.times
            first = lone.ttft_s - times.call - (lone.prompt_tokens - lone.cached) / times.prefill_rate
            times = replace(times, overhead=max(0.0, first), step=max(0.0, lone.itl_s - times.row))
            lengths = replace(demand.lengths, prompt=lone.prompt_tokens - lone.cached)
            limits = replace(limits, ttft_goal_s=wanted.ttft_p95_ms / 1000)
            system = System(times, limits, lengths, wanted.slo, seed=seed)
            raw = drive(locustfile("poisson"), url, settings, seed)
    predicted, measured = forecast("poisson", raw["phases"], system), figures(raw, system)
    found = {name.rpartition("/")[2]: value for name, value in measured.items()}
    said = {name.rpartition("/")[2]: value for name, value in predicted.items()}
    errors = {name: said[name] / found[name] - 1 for name in WANTED if found.get(name) and said.get(name) is not None}
    said["plan_ttft_p95_ms"], found["plan_ttft_p95_ms"] = chosen.ttft_p95_ms, found["ttft_p95_ms"]
    errors = {"plan_ttft_p95_ms": chosen.ttft_p95_ms / found["ttft_p95_ms"] - 1, **errors}
    result = {
        "device": host.device(), "git_commit": git_commit(), "asked": given, "rate": demand.rate,
        "chosen": as_record(chosen), "reasons": planned.reasons, "lone": asdict(lone), "times": asdict(times),
        "predicted": {name: said[name] for name in errors}, "measured": {name: found[name] for name in errors},
        "errors": errors,
    }  # fmt: skip
    intervals = {one.name.rpartition("/")[2]: one for one in measure(raw, 0.0, seed, wanted.slo)}
    with record_run(stage="trip", question="hardware", variant=chosen.model.name, params=given,
                    path=Path("reports/runs/hardware-trip.json")) as made:  # fmt: skip
        for name, error in errors.items():
            seen = intervals[name.removeprefix("plan_")]
            made.log(replace(seen, name=name))
            how = "predicted / measured - 1, of Poisson arrivals of one seed"
            made.log(Measurement(f"{name}_error", error, "1", seen.n, None, how, seed))
    return result


def planned_here(wanted: Wanted, demand: Demand, limits: Limits, share: float, seed: int) -> tuple[Planned, Demand]:
    """The plan for this host, at `share` of the rate that its choice could keep, and the demand of that rate."""
    if not BENCHED.is_file():
        raise UserError("this host was not measured yet: run the stage bench first")
    slug = read_json(BENCHED)["slug"]
    known = places.models(REPORTS)
    where, overhead = dict[str, list[places.Place]](), places.server_overhead(REPORTS)
    for name, model in known.items():
        found = places.measured(model, REPORTS, demand.prompt + demand.answer, limits.slots, only=slug)
        where[name] = [one for one in found if isinstance(one, places.Place)]
    little = replace(demand, rate=0.01)

    def planned(asked: Demand) -> Planned:
        return plan(known, places.known_f1(REPORTS), where, wanted, asked, Budget(), limits, overhead, seed)

    chosen = planned(little).chosen
    most = capacity(chosen.place.times, replace(limits, ttft_goal_s=wanted.ttft_p95_ms / 1000), demand.lengths, wanted.slo,
                    seed=seed)  # fmt: skip
    asked = replace(demand, rate=round(share * most.rate, 3))
    return planned(asked), asked


if __name__ == "__main__":
    run(main)
