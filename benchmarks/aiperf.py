"""Do AIPerf and this project's load test agree on what a server does? The same load by each, in turns, and ratios.

A ratio is AIPerf's figure / ours within a repeat, ours by AIPerf's formulas from the load test's timings; its median
over repeats is kept. Prompts differ (AIPerf cuts its own from a text, ours are words in an order of their own) but not
their length by much: the ratio of prompt tokens says by how much.
"""

import statistics
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from benchmarks.programs import command, outside
from tradewind.errors import UserError
from tradewind.files import read_json
from tradewind.load.scenario import LoadSettings, drive, locustfile

STARTING_S = 300
"""Seconds that AIPerf may take beside its load."""
LEAD_TOKENS = 6
"""Of the load test's prompt, before its words, most of which are one token."""


@dataclass(frozen=True)
class Load:
    """Of step 3: each of `repeats` is `seconds` by AIPerf and `seconds` by the load test, for each of `streams`."""

    seconds: int
    repeats: int
    streams: tuple[int, ...]
    prompt_tokens: int
    answer_tokens: int


@dataclass(frozen=True)
class Seen:
    """What a client says of one run. Milliseconds are medians over requests, tokens are means of the server's usage.

    itl_ms: (last - first text) / (tokens - 1) of a request. requests_per_s: over first request to last end.
    """

    ttft_ms: float
    itl_ms: float
    requests_per_s: float
    requests: int
    failures: int
    prompt_tokens: float
    answer_tokens: float


RATIOS = ("ttft_ms", "itl_ms", "requests_per_s", "prompt_tokens")


@dataclass(frozen=True)
class Target:
    """Whom AIPerf asks, with what; tokenizer: the variant's folder."""

    aiperf: str
    url: str
    model: str
    tokenizer: Path
    scratch: Path


def compare(target: Target, load: Load) -> dict[int, list[tuple[Seen, Seen]]]:
    """Streams -> (AIPerf's, ours) of each repeat; who goes first changes each time."""
    pairs: dict[int, list[tuple[Seen, Seen]]] = {streams: [] for streams in load.streams}
    for number in tqdm(range(load.repeats * len(load.streams)), desc="AIPerf and Locust", disable=None):
        streams = load.streams[number % len(load.streams)]
        if (number // len(load.streams)) % 2:
            ours = steady(target, streams, load, number)
            pairs[streams].append((profile(target, "chat", streams, load), ours))
        else:
            theirs = profile(target, "chat", streams, load)
            pairs[streams].append((theirs, steady(target, streams, load, number)))
    return pairs


def profile(target: Target, endpoint: str, streams: int, load: Load) -> Seen:
    """One run of `aiperf profile`. Raises UserError where it fails."""
    with tempfile.TemporaryDirectory(dir=target.scratch) as folder:
        asked = {"model": target.model, "url": target.url, "endpoint-type": endpoint, "concurrency": streams}
        size = {"isl": load.prompt_tokens, "isl-stddev": 0, "osl": load.answer_tokens, "osl-stddev": 0}
        bounds = {"benchmark-duration": load.seconds, "num-dataset-entries": 1000, "random-seed": 0}
        few = {"workers-max": 1, "record-processors": 1, "ui": "none", "artifact-dir": folder}
        options = {"tokenizer": target.tokenizer.resolve(), "extra-inputs": "ignore_eos:true"}
        words = [target.aiperf, "profile", "--streaming", "--use-server-token-count", "--no-gpu-telemetry"]
        for name, value in (asked | size | bounds | few | options).items():
            words += [f"--{name}", str(value)]
        try:
            command(words, with_folders(outside()), load.seconds + STARTING_S)
        except UserError as error:
            raise UserError(f"{error}; {complaint(Path(folder) / 'logs' / 'aiperf.log')}") from None
        return seen_by_aiperf(read_json(Path(folder) / "profile_export_aiperf.json"))


def with_folders(env: Mapping[str, str]) -> dict[str, str]:
    """Told to be offline, AIPerf takes a tokenizer's folder for a name in the hub's cache; for a folder it asks no hub."""
    return {key: value for key, value in env.items() if key not in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")}


def complaint(log: Path) -> str:
    """The first error in AIPerf's log, which says more than its last word."""
    lines = log.read_text(encoding="utf-8").splitlines() if log.is_file() else []
    return next((line for line in lines if " ERROR " in line), "its log names no error")[:300]


def seen_by_aiperf(export: Mapping[str, Any]) -> Seen:
    """From profile_export_aiperf.json. Raises UserError where a figure is missing."""
    try:
        return Seen(
            ttft_ms=export["time_to_first_token"]["p50"],
            itl_ms=export["inter_token_latency"]["p50"],
            requests_per_s=export["request_throughput"]["avg"],
            requests=round(export["request_count"]["avg"]),
            failures=round((export.get("error_request_count") or {"avg": 0})["avg"]),
            prompt_tokens=export["input_sequence_length"]["avg"],
            answer_tokens=export["output_sequence_length"]["avg"],
        )
    except KeyError as error:
        raise UserError(f"AIPerf reports no {error}: {str(export.get('error_summary'))[:200]}") from None


def steady(target: Target, streams: int, load: Load, seed: int) -> Seen:
    """One run of this project's load test at the same load."""
    words = load.prompt_tokens - LEAD_TOKENS
    settings = LoadSettings("steady", target.model, "ort", streams, load.seconds, 0.0, words, load.answer_tokens)
    return seen_by_locust(drive(locustfile("steady"), target.url, settings, seed))


def seen_by_locust(raw: Mapping[str, Any]) -> Seen:
    """`raw` is what loadtests/sse.py writes. Raises UserError where no request ended well."""
    good = [one for one in raw["requests"] if one["error"] is None and one["end"] is not None and len(one["texts"]) > 1]
    if not good:
        raise UserError(f"no request of the load test ended well: {[one['error'] for one in raw['requests']][:1]}")
    gaps = [(one["texts"][-1] - one["texts"][0]) / (one["completion_tokens"] - 1) for one in good]
    seconds = max(one["end"] for one in good) - min(one["start"] for one in good)
    return Seen(
        ttft_ms=1000 * statistics.median(one["texts"][0] - one["start"] for one in good),
        itl_ms=1000 * statistics.median(gaps),
        requests_per_s=len(good) / seconds,
        requests=len(good),
        failures=len(raw["requests"]) - len(good),
        prompt_tokens=statistics.mean(one["prompt_tokens"] for one in good),
        answer_tokens=statistics.mean(one["completion_tokens"] for one in good),
    )


def summarize(pairs: Sequence[tuple[Seen, Seen]]) -> dict[str, Any]:
    """The median ratio AIPerf's / ours of each measure, with all that both saw."""
    ratios = {
        name: statistics.median(getattr(theirs, name) / getattr(ours, name) for theirs, ours in pairs)
        for name in RATIOS
    }
    return {"ratios": ratios, "repeats": [{"aiperf": asdict(theirs), "ours": asdict(ours)} for theirs, ours in pairs]}


def ratio_lines(results: Mapping[str, Any]) -> list[str]:
    return [
        f"AIPerf / ours, {streams} at once: "
        + ", ".join(f"{name} {ratio:.2f}" for name, ratio in row["ratios"].items())
        for streams, row in results.items()
    ]
