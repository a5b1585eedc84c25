"""Stage loadtest: the served variant under steady load, through HTTP, on this machine."""

from pathlib import Path

from tradewind.config import build, run, stage_params
from tradewind.load.report import report
from tradewind.load.scenario import LoadSettings, run_scenario


def main() -> None:
    params = stage_params("loadtest")
    seed = params.pop("seed")
    params.pop("profile")
    outcome = run_scenario(build(LoadSettings, params, "loadtest"), seed)
    name = outcome.settings.scenario
    report(outcome, "loadtest", Path(f"reports/loadtest/{name}.json"), Path(f"reports/runs/loadtest-{name}.json"))


if __name__ == "__main__":
    run(main)
