"""What a variant's containers hold and how their runtimes agree. The GGUF is made with the variant: NAME/model.gguf.

python -m tradewind.compression compare [--prompts FILE] [--variant NAME ...] [--json OUT]
python -m tradewind.compression litert [--variant NAME ...] [--out FOLDER] [--json OUT]
"""

import argparse
from pathlib import Path

from tradewind.compression.compare import compare_variant, table
from tradewind.compression.compare_integers import differing, from_gguf
from tradewind.compression.compare_runtimes import find_llama
from tradewind.compression.export_litert import PYTHON, benchmark, export_litert, integers
from tradewind.compression.variant import load_variant
from tradewind.config import run
from tradewind.errors import UserError
from tradewind.evaluation.variant import load_manifest
from tradewind.files import write_json

COUNT = 20


def main() -> None:
    given = arguments()
    given.command(given)


def run_compare(given: argparse.Namespace) -> None:
    made = []
    for name in chosen(given):
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
    for name in chosen(given):
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


def chosen(given: argparse.Namespace) -> list[str]:
    """Names of the variants, once it is known that all of them, and the runtimes that were asked for, are there."""
    if "llama" in given and given.llama:
        find_llama(given.llama)
    if given.litert != PYTHON and not given.litert.is_file():
        raise UserError(f"--litert {given.litert}: no such file")
    names: list[str] = given.variant or quantized(given.variants)
    for name in names:
        load_manifest(given.variants, name)
    return names


def quantized(variants: Path) -> list[str]:
    """Names of the variants that have a GGUF file, which hold integers."""
    return sorted(path.parent.name for path in variants.glob("*/model.gguf")) or ["student-int4-qat"]


def arguments(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tradewind.compression", description=(__doc__ or "").split("\n")[0])
    commands = parser.add_subparsers(required=True)
    shared = argparse.ArgumentParser(add_help=False)
    default = "(default: %(default)s)"
    shared.add_argument(
        "--variants", type=Path, metavar="FOLDER", default=Path("artifacts/variants"), help=f"where they are {default}"
    )
    shared.add_argument("--variant", action="append", metavar="NAME", help="default: every quantized one")
    shared.add_argument("--threads", type=positive, default=2, metavar="N", help=f"of each runtime {default}")
    shared.add_argument("--litert", type=Path, default=PYTHON, metavar="PYTHON", help=f"of `make litert` {default}")
    shared.add_argument("--json", type=Path, metavar="FILE", help="write the result there, too")
    compare = commands.add_parser(
        "compare", parents=[shared], help="the agreement table of all runtimes", description="Of each variant: whether the "
        "integers in its files are the same, and how the runtimes agree on prompts. Ten minutes a variant with the default "
        "questions, most of them of LiteRT: --count or --prompts ask fewer.")  # fmt: skip
    compare.add_argument("--prompts", type=Path, metavar="FILE", help="*.jsonl: rows of messages or prompt; another name: a "
                         "prompt a line; without it, questions of the test set")  # fmt: skip
    compare.add_argument(
        "--corpus", type=Path, metavar="FOLDER", default=Path("artifacts/corpus"), help=f"has the test set {default}"
    )
    compare.add_argument("--count", type=positive, metavar="N", help=f"questions of the test set (default: {COUNT})")
    compare.add_argument("--tokens", type=positive, default=8, metavar="N", help=f"of each answer {default}")
    compare.add_argument(
        "--max-len", type=int, default=1024, metavar="N", help=f"tokens of prompt and answer {default}"
    )
    compare.add_argument("--llama", metavar="PROGRAM", help="llama-server, or a Python that has xllamacpp (default: "
                         "llama-server on the PATH, else that of `make llama`)")  # fmt: skip
    compare.set_defaults(command=run_compare)
    litert = commands.add_parser("litert", parents=[shared], help="a .tflite of the same integers, and its speed")
    litert.add_argument(
        "--out", type=Path, metavar="FOLDER", default=Path(".tradewind/litert"), help=f"for NAME.tflite {default}"
    )
    litert.add_argument("--length", type=positive, default=512, metavar="N", help=f"positions of the caches {default}")
    litert.add_argument("--tokens", type=positive, default=30, metavar="N", help=f"timed, less than --length {default}")
    litert.set_defaults(command=run_litert)
    given = parser.parse_args(argv)
    if "length" in given and given.tokens >= given.length:
        litert.error("--tokens must be less than --length")
    if "count" in given:
        if given.prompts and given.count:
            compare.error("--count is of the test set's questions: not with --prompts")
        given.count = given.count or COUNT
    return given


def positive(text: str) -> int:
    if (value := int(text)) < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, not {value}")
    return value


if __name__ == "__main__":
    run(main)
