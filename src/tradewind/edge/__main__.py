"""Answer under a memory cap, or serve the page that answers in the browser: `python -m tradewind.edge answer --help`."""

import argparse
import json
import math
import sys
from pathlib import Path

from tradewind.compression.variant import MANIFEST
from tradewind.config import run
from tradewind.edge.ask import Ask
from tradewind.edge.cap import MIB
from tradewind.errors import UserError

ARTIFACTS = Path("artifacts")
VARIANTS = ARTIFACTS / "variants"
CORPUS = ARTIFACTS / "corpus"


def main() -> None:
    options = arguments()
    folder = variant_folder(options.variant, options.variants)
    if options.command == "answer":
        answer(options, folder)
    else:
        from tradewind.edge.serve import serve

        serve(folder, options.corpus / "test.jsonl", options.port, options.max_len)


def arguments(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tradewind.edge", description=(__doc__ or "").split(":")[0] + ".")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    asked = commands.add_parser("answer", help="one question, one core, in a process of its own under a memory cap")
    asked.add_argument("question", metavar="QUESTION")
    asked.add_argument("--passage", metavar="FILE", help="the documentation to answer from; - reads standard input; "
                       "without it, the answer is nearly always that the documentation does not say")  # fmt: skip
    asked.add_argument("--memory-mib", type=int, default=256, metavar="N", help="the cap (default: %(default)s)")
    asked.add_argument("--max-tokens", type=int, default=96, metavar="N", help="of the answer (default: %(default)s)")
    asked.add_argument("--temperature", type=float, default=0.0, help="0 is greedy (default)")
    asked.add_argument("--seed", type=int, default=0, help="of the draws (default: %(default)s)")
    asked.add_argument("--json", action="store_true", help="print answer and figures as JSON instead")
    page = commands.add_parser("serve", help="the page, on 127.0.0.1")
    page.add_argument("--port", type=int, default=8088, help="0 takes a free one (default: %(default)s)")
    page.add_argument("--max-len", type=int, default=1024, help="tokens of prompt and answer (default: %(default)s)")
    page.add_argument("--corpus", type=Path, default=CORPUS, help="where the examples come from (default: %(default)s)")
    for command in (asked, page):
        command.add_argument("--variant", default="student-int4-qat", help="by name (default: %(default)s)")
        command.add_argument("--variants", type=Path, default=VARIANTS, help="their folder (default: %(default)s)")
    return parser.parse_args(argv)


def variant_folder(name: str, variants: Path) -> Path:
    """Raises UserError with the choices, and where a study has a variant of that name."""
    choices = sorted(path.parent.name for path in variants.glob(f"*/{MANIFEST}"))
    if name not in choices:
        known = f"choices: {', '.join(choices)}" if choices else f"there is none under {variants}: run `make repro`"
        studies = sorted(ARTIFACTS.glob("studies/*/variants"))
        found = [f"; or --variants {folder}" for folder in studies if (folder / name / MANIFEST).is_file()]
        raise UserError(f"unknown variant {name!r} ({known}{''.join(found)})")
    return variants / name


def answer(options: argparse.Namespace, folder: Path) -> None:
    from tradewind.edge.capped import CapExceeded, answer_capped

    if not options.question.strip():
        raise UserError("the question is blank")
    for flag, least in {"max_tokens": 1, "memory_mib": 1, "seed": 0}.items():
        if getattr(options, flag) < least:
            raise UserError(f"--{flag.replace('_', '-')} must be at least {least}")
    if not 0 <= options.temperature < math.inf:
        raise UserError("--temperature must be a number of at least 0")
    passage = read_passage(options.passage)
    ask = Ask(str(folder), options.question, passage, options.max_tokens, options.temperature, options.seed)
    pieces: list[str] = []
    try:
        figures = answer_capped(ask, options.memory_mib, pieces.append if options.json else show)
    except CapExceeded as error:
        raise UserError(f"{error}; a larger --memory-mib helps, or a smaller variant (--variant)") from None
    if options.json:
        print(json.dumps({"answer": "".join(pieces), **figures}, indent=2))
    else:
        print(f"\n\n{summary(figures)}")


def read_passage(file: str | None) -> str:
    if file is None:
        return ""
    try:
        return (sys.stdin.read() if file == "-" else Path(file).read_text(encoding="utf-8")).strip()
    except OSError as error:
        raise UserError(f"--passage {file}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise UserError(f"--passage {file}: not a text in UTF-8") from None


def show(text: str) -> None:
    print(text, end="", flush=True)


def summary(figures: dict[str, object]) -> str:
    """One line of what it cost; no rate of an answer that is too short to time."""
    rate, cpu = figures["tokens_per_s"], figures["cpu_s_per_token"]
    speed = f", {rate:.1f} tokens/s, {1000 * cpu:.1f} ms of CPU a token" if rate and cpu else ""  # type: ignore[operator]
    return (f"{figures['variant']}: peak {figures['peak_rss_bytes'] / MIB:.0f} of {figures['cap_bytes'] / MIB:.0f} MiB "  # type: ignore[operator]
            f"({figures['cap']}), loaded in {figures['load_ms']:.0f} ms, first of {figures['tokens']} tokens after "
            f"{figures['ttft_ms']:.0f} ms{speed}")  # fmt: skip


if __name__ == "__main__":
    run(main)
