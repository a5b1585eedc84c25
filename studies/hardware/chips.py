"""The real training, prefill and decode programs compiled for chips that are not here.

    python -m studies.hardware.chips

As many at once as there are cores: a compilation takes one or two minutes of one core, the more the more chips.
Results: reports/hardware/compiled.json, by device, chips and program. Not covered: times, which no compiler knows.
"""

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

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
        (device, chips, name)
        for device, counts in given["devices"].items()
        for chips in counts
        for name in given["programs"]
    ]

    def compiled(of: tuple[str, int, str]) -> dict[str, Any]:
        device, chips, name = of
        work = given["programs"][name]
        program, bits = work.get("program", name), work.get("bits", 16)
        answer = compile_for(device, chips, Program(program, work["rows"], work["length"], bits=bits), shape)
        return {"device": device, "chips": chips, **work, "program": program, "bits": bits, **answer}

    with ThreadPoolExecutor(os.cpu_count()) as at_once:
        rows = list(tqdm(at_once.map(compiled, asked), desc="compiling", total=len(asked)))
    head = {"tier": "compiled", "model": given["model"], "parameters": shape.num_parameters, "git_commit": git_commit()}
    write_json(RESULT, head | {"programs": rows})
    print(table(rows))


if __name__ == "__main__":
    run(main)
