"""The capped process: one question answered on one core, with as little memory as ONNX Runtime lets it.

The life of an answer: 1. the tokenizer encodes the prompt, leaves the bytes of each token behind and is dropped, as a
vocabulary of 49,152 costs 40 MiB; 2. the session maps the weights and packs them, matrix by matrix; 3. the KV cache gets
room for this prompt and answer and no more; 4. tokens are chosen and their text is written as it becomes certain; 5. the
figures follow. A request is one line of JSON on standard input; each event is one on standard output. It imports no JAX,
transformers or server, and knows nothing of the cap.
"""

import ctypes
import json
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tradewind.compression.variant import Manifest, load_variant
from tradewind.corpus.prompt import conversation
from tradewind.edge.ask import LEAST_TIMED, Ask
from tradewind.engine.detokenize import TextStream
from tradewind.engine.ort import OrtEngine
from tradewind.engine.sampling import Sampler, SamplingParams
from tradewind.errors import UserError
from tradewind.host import peak_rss
from tradewind.model.tokenizer import Tokenizer

Emit = Callable[[dict[str, Any]], None]
THREADS = 1


@dataclass(frozen=True)
class Figures:
    """What an answer cost.

    load_ms: from the start of the tokenizer's load to a session that is ready. ttft_ms: prefill and the choice of the
    first token. tokens_per_s, cpu_s_per_token: of the tokens after the first; None for fewer than LEAST_TIMED tokens.
    peak_rss_bytes: VmHWM of the whole process.
    """

    variant: str
    prompt_tokens: int
    tokens: int
    finish_reason: str
    load_ms: float
    ttft_ms: float
    tokens_per_s: float | None
    cpu_s_per_token: float | None
    peak_rss_bytes: int
    token_ids: list[int]


@dataclass(frozen=True)
class Words:
    """What is left of a tokenizer: a prompt's ids, the bytes of every token, and the tokens that end an answer."""

    prompt: list[int]
    pieces: list[bytes]
    ends: frozenset[int]


def main() -> None:
    """One request, its events. A UserError becomes the event `error` and exit code 2."""
    ask = Ask(**json.loads(sys.stdin.readline()))
    try:
        emit({"figures": asdict(answer(ask, emit))})
    except UserError as error:
        emit({"error": str(error)})
        raise SystemExit(2) from None


def emit(event: dict[str, Any]) -> None:
    print(json.dumps(event), flush=True)


def answer(ask: Ask, emit: Emit) -> Figures:
    """Emits `{"text": ...}` as text becomes certain. Raises UserError for a bad variant or too long a prompt."""
    started, folder = time.perf_counter(), Path(ask.folder)
    manifest = load_variant(folder, verify=False)
    words = prepare(folder, ask)
    release_memory()
    room = manifest.max_position - len(words.prompt)
    if ask.max_tokens > room:
        raise UserError(
            f"the context of {manifest.name} is {manifest.max_position} tokens: after a prompt of {len(words.prompt)} "
            f"there is room for {max(0, room)}, not {ask.max_tokens}"
        )
    engine = open_engine(folder, manifest, len(words.prompt) + ask.max_tokens)
    load_ms = 1000 * (time.perf_counter() - started)
    return _generate(engine, words, ask, load_ms, manifest.name, emit)


def prepare(folder: Path, ask: Ask) -> Words:
    tokenizer = Tokenizer.load(folder)
    special = set(tokenizer.special_ids)
    pieces = [b"" if i in special else tokenizer.token_bytes(i) for i in range(tokenizer.vocab_size)]
    prompt = tokenizer.chat(conversation(ask.passage, [(ask.question, "")]))
    return Words(prompt, pieces, frozenset(tokenizer.eos_token_ids))


def release_memory() -> None:
    """Give freed memory back to the system, where the C library can (glibc)."""
    with suppress(OSError, AttributeError):
        ctypes.CDLL("libc.so.6").malloc_trim(0)


def open_engine(folder: Path, manifest: Manifest, room: int) -> OrtEngine:
    if "ort" not in manifest.files:
        raise UserError(f"{folder}: no files for engine ort (engines: {', '.join(sorted(manifest.files))})")
    return OrtEngine(folder, manifest, slots=1, max_len=room, threads=THREADS)


def _generate(engine: OrtEngine, words: Words, ask: Ask, load_ms: float, variant: str, emit: Emit) -> Figures:
    sampler = Sampler(SamplingParams(temperature=ask.temperature, seed=ask.seed))
    stream, tokens = TextStream(), list[int]()
    started = time.perf_counter()
    prefix = engine.prefill(words.prompt)
    assert prefix.logits is not None
    token = sampler(prefix.logits).token
    first, first_cpu = time.perf_counter(), time.process_time()
    engine.insert(prefix, 0)
    while True:
        tokens.append(token)
        if text := stream.add(words.pieces[token]):
            emit({"text": text})
        ended = token in words.ends and not ask.ignore_end
        if ended or len(tokens) == ask.max_tokens:
            break
        token = sampler(engine.step({0: [token]})[0][-1]).token
    seconds, cpu = time.perf_counter() - first, time.process_time() - first_cpu
    later, timed = len(tokens) - 1, len(tokens) >= LEAST_TIMED
    return Figures(
        variant=variant, prompt_tokens=len(words.prompt), tokens=len(tokens),
        finish_reason="stop" if ended else "length",
        load_ms=load_ms, ttft_ms=1000 * (first - started),
        tokens_per_s=later / seconds if timed else None, cpu_s_per_token=cpu / later if timed else None,
        peak_rss_bytes=peak_rss(), token_ids=tokens,
    )  # fmt: skip


if __name__ == "__main__":
    main()
