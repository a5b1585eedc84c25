"""What a variant's containers hold and how their runtimes agree.

python -m tradewind.compression compare [--prompts FILE] [--variant NAME ...] [--json OUT]
python -m tradewind.compression litert [--variant NAME ...] [--out FOLDER] [--json OUT]
"""

import argparse
from pathlib import Path

from tradewind.compression.compare import compare_variant, table
from tradewind.compression.compare_integers import differing, from_gguf
from tradewind.compression.export_litert import benchmark, export_litert, integers
from tradewind.compression.variant import load_variant
from tradewind.config import run
from tradewind.evaluation.variant import load_manifest
from tradewind.files import write_json


def main() -> None:
    given = arguments()
    given.command(given)


def run_compare(given: argparse.Namespace) -> None:
    made = []
    for name in given.variant or quantized(given.variants):
        result = compare_variant(
            name,
            given.variants,
            given.prompts,
            given.corpus,
            given.count,
            given.tokens,
            given.max_len,
            given.threads,
            given.llama,
            given.litert,
        )
        print(table(result), end="\n\n", flush=True)
        made.append(result.as_json())
    if given.json:
        write_json(given.json, {"variants": made})


def run_litert(given: argparse.Namespace) -> None:
    """Export, read the integers back, time the decode step."""
    made = {}
    for name in given.variant or quantized(given.variants):
        load_manifest(given.variants, name)
        folder, out = given.variants / name, given.out / f"{name}.tflite"
        export_litert(folder, out, given.length, given.litert)
        wrong = differing(from_gguf(folder, load_variant(folder)), integers(out, given.litert))
        found = benchmark(out, given.tokens, given.threads, given.litert) | {"tensors_that_differ": len(wrong)}
        same = "the GGUF's codes and scales" if not wrong else f"{len(wrong)} tensors differ, first {wrong[0]}"
        size, peak = found["bytes"] / 1e6, found["peak_rss_bytes"] / 2**20
        speed = f"{found['decode_tokens_per_s']:.1f} tok/s decode, load {found['load_s']:.2f} s"
        print(f"{out}: {size:.1f} MB, {same}; {speed}, peak RSS {peak:.0f} MiB", flush=True)
        made[name] = found
    if given.json:
        write_json(given.json, {"variants": made})


def quantized(variants: Path) -> list[str]:
    """Names of the variants that have a GGUF file, which hold integers."""
    return sorted(path.parent.name for path in variants.glob("*/model.gguf")) or ["student-int4-qat"]


def arguments(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tradewind.compression", description=(__doc__ or "").split("\n")[0])
    commands = parser.add_subparsers(required=True)
    shared = argparse.ArgumentParser(add_help=False)
    shared.add_argument("--variants", type=Path, default=Path("artifacts/variants"))
    shared.add_argument("--corpus", type=Path, default=Path("artifacts/corpus"))
    shared.add_argument("--variant", action="append", help="default: every quantized one")
    shared.add_argument("--threads", type=int, default=2)
    shared.add_argument("--litert", type=Path, default=Path(".venv-litert/bin/python"), help="Python of `make litert`")
    shared.add_argument("--json", type=Path, help="write the result there, too")
    compare = commands.add_parser("compare", parents=[shared], help="the agreement table of all runtimes")
    compare.add_argument(
        "--prompts", type=Path, help="JSONL of messages or prompt, or a plain text file, a prompt a line"
    )
    compare.add_argument("--count", type=int, default=20, help="questions of the test set where no prompts are given")
    compare.add_argument("--tokens", type=int, default=8, help="of each answer")
    compare.add_argument("--max-len", type=int, default=1024)
    compare.add_argument("--llama", help="llama-server, or a Python that has xllamacpp")
    compare.set_defaults(command=run_compare)
    litert = commands.add_parser("litert", parents=[shared], help="a .tflite of the same integers, and its speed")
    litert.add_argument("--out", type=Path, default=Path(".tradewind/litert"))
    litert.add_argument("--length", type=int, default=512, help="positions of the caches")
    litert.add_argument("--tokens", type=int, default=30, help="timed, less than --length")
    litert.set_defaults(command=run_litert)
    given = parser.parse_args(argv)
    if given.tokens < 1 or ("length" in given and given.tokens >= given.length):
        parser.error("--tokens: at least 1" + (", and less than --length" if "length" in given else ""))
    return given


if __name__ == "__main__":
    run(main)
