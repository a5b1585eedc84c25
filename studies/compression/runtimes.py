"""The same integers in every runtime of this machine: what `python -m tradewind.compression compare` prints, as a report.

    python -m studies.compression.runtimes

A runtime that is not installed is an error, for a report without it would be kept.
Results: reports/studies/compression/runtimes.json.
"""

from pathlib import Path

from studies.compression.places import REPORTS, RUNS, STUDY, VARIANTS, plan
from tradewind import host
from tradewind.compression.compare import Comparison, compare_variant, table
from tradewind.compression.compare_runtimes import find_llama
from tradewind.compression.export_litert import PYTHON, require
from tradewind.config import run
from tradewind.errors import UserError
from tradewind.files import write_json
from tradewind.tracking import Measurement, git_commit, record_run

FORMULA = "KL of the runtime's next-token distribution from JAX in float32 on the same integers, mean over positions"


def main() -> None:
    settings = plan()["runtimes"]
    find_llama(None)
    require()
    found: dict[str, Comparison] = {}
    for name in settings["variants"]:
        found[name] = compare_variant(
            name, VARIANTS, None, Path("artifacts/corpus"), settings["count"], settings["tokens"], settings["max_len"],
            settings["threads"], None, PYTHON,
        )  # fmt: skip
        print(table(found[name]), flush=True)
        for runtime, row in found[name].rows.items():
            if isinstance(row, str):
                raise UserError(f"{runtime}: {row}")
    with record_run(stage="runtimes", question=STUDY, params=settings, path=RUNS / f"{STUDY}-runtimes.json") as made:
        for name, one in found.items():
            for runtime, row in one.rows.items():
                assert not isinstance(row, str)
                made.log(
                    Measurement(f"kl_{name}_{runtime}".replace(",", ""), row.kl, "nat", one.positions, None, FORMULA)
                )
    head = {"device": host.device(), "git_commit": git_commit(), "run_id": made.run_id}
    write_json(REPORTS / "runtimes.json", {**head, "variants": [one.as_json() for one in found.values()]})


if __name__ == "__main__":
    run(main)
