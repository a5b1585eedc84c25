"""Devices, what a roofline says of a model on them, and what a compiler says of chips that are not here.

python -m tradewind.hardware devices
python -m tradewind.hardware estimate [--device NAME ...] [--chips N] [--rows N ...] [--context N] [--bits B ...]
python -m tradewind.hardware bench [--variant NAME ...] [--engine ort jax] [--rounds N]
python -m tradewind.hardware plan --slo ttft_p95_ms=300,f1=0.7 --load users=50,think_s=20 [--budget usd_hour=1] [--out FILE]
python -m tradewind.hardware compile --device NAME [--chips N ...] [--program NAME ...] [--json FILE]
"""

import argparse
import os
from importlib.util import find_spec
from pathlib import Path

from tradewind.compression.variant import MANIFEST
from tradewind.config import read_params, run
from tradewind.errors import UserError
from tradewind.files import read_json, write_json
from tradewind.hardware import places
from tradewind.hardware.bench import FOLDER as BENCH_FOLDER
from tradewind.hardware.bench import bench, in_process, trace
from tradewind.hardware.bench import table as bench_table
from tradewind.hardware.compiled import BITS, PROGRAMS, Program, compile_for
from tradewind.hardware.compiled import devices as compiled_devices
from tradewind.hardware.compiled import table as compiled_table
from tradewind.hardware.device import Device, load_device, names
from tradewind.hardware.goal import Budget, Demand, Wanted, read_words
from tradewind.hardware.planner import as_record, plan
from tradewind.hardware.planner import table as plan_table
from tradewind.hardware.roofline import Storage, decode, max_rows, prefill
from tradewind.hardware.training import TrainingPlan
from tradewind.model.config import DecoderConfig
from tradewind.planning.simulation import Limits
from tradewind.serving.planned import planned_text
from tradewind.serving.settings import ServeSettings

PLANNED = ("slots", "prefill_chunk", "max_waiting", "max_len", "cache_mib", "cache_ttl_s")
"""Settings of `serve` that a plan rests on."""
LIBRARIES = {"ort": "onnxruntime", "jax": "jax"}
"""Of each engine that is benched."""


def main() -> None:
    given = arguments()
    given.command(given)


def run_devices(given: argparse.Namespace) -> None:
    """The table of devices, dense peaks."""
    head = "| name | device | bf16 TFLOP/s | int8 | memory GB | GB/s | power W | $/h | not read but recalled |"
    print(f"{head}\n|---|---|---:|---:|---:|---:|---:|---:|---|")
    for name in names():
        device = load_device(name)
        peaks, price = device.peak_tflops, device.price_usd_hour
        recalled = sorted({key for source in device.sources if source.confidence == "recalled" for key in source.of})
        cells = [name, device.name, *(_said(peaks.get(dtype)) for dtype in ("bfloat16", "int8")), _said(device.memory_gb),
                 _said(device.bandwidth_gbs), _said(device.power_w),
                 f"{price.low:.2f} to {price.high:.2f}" if price else "-", ", ".join(recalled) or "-"]  # fmt: skip
        print(f"| {' | '.join(cells)} |")


def run_estimate(given: argparse.Namespace) -> None:
    """Bounds (no program is faster) and estimates at a share of the peaks, a line for each device, bits and rows."""
    shape = read_shape(given.model)
    split = f"; {given.chips} chips share every matrix" if given.chips > 1 else ""
    print(f"{shape.num_parameters / 1e6:.1f} M parameters, context {given.context}, prompt {given.prompt}; modelled: bound "
          f"at the peaks, estimate at {given.reach:.0%} of them, with launches and padding{split}\n")  # fmt: skip
    head = "| device | weights | rows | decode tok/s, bound | estimate | limit | prefill ms, bound | estimate | most rows |"
    print(f"{head}\n|---|---:|---:|---:|---:|---|---:|---:|---:|")
    for name in given.device or names():
        device = load_device(name)
        for bits in given.bits:
            for rows in given.rows:
                print(_estimated(device, shape, bits, rows, given))


def _estimated(device: Device, shape: DecoderConfig, bits: float, rows: int, given: argparse.Namespace) -> str:
    if (dtype := device.dtype) is None:
        return f"| {device.name} | {bits:g} bits | {rows} | multiplies no floats | | | | | |"
    storage = Storage(f"{bits:g}-bit", {"other": bits}, {"other": dtype})
    bound, likely, chips = device.machine(), device.machine(given.reach), given.chips
    try:
        least, step = (decode(shape, storage, machine, rows, given.context, chips) for machine in (bound, likely))
        fastest, first = (prefill(shape, storage, machine, given.prompt, chips=chips) for machine in (bound, likely))
    except UserError as error:
        return f"| {device.name} | {bits:g} bits | {rows} | {error} | | | | | |"
    chip = ", on the chip" if step.on_chip else ""
    most = max_rows(shape, storage, bound, given.context, chips=chips)
    return (f"| {device.name} | {bits:g} bits | {rows} | {rate_of(rows, least.least_s)} | {rows / step.seconds:,.0f} | "
            f"{step.bound}{chip} | {1000 * fastest.least_s:.2f} | {1000 * first.seconds:.2f} | {most:,} |")  # fmt: skip


def rate_of(rows: int, seconds: float) -> str:
    """Tokens a second; `-` where nothing bounds them, because everything stays on a chip whose own memory has no figure."""
    return f"{rows / seconds:,.0f}" if seconds else "-"


def run_bench(given: argparse.Namespace) -> None:
    """Every variant, or those named, through the engines whose library is here; a device that is busy or missing is said."""
    known = {path.parent.name: path.parent for path in sorted(given.variants.glob(f"*/{MANIFEST}"))}
    if not known:
        raise UserError(f"{given.variants}: no variants there (`make repro` makes them, or pass --variants FOLDER)")
    if unknown := sorted(set(given.variant or ()) - set(known)):
        raise UserError(f"unknown variant {unknown[0]!r} (choices: {', '.join(known)})")
    missing = {name: library for name, library in LIBRARIES.items() if find_spec(library) is None}
    for name in missing:
        if name in (given.engine or ()):
            raise UserError(f"engine {name} needs {missing[name]}, which is not installed")
        print(f"engine {name} is left out: {missing[name]} is not installed")
    engines = given.engine or [name for name in LIBRARIES if name not in missing]
    chosen = {name: known[name] for name in given.variant or known}
    rows = tuple(1 << bit for bit in range(given.slots.bit_length()))
    plan = {"slots": given.slots, "max_len": given.max_len, "threads": given.threads, "repeats": given.rounds, "warm_up": 1,
            "rows": rows}  # fmt: skip
    training = TrainingPlan(steps=given.train_steps) if given.train_steps else None
    print(bench_table(bench(chosen, engines, plan, given.seed, given.out, training)))
    if given.traces:
        for name, folder in chosen.items():
            in_process(trace, folder, plan, given.traces / name)
        print(f"traces of engine jax: {given.traces}")


def run_plan(given: argparse.Namespace) -> None:
    """The Pareto set, the choice with its reasons, and the file for `make serve` or `make cluster`."""
    wanted, demand = read_words(Wanted, given.slo, "--slo"), read_words(Demand, given.load, "--load")
    budget, reports = read_words(Budget, given.budget, "--budget"), given.reports
    known = places.models(reports)
    if not known:
        raise UserError(f"{reports / 'hardware'}: nothing was measured on any host yet: run `make bench`")
    serve = read_params()["serve"] if Path("params.yaml").is_file() else {}
    served = ServeSettings(**{name: serve[name] for name in PLANNED if name in serve})
    if demand.longest > served.max_len:
        raise UserError(f"--load: prompts and answers come to {demand.longest} tokens together; a server takes "
                        f"{served.max_len} (serve.max_len)")  # fmt: skip
    limits = Limits(served.slots, served.prefill_chunk, served.max_waiting)
    where, left_out = places.everywhere(known, reports, given.device or [places.MEASURED, *names()], given.reach,
                                        demand.prompt + demand.answer, served.slots)  # fmt: skip
    for why in sorted(set(left_out.values())):
        print(f"left out ({why}): {', '.join(name for name, one in left_out.items() if one == why)}")
    if given.device and not any(where.values()):
        raise UserError("no device of --device can be planned for, as said above")
    planned = plan(known, places.known_f1(reports), where, wanted, demand, budget, limits,
                   places.server_overhead(reports), given.seed, served)  # fmt: skip
    chosen = planned.chosen
    print(plan_table(planned, demand))
    print(f"\nchosen: {chosen.name}")
    for reason in planned.reasons:
        print(f"- {reason}")
    print("F1 is measured. Prices: of a device, the geometric mean of the cheapest and the dearest offer in conf/hardware; "
          "of cores, in proportion to one machine's. Replicas and TTFT are simulated from times as told")  # fmt: skip
    asked = {
        "--slo": given.slo,
        "--load": given.load,
        "--budget": given.budget,
        "--device": " ".join(given.device or ()),
    }
    words = " ".join(f"{name} {value}" for name, value in asked.items() if value)
    about = (
        f"python -m tradewind.hardware plan {words}\n{chosen.name}\n"
        f"TTFT p95 {chosen.ttft_p95_ms:.0f} ms expected of what the cache leaves; times: {chosen.place.tier}"
    )
    values = {**serve, "model": chosen.model.name, "engine": chosen.place.engine, "cache": chosen.cache, "lookup_tokens": 0,
              "slots": limits.slots, "ttft_goal_ms": round(wanted.ttft_p95_ms)}  # fmt: skip
    if chosen.place.threads:
        values["threads"] = chosen.place.threads
    given.out.parent.mkdir(parents=True, exist_ok=True)
    given.out.write_text(planned_text(values, chosen.replicas, about), encoding="utf-8")
    print(f"\nwritten: {given.out}; `make {'serve' if chosen.replicas == 1 else 'cluster'} PLAN={given.out}`")
    if given.json:
        told = {"chosen": as_record(chosen), "pareto": [as_record(one) for one in planned.pareto]}
        goals = {"slo": given.slo, "load": given.load, "budget": given.budget}
        write_json(given.json, {**goals, **told, "reasons": planned.reasons})


def run_compile(given: argparse.Namespace) -> None:
    """Compile each program for each number of chips, a line as each is done."""
    shape, rows = read_shape(given.model), []
    for device in given.device:
        for chips in given.chips:
            for name in given.program:
                program = Program(name, given.rows, given.length, given.tensor, given.remat, given.bits)
                answer = compile_for(device, chips, program, shape, given.python)
                rows.append({"device": device, "chips": chips, "program": name, "rows": given.rows, "length": given.length,
                             "tensor": given.tensor, "bits": given.bits, **answer})  # fmt: skip
                lines = compiled_table(rows[-1:]).splitlines()
                print("\n".join(lines if len(rows) == 1 else lines[-1:]), flush=True)
    if given.json:
        write_json(given.json, {"tier": "compiled", "programs": rows})


def read_shape(folder: Path) -> DecoderConfig:
    """Of a model's folder with its config.json."""
    path = folder / "config.json"
    if not path.exists():
        raise UserError(f"{path}: no such file (--model takes a folder of float weights, such as artifacts/student)")
    return DecoderConfig.from_hf(read_json(path))


def _said(value: float | None) -> str:
    return "-" if value is None else f"{value:,g}"


def arguments(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tradewind.hardware", description=(__doc__ or "").split("\n")[0])
    commands = parser.add_subparsers(required=True)
    default = "(default: %(default)s)"
    shared = argparse.ArgumentParser(add_help=False)
    shared.add_argument(
        "--model", type=Path, metavar="FOLDER", default=Path("artifacts/base"), help=f"has config.json {default}"
    )
    devices = commands.add_parser("devices", help="what is known of each device, and from where")
    devices.set_defaults(command=run_devices)
    estimate = commands.add_parser("estimate", parents=[shared], help="what a roofline says of a model on devices")
    estimate.add_argument("--device", nargs="+", metavar="NAME", help="of conf/hardware (default: all)")
    estimate.add_argument("--chips", type=positive, default=1, metavar="N", help=f"that share every matrix {default}")
    estimate.add_argument("--bits", type=bits, nargs="+", default=[16, 8.5, 4.5], metavar="B", help="of a weight, scales "
                          f"included {default}")  # fmt: skip
    estimate.add_argument("--rows", type=positive, nargs="+", default=[1, 32], metavar="N", help=f"at once {default}")
    estimate.add_argument("--context", type=positive, default=512, metavar="N", help=f"tokens a row sees {default}")
    estimate.add_argument("--prompt", type=positive, default=256, metavar="N", help=f"tokens of a prefill {default}")
    estimate.add_argument("--reach", type=share, default=0.6, metavar="R", help=f"share of the peaks {default}")
    estimate.set_defaults(command=run_estimate)
    benching = commands.add_parser("bench", help="measure variants on this host's devices, and hold the roofline to it")
    benching.add_argument("--variant", nargs="+", metavar="NAME", help="(default: all)")
    benching.add_argument("--variants", type=Path, default=Path("artifacts/variants"), metavar="FOLDER", help=default)
    benching.add_argument("--engine", nargs="+", choices=list(LIBRARIES), help="(default: those that are installed)")
    benching.add_argument("--rounds", type=positive, default=5, metavar="N", help=f"counted {default}")
    benching.add_argument("--slots", type=positive, default=8, metavar="N", help=f"rows at most {default}")
    benching.add_argument("--max-len", type=positive, default=256, metavar="N", help=f"tokens of a slot {default}")
    benching.add_argument(
        "--threads", type=positive, default=os.cpu_count() or 1, metavar="N", help=f"of ort {default}"
    )
    benching.add_argument(
        "--train-steps", type=count, default=8, metavar="N", help=f"measured by JAX; 0: none {default}"
    )
    benching.add_argument("--traces", type=Path, metavar="FOLDER", help="keep JAX's profile of each variant there")
    benching.add_argument("--seed", type=int, default=0, help=default)
    benching.add_argument("--out", type=Path, default=BENCH_FOLDER, metavar="FOLDER", help=f"of the result {default}")
    benching.set_defaults(command=run_bench)
    planning = commands.add_parser("plan", help="variant, device, replicas and cache for a goal, a load and a budget")
    planning.add_argument("--slo", default="", metavar="WORDS", help="ttft_p95_ms=300,itl_ms=60,f1=0.7")
    planning.add_argument("--load", required=True, metavar="WORDS", help="rate=2 (requests/s) or users=50,think_s=20; also "
                          "prompt=180,shared=30,answer=60,spread=0.4 (tokens), repeats=0.8 (Zipf)")  # fmt: skip
    planning.add_argument("--budget", default="", metavar="WORDS", help="usd_hour=1,watts=100,gb=24")
    planning.add_argument("--device", nargs="+", metavar="NAME", help=f"{places.MEASURED}: hosts that were; or of "
                          "conf/hardware (default: all)")  # fmt: skip
    planning.add_argument(
        "--reach", type=share, default=0.6, metavar="R", help=f"share of modelled devices' peaks {default}"
    )
    planning.add_argument("--reports", type=Path, default=Path("reports"), metavar="FOLDER", help=default)
    planning.add_argument("--out", type=Path, default=Path("conf/serve/plan.yaml"), metavar="FILE", help=default)
    planning.add_argument("--json", type=Path, metavar="FILE", help="write the result there, too")
    planning.add_argument("--seed", type=int, default=0, help=default)
    planning.set_defaults(command=run_plan)
    compiling = commands.add_parser(
        "compile", parents=[shared], help="compile programs for TPUs and GPUs that are not here"
    )
    compiling.add_argument("--device", nargs="+", required=True, metavar="NAME", help=", ".join(compiled_devices()))
    compiling.add_argument("--chips", type=positive, nargs="+", default=[1, 4], metavar="N", help=default)
    compiling.add_argument("--program", nargs="+", default=list(PROGRAMS), choices=PROGRAMS, help=default)
    compiling.add_argument("--rows", type=positive, default=8, metavar="N", help=f"a chip {default}")
    compiling.add_argument("--length", type=positive, default=512, metavar="N", help=f"tokens of a row {default}")
    compiling.add_argument(
        "--bits", type=int, default=16, choices=BITS, help=f"of weights; integers for prefill and decode {default}"
    )
    compiling.add_argument(
        "--tensor", type=positive, default=1, metavar="N", help=f"chips that share a matrix {default}"
    )
    compiling.add_argument("--remat", action="store_true", help="training: recompute layers in the backward pass")
    compiling.add_argument(
        "--python", type=Path, metavar="PYTHON", help="has the compiler (default: that of `make tpu` or `make cuda`)"
    )
    compiling.add_argument("--json", type=Path, metavar="FILE", help="write the result there, too")
    compiling.set_defaults(command=run_compile)
    return parser.parse_args(argv)


def positive(text: str) -> int:
    if (value := int(text)) < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, not {value}")
    return value


def count(text: str) -> int:
    if (value := int(text)) < 0:
        raise argparse.ArgumentTypeError(f"must be at least 0, not {value}")
    return value


def bits(text: str) -> float:
    if not 1 <= (value := float(text)) <= 64:
        raise argparse.ArgumentTypeError(f"must be from 1 to 64, not {text}")
    return value


def share(text: str) -> float:
    if not 0 < (value := float(text)) <= 1:
        raise argparse.ArgumentTypeError(f"must be above 0 and at most 1, not {value}")
    return value


if __name__ == "__main__":
    run(main)
