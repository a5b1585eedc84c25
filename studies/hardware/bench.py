"""Every variant of the main job on this host's devices, and the roofline held to it.

    python -m studies.hardware.bench

Results: reports/hardware/DEVICE.json, which stays when another host measures, and reports/studies/hardware/bench.json,
which says of which device it was, and beside it roofline.png.
"""

from pathlib import Path

from studies.hardware.picture import draw
from tradewind.compression.variant import MANIFEST
from tradewind.config import read_params, run
from tradewind.errors import UserError
from tradewind.files import write_json
from tradewind.hardware.bench import bench, table
from tradewind.hardware.training import TrainingPlan

PLAN, RESULT = Path("studies/hardware/params.yaml"), Path("reports/studies/hardware/bench.json")
PICTURE = RESULT.with_name("roofline.png")


def main() -> None:
    plan = read_params(PLAN)
    given, folder = plan["bench"], Path(plan["bench"]["variants"])
    variants = {path.parent.name: path.parent for path in sorted(folder.glob(f"*/{MANIFEST}"))}
    if not variants:
        raise UserError(f"{folder}: no variants there: run `make repro` first")
    found = bench(variants, given["engines"], given["plan"], plan["seed"], training=TrainingPlan(**given["training"]))
    print(table(found))
    draw(found, PICTURE)
    engines = {name: {"chip": part["chip"], "errors": part["errors"]} for name, part in found["engines"].items()}
    write_json(RESULT, {name: found[name] for name in ("device", "slug", "git_commit")} | {"engines": engines})


if __name__ == "__main__":
    run(main)
