"""What a compiler says of chips that are not here: whether a program fits, what it holds, how its chips talk.

The second of three tiers of evidence: memory and collectives are the compiler's, for the program that would run; time is
not (its own estimate is negative for decode steps and counts padding), and comes from the roofline. A worker process
compiles (`compile_worker`), in an environment that has the platform's compiler: `make tpu` makes it.

Not covered: whether the compiled program is right, or fast; several slices; chips of which no topology is listed.
"""

import json
import os
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tradewind.errors import UserError
from tradewind.model.config import DecoderConfig

TOPOLOGIES: dict[str, dict[int, str]] = {
    f"tpu_{chip}": {
        1: f"{chip}:2x2",  # the smallest there is, of which one chip is used
        4: f"{chip}:2x2",
        8: f"{chip}:2x4",
        16: f"{chip}:4x4",
        32: f"{chip}:4x8",
        64: f"{chip}:8x8",
    }
    for chip in ("v5e", "v6e")
}
"""Device of conf/hardware -> chips -> topology as libtpu names it."""
PROGRAMS = ("train", "prefill", "decode")
PYTHON = Path(".venv-tpu/bin/python")
GET_IT = "no TPU compiler here: `make tpu` gets it (1 GB), or pass --python with a Python that has jax and libtpu"
ENVIRONMENT = {
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_ACCELERATOR_TYPE": "v5litepod-4",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_WORKER_ID": "0",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
    "JAX_PLATFORMS": "cpu",
}
"""A host that has no TPU, and is not to look for one."""
WORKER_S = 1200


@dataclass(frozen=True)
class Program:
    """What is compiled. rows: a chip. length: of a training row, a prompt, or the context of a decode step. tensor: chips
    that share a matrix; the others share rows."""

    name: str
    rows: int
    length: int
    tensor: int = 1
    dtype: str = "bfloat16"
    remat: bool = False

    def __post_init__(self) -> None:
        if self.name not in PROGRAMS:
            raise UserError(f"unknown program {self.name!r} (choices: {', '.join(PROGRAMS)})")


def compile_for(
    device: str, chips: int, program: Program, model: DecoderConfig, python: Path = PYTHON
) -> dict[str, Any]:
    """The worker's answer: `fits`, `memory` (bytes a chip), `collectives`, `compile_s`; or `needs`, where it does not fit.

    Raises:
        UserError: no compiler, an unknown device or number of chips, chips that `tensor` does not divide.
    """
    if chips % program.tensor:
        raise UserError(f"{chips} chips cannot be split into groups of {program.tensor}")
    request = {
        "platform": "tpu",
        "topology": topology(device, chips),
        "target": None,
        "mesh": {"data": chips // program.tensor, "tensor": program.tensor},
        "program": program.name,
        "model": asdict(model),
        "rows": program.rows * chips // program.tensor,
        "length": program.length,
        "dtype": program.dtype,
        "remat": program.remat,
    }
    return ask(request, python)


def topology(device: str, chips: int) -> str:
    if device not in TOPOLOGIES:
        raise UserError(f"{device!r} cannot be compiled for here (choices: {', '.join(sorted(TOPOLOGIES))})")
    if chips not in TOPOLOGIES[device]:
        raise UserError(f"{device} comes in {', '.join(map(str, TOPOLOGIES[device]))} chips here, not in {chips}")
    return TOPOLOGIES[device][chips]


def ask(request: Mapping[str, Any], python: Path) -> dict[str, Any]:
    """Run the worker in the environment of `python` with this project's sources."""
    if not python.exists():
        raise UserError(GET_IT)
    source = str(Path(__file__).parents[2])
    environment = (
        os.environ | ENVIRONMENT | {"PYTHONPATH": os.pathsep.join(filter(None, (os.environ.get("PYTHONPATH"), source)))}
    )
    command = [str(python), "-m", "tradewind.hardware.compile_worker"]
    try:
        done = subprocess.run(command, input=json.dumps(request), env=environment, capture_output=True, text=True,
                              timeout=WORKER_S, check=False)  # fmt: skip
    except subprocess.TimeoutExpired:
        raise UserError(
            f"compiling {request['program']} for {request['topology']} took longer than {WORKER_S} s"
        ) from None
    if done.returncode:
        said = done.stderr.strip().splitlines() or ["no word"]
        raise UserError(f"compiling {request['program']} for {request['topology']} failed: {said[-1][:300]}")
    answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return answer


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Markdown: one line a program, memory in MB a chip."""
    head = "| device | chips | program | rows a chip | length | MB a chip | of it arguments | temporary | collectives |"
    lines = [head, "|---|---:|---|---:|---:|---:|---:|---:|---|"]
    for row in rows:
        first = f"| {row['device']} | {row['chips']} | {row['program']} | {row['rows']} | {row['length']} |"
        if not row["fits"]:
            lines.append(f"{first} does not fit | | | {row['needs'][:80]} |")
            continue
        held = row["memory"]
        talk = ", ".join(f"{count} {name}" for name, count in sorted(row["collectives"].items())) or "none"
        sizes = " | ".join(f"{held[part] / 1e6:,.0f}" for part in ("peak", "argument", "temp"))
        lines.append(f"{first} {sizes} | {talk} |")
    return "\n".join(lines)
