"""From the timings of requests to measurements, each with its formula.

The window goes from the end of the warm-up to the moment the users were told to stop, or is a phase of the scenario's. A
request counts where it started in the window and ended (its answer may end after it); a token counts where its text came
in the window.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from tradewind.errors import UserError
from tradewind.tracking import Measurement

QUANTILES = {"p50": 0.5, "p95": 0.95, "p99": 0.99}
FORMULAS = {
    "ttft": "first text - send, one per request",
    "itl": "every gap between two texts of an answer, pooled over requests",
    "e2e": "[DONE] - send, one per request",
    "refusal": "429 or 503 - send, one per refused request",
    "schedule_delay": "send - when it was due, one per request",
}
GAIN = 1.1
Timing = Mapping[str, Any]
"""One request, as loadtests/sse.py writes it."""
Span = tuple[float, float]
"""Seconds of the run: from, to."""


@dataclass(frozen=True)
class Slo:
    """What a good answer keeps: milliseconds to its first text, and of its mean gap between texts."""

    ttft_ms: float = math.inf
    itl_ms: float = math.inf

    def kept(self, one: Timing) -> bool:
        gaps = len(one["texts"]) - 1
        gap = (one["texts"][-1] - one["texts"][0]) / gaps if gaps else 0.0
        return bool(1000 * (one["texts"][0] - one["start"]) <= self.ttft_ms and 1000 * gap <= self.itl_ms)

    def __str__(self) -> str:
        return f"TTFT <= {self.ttft_ms:g} ms and mean gap <= {self.itl_ms:g} ms"


def measure(raw: Mapping[str, Any], warm_up: float, seed: int, slo: Slo = Slo()) -> list[Measurement]:
    """`raw` is what loadtests/sse.py writes. Raises UserError where no request ended well.

    Where a run has phases, each has its measurements, named `phase/measurement`; several of one name count as one. Where
    answers take so long that none starts after the warm-up, the whole run is the window, and `warm_up_s` is 0.
    """
    if phases := spans(raw):
        found = [
            replace(one, name=f"{name}/{one.name}")
            for name, parts in phases.items()
            for one in window(raw, parts, seed, slo)
        ]
        return [*found, *knee(found, seed), *client(raw, seed)]
    stop = raw["stopping"]
    if warm_up > 0 and not any(warm_up <= one["start"] < stop for one in raw["requests"]):
        return measure(raw, 0.0, seed, slo)
    began = Measurement("warm_up_s", warm_up, "s", None, None, "start of the run to start of the window", seed)
    return [*window(raw, [(warm_up, stop)], seed, slo), began, *client(raw, seed)]


def spans(raw: Mapping[str, Any]) -> dict[str, list[Span]]:
    """Phase -> when it was on, as far as the run went."""
    out: dict[str, list[Span]] = {}
    for phase in raw["phases"]:
        if phase["start"] < raw["ended"]:
            out.setdefault(phase["name"], []).append((phase["start"], min(phase["end"], raw["ended"])))
    return out


def window(raw: Mapping[str, Any], parts: Sequence[Span], seed: int, slo: Slo) -> list[Measurement]:
    counted = [one for one in raw["requests"] if within(one["start"], parts)]
    good = [one for one in counted if one["rejected"] is None and one["texts"] and one["end"] is not None]
    good = [one for one in good if one["error"] is None]
    failed = [one for one in counted if one["error"] is not None]
    refused = [one for one in counted if one["rejected"] is not None]
    if not good:
        seconds = sum(end - start for start, end in parts)
        why = f"; the first failure: {failed[0]['error']}" if failed else f"; {len(refused)} were refused"
        raise UserError(f"no request ended well in {seconds:.1f} s{why}")
    samples = {
        "ttft": [one["texts"][0] - one["start"] for one in good],
        "itl": [after - before for one in good for before, after in zip(one["texts"], one["texts"][1:], strict=False)],
        "e2e": [one["end"] - one["start"] for one in good],
        "refusal": [one["end"] - one["start"] for one in refused],
        "schedule_delay": [one["start"] - one["due"] for one in counted if one["due"] is not None],
    }
    found = [latency(name, share, samples[name], seed) for name in samples for share in QUANTILES if samples[name]]
    found += [*throughput(raw, parts, seed), *counts(good, failed, refused, parts, seed, slo)]
    return [*found, *sameness(good, max(samples["itl"], default=0.0), seed)]


def within(moment: float, parts: Sequence[Span]) -> bool:
    return any(start <= moment < end for start, end in parts)


def knee(found: Sequence[Measurement], seed: int) -> list[Measurement]:
    """Of a ramp: the last step that brought `GAIN` times the requests/s of the one before it, or the first."""
    steps = [one for one in found if one.name.endswith(" users/requests_per_s") and one.value is not None]
    if len(steps) < 2:
        return []
    last = 0
    while last + 1 < len(steps) and (steps[last + 1].value or 0) >= GAIN * (steps[last].value or 0):
        last += 1
    formula = (
        f"users of the last step, from the first on, with at least {GAIN:g} times the requests/s of the one before"
    )
    return [Measurement("knee_users", float(steps[last].name.split()[0]), "users", None, None, formula, seed)]


def latency(name: str, share: str, seconds: Sequence[float], seed: int) -> Measurement:
    formula = f"{share} (nearest rank) of: {FORMULAS[name]}"
    value, interval = quantile([1000 * one for one in seconds], QUANTILES[share])
    independent = name != "itl"  # gaps of one answer go together: no interval from their number
    return Measurement(
        f"{name}_{share}_ms", value, "ms", len(seconds), interval if independent else None, formula, seed
    )


def quantile(values: Sequence[float], share: float) -> tuple[float, tuple[float, float] | None]:
    """Nearest rank, and the 95 % interval by order statistics (normal approximation); None where the ranks run out."""
    ranked, count = sorted(values), len(values)
    value = ranked[max(0, math.ceil(share * count) - 1)]
    spread = 1.96 * math.sqrt(count * share * (1 - share))
    low, high = math.floor(count * share - spread), math.ceil(count * share + spread)
    return value, (ranked[low], ranked[high]) if low >= 0 and high < count else None


def throughput(raw: Mapping[str, Any], parts: Sequence[Span], seed: int) -> list[Measurement]:
    tokens, seconds = 0.0, sum(end - start for start, end in parts)
    ended = [one for one in raw["requests"] if one["error"] is None and one["texts"] and one["completion_tokens"]]
    for one in ended:
        inside = sum(within(moment, parts) for moment in one["texts"])
        tokens += one["completion_tokens"] * inside / len(one["texts"])
    formula = (
        "completion tokens whose text came in the window / its seconds; usage shared evenly over an answer's texts"
    )
    return [Measurement("completion_tokens_per_s", tokens / seconds, "tokens/s", round(tokens), None, formula, seed)]


def counts(
    good: Sequence[Timing],
    failed: Sequence[Timing],
    refused: Sequence[Timing],
    parts: Sequence[Span],
    seed: int,
    slo: Slo,
) -> list[Measurement]:
    prompts, answers = [one["prompt_tokens"] for one in good], [one["completion_tokens"] for one in good]
    total, seconds = len(good) + len(failed) + len(refused), sum(end - start for start, end in parts)
    kept = sum(slo.kept(one) for one in good)
    kept_per = f"requests that ended well with {slo} / "
    return [
        Measurement("requests", total, "requests", total, None, "requests started in the window and ended", seed),
        Measurement("failures", len(failed), "requests", total, None, "of these, those that broke the protocol", seed),
        Measurement(
            "rejected", len(refused), "requests", total, None, "of these, those refused for want of room", seed
        ),
        Measurement("requests_per_s", len(good) / seconds, "requests/s", len(good), None, "ended well / window", seed),
        Measurement("goodput_per_s", kept / seconds, "requests/s", kept, None, f"{kept_per}window", seed),
        Measurement("goodput_share", kept / total, "1", total, None, f"{kept_per}all requests", seed),
        Measurement("prompt_tokens", sum(prompts) / len(prompts), "tokens", len(prompts), None, "mean of usage", seed),
        Measurement("answer_tokens", sum(answers) / len(answers), "tokens", len(answers), None, "mean of usage", seed),
        Measurement("window_s", seconds, "s", None, None, "in which requests were started", seed),
    ]


def sameness(good: Sequence[Timing], gap: float, seed: int) -> list[Measurement]:
    """Where answers to the same questions were compared. gap: the longest, in seconds."""
    compared = [one for one in good if one.get("altered") is not None]
    if not compared:
        return []
    altered = sum(one["altered"] for one in compared)
    formula = "ended well, with another text than the first answer to the same question"
    longest = "longest gap between two texts of an answer"
    return [
        Measurement("altered", altered, "requests", len(compared), None, formula, seed),
        Measurement("longest_gap_ms", 1000 * gap, "ms", len(compared), None, longest, seed),
    ]


def client(raw: Mapping[str, Any], seed: int) -> list[Measurement]:
    late = [1000 * one for one in raw["delays"]] or [0.0]
    lateness = "50 ms sleeps of the client: how much longer they took"
    cpu = "the client's processor seconds / wall seconds, whole run"
    return [
        Measurement("client_cpu_share", raw["cpu_share"], "cores", None, None, cpu, seed),
        Measurement("client_delay_p50_ms", quantile(late, 0.5)[0], "ms", len(late), None, f"p50 of: {lateness}", seed),
        Measurement("client_delay_p95_ms", quantile(late, 0.95)[0], "ms", len(late), None, f"p95 of: {lateness}", seed),
    ]
