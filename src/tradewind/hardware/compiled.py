"""What a compiler says of chips that are not here: whether a program fits, what it holds, how its chips talk.

The second of three tiers of evidence: memory and collectives are the compiler's, for the program that would run; time is
not (a TPU's own estimate is negative for decode steps and counts padding, CUDA's compiler has none), and comes from the
roofline. A worker process compiles (`compile_worker`), in an environment that has the platform's compiler: `make tpu` or
`make cuda` makes it. A TPU's compiler refuses what does not fit; of a GPU, what is held is compared with its memory here.

Not covered: whether the compiled program is right, or fast; several slices; GPUs of several hosts; products that CUDA's
libraries would be tuned for on the device (without it, the compiler writes its own kernels).
"""

import json
import os
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tradewind.errors import UserError
from tradewind.hardware.device import Device, load_device, names
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
GPUS = {chips: f"1x1x{chips}" for chips in (1, 2, 4, 8)}
"""Chips of one host -> topology as CUDA's plugin names it."""
PROGRAMS = ("train", "prefill", "decode")
BITS = (16, 8, 4)


@dataclass(frozen=True)
class Compiler:
    """python: has the platform's plugin. get: what to say where it does not. environment: of a host without such chips,
    which is not to look for them. usable: share of a chip's memory that JAX takes by default."""

    python: Path
    get: str
    environment: Mapping[str, str]
    usable: float = 1.0


COMPILERS = {
    "tpu": Compiler(
        Path(".venv-tpu/bin/python"),
        "no TPU compiler here: `make tpu` gets it (1.3 GB), or pass --python with a Python that has libtpu",
        {
            "TPU_SKIP_MDS_QUERY": "1",
            "TPU_ACCELERATOR_TYPE": "v5litepod-4",
            "TPU_WORKER_HOSTNAMES": "localhost",
            "TPU_WORKER_ID": "0",
            "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
            "JAX_PLATFORMS": "cpu",
        },
    ),
    "cuda": Compiler(
        Path(".venv-cuda/bin/python"),
        "no CUDA compiler here: `make cuda` gets it (1.5 GB), or pass --python with a Python that has JAX's CUDA plugin",
        {"JAX_PLATFORMS": "cpu"},
        usable=0.75,  # XLA_PYTHON_CLIENT_MEM_FRACTION: docs.jax.dev, "GPU memory allocation"
    ),
}
WORKER_S = 1200


@dataclass(frozen=True)
class Program:
    """What is compiled. rows: a chip. length: of a training row, a prompt, or the context of a decode step. tensor: chips
    that share a matrix; the others share rows. bits: of weights: 16, or 8 and 4 for integers, as the engine keeps them."""

    name: str
    rows: int
    length: int
    tensor: int = 1
    remat: bool = False
    bits: int = 16

    def __post_init__(self) -> None:
        if self.name not in PROGRAMS:
            raise UserError(f"unknown program {self.name!r} (choices: {', '.join(PROGRAMS)})")
        if self.bits not in BITS:
            raise UserError(f"weights of {self.bits} bits are not compiled here (choices: {', '.join(map(str, BITS))})")
        if self.bits < 16 and (self.name == "train" or self.tensor > 1):
            raise UserError(
                "integer weights are neither trained nor split over chips: leave out bits, or train and tensor"
            )


def compile_for(
    device: str, chips: int, program: Program, model: DecoderConfig, python: Path | None = None
) -> dict[str, Any]:
    """The worker's answer: `fits`, `memory` (bytes a chip), `collectives`, `compile_s`; or `needs`, where it does not fit.
    python: another than the platform's own.

    Raises:
        UserError: no compiler, an unknown device or number of chips, chips that `tensor` does not divide.
    """
    if chips % program.tensor:
        raise UserError(f"{chips} chips cannot be split into groups of {program.tensor}")
    where, known = topology(device, chips), load_device(device)
    request = {
        "platform": platform(device),
        "topology": where,
        "target": target(known) if known.cuda else None,
        "mesh": {"data": chips // program.tensor, "tensor": program.tensor},
        "program": program.name,
        "model": asdict(model),
        "rows": program.rows * chips // program.tensor,
        "length": program.length,
        "dtype": known.dtype,
        "remat": program.remat,
        "bits": program.bits,
    }
    answer, usable = ask(request, python), COMPILERS[platform(device)].usable
    memory = usable * 1e9 * known.memory_gb
    if answer["fits"] and answer["memory"]["peak"] > memory:
        needs = f"needs {answer['memory']['peak'] / 1e9:.1f} GB, of {memory / 1e9:.1f} GB that JAX takes"
        answer = {"fits": False, "needs": needs}
    return answer | {"dtype": known.dtype}


def devices() -> list[str]:
    """Of conf/hardware, those that can be compiled for."""
    return sorted([*TOPOLOGIES, *(name for name in names() if load_device(name).cuda)])


def platform(device: str) -> str:
    return "tpu" if device in TOPOLOGIES else "cuda"


def topology(device: str, chips: int) -> str:
    if device not in (known := devices()):
        raise UserError(f"{device!r} cannot be compiled for here (choices: {', '.join(known)})")
    found = TOPOLOGIES.get(device, GPUS)
    if chips not in found:
        raise UserError(f"{device} comes in {', '.join(map(str, found))} chips here, not in {chips}")
    return found[chips]


def target(device: Device) -> str:
    """OpenXLA's description of a GPU, as text: `GpuTargetConfigProto`. Limits that all of these GPUs share are from the CUDA
    Programming Guide's table of compute capabilities; a block can have all shared memory but 1 KiB since capability 8."""
    assert device.cuda is not None
    cuda = device.cuda
    major, minor = cuda.capability.split(".")
    shared = 1024 * cuda.shared_kib
    info = {
        "threads_per_block_limit": 1024, "threads_per_warp": 32, "threads_per_core_limit": cuda.threads,
        "shared_memory_per_block": 49152, "shared_memory_per_block_optin": shared - (1024 if int(major) >= 8 else 0),
        "shared_memory_per_core": shared, "registers_per_core_limit": 65536, "registers_per_block_limit": 65536,
        "core_count": cuda.multiprocessors, "fpus_per_core": cuda.lanes, "clock_rate_ghz": cuda.clock_ghz,
        "block_dim_limit_x": 2**31 - 1, "block_dim_limit_y": 65535, "block_dim_limit_z": 65535,
        "memory_bandwidth": round(1e9 * device.bandwidth_gbs), "device_memory_size": round(1e9 * device.memory_gb),
        "l2_cache_size": round(2**20 * (device.on_chip_mb or 0)),
    }  # fmt: skip
    lines = [f"  {name}: {value}" for name, value in info.items()]
    lines.append(f"  cuda_compute_capability {{ major: {major} minor: {minor} }}")
    rest = ['platform_name: "CUDA"', "runtime_version { major: 13 }", "dnn_version_info { major: 9 minor: 10 }",
            f'device_description_str: "{device.name}"']  # fmt: skip
    return "\n".join(["gpu_device_info {", *lines, "}", *rest])


def ask(request: Mapping[str, Any], python: Path | None = None) -> dict[str, Any]:
    """Run the worker in the environment of its compiler's Python, or of `python`, with this project's sources."""
    compiler = COMPILERS[request["platform"]]
    python = python or compiler.python
    if not python.exists():
        raise UserError(compiler.get)
    source = str(Path(__file__).parents[2])
    sources = os.pathsep.join(filter(None, (os.environ.get("PYTHONPATH"), source)))
    environment = os.environ | compiler.environment | {"PYTHONPATH": sources}
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
        what = row["program"] if row.get("bits", 16) == 16 else f"{row['program']}, int{row['bits']}"
        first = f"| {row['device']} | {row['chips']} | {what} | {row['rows']} | {row['length']} |"
        if not row["fits"]:
            lines.append(f"{first} does not fit | | | {row['needs'][:80]} |")
            continue
        held = row["memory"]
        talk = ", ".join(f"{count} {name}" for name, count in sorted(row["collectives"].items())) or "none"
        sizes = " | ".join(f"{held[part] / 1e6:,.0f}" for part in ("peak", "argument", "temp"))
        lines.append(f"{first} {sizes} | {talk} |")
    return "\n".join(lines)
