"""Stage `report`: summary, comparisons, plots, model card; runs into MLflow; the champion moved by the gate."""

from tradewind.config import build, run, stage_params
from tradewind.report.build import build_report, publish
from tradewind.report.gate import GateRules


def main() -> None:
    params = stage_params("report")
    built = build_report(build(GateRules, params["gate"]), params["profile"], params["seed"])
    publish()
    print(f"champion: {built.decision.champion or 'none, the alias stays where it was (reports/gate.json says why)'}")


if __name__ == "__main__":
    run(main)
