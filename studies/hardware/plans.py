"""What the planner says for some goals, from what was measured here, compiled and modelled.

    python -m studies.hardware.plans

For each goal the front of each tier, the choice and its reasons, or what stands in the way. Nothing runs but simulations.
Results: reports/studies/hardware/plans.json. Not covered: whether a plan is kept, which the stage `trip` shows for one.
"""

from pathlib import Path
from typing import Any

from tradewind.config import read_params, run
from tradewind.errors import UserError
from tradewind.files import write_json
from tradewind.hardware import places
from tradewind.hardware.device import names
from tradewind.hardware.goal import Budget, Demand, Wanted, read_words
from tradewind.hardware.planner import as_record, carbon, plan
from tradewind.planning.simulation import Limits
from tradewind.tracking import git_commit

PLAN, RESULT, REPORTS = (
    Path("studies/hardware/params.yaml"),
    Path("reports/studies/hardware/plans.json"),
    Path("reports"),
)


def main() -> None:
    given = read_params(PLAN)
    known, f1 = places.models(REPORTS), places.known_f1(REPORTS)
    if not known:
        raise UserError("this host was not measured yet: run the stage bench first")
    goals = [planned(goal, known, f1, given["plans"]["reach"], given["seed"]) for goal in given["plans"]["goals"]]
    write_json(RESULT, {"git_commit": git_commit(), "reach": given["plans"]["reach"], "goals": goals})
    for goal in goals:
        print(f"{goal['slo']}; {goal['load']}: {goal.get('words') or goal['chosen']['name']}")


def planned(
    goal: dict[str, str], known: dict[str, places.Model], f1: dict[str, float], reach: float, seed: int
) -> dict[str, Any]:
    wanted, demand = read_words(Wanted, goal["slo"], "slo"), read_words(Demand, goal["load"], "load")
    limits, context = Limits(), demand.prompt + demand.answer
    where, left_out = places.everywhere(known, REPORTS, [places.MEASURED, *names()], reach, context, limits.slots)
    said: dict[str, Any] = {**goal, "left_out": left_out}
    try:
        made = plan(known, f1, where, wanted, demand, read_words(Budget, goal.get("budget", ""), "budget"), limits,
                    places.server_overhead(REPORTS), seed)  # fmt: skip
    except UserError as error:
        return said | {"words": str(error)}
    rate = demand.per_s * demand.mean_answer
    rows = [
        as_record(one) | {"usd_per_million": one.usd_per_million(rate),
                          "carbon_g_per_1000": None if one.joules is None else carbon(one.joules)}
        for one in made.pareto
    ]  # fmt: skip
    return said | {"chosen": as_record(made.chosen), "pareto": rows, "reasons": made.reasons}


if __name__ == "__main__":
    run(main)
