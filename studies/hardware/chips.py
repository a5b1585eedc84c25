"""The real training, prefill and decode programs compiled for chips that are not here.

    python -m studies.hardware.chips

Results: reports/hardware/compiled.json, by device, chips and program. Not covered: times, which no compiler knows.
"""

from pathlib import Path

from tqdm import tqdm

from tradewind.config import read_params, run
from tradewind.files import read_json, write_json
from tradewind.hardware.compiled import Program, compile_for, table
from tradewind.model.config import DecoderConfig
from tradewind.tracking import git_commit

PLAN, RESULT = Path("studies/hardware/params.yaml"), Path("reports/hardware/compiled.json")


def main() -> None:
    given = read_params(PLAN)["chips"]
    shape = DecoderConfig.from_hf(read_json(Path(given["model"]) / "config.json"))
    asked = [
        (device, chips, name) for device in given["devices"] for chips in given["chips"] for name in given["programs"]
    ]
    rows = []
    for device, chips, name in tqdm(asked, desc="compiling", disable=None):
        work = given["programs"][name]
        answer = compile_for(device, chips, Program(name, work["rows"], work["length"]), shape)
        rows.append({"device": device, "chips": chips, "program": name, **work, **answer})
    write_json(RESULT, {"tier": "compiled", "model": given["model"], "git_commit": git_commit(), "programs": rows})
    print(table(rows))


if __name__ == "__main__":
    run(main)
