"""From the timings of requests to measurements, each with its formula.

The window goes from the end of the warm-up to the moment the users were told to stop. A request counts where it started
in the window and ended (its answer may end after it); a token counts where its text came in the window.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from tradewind.errors import UserError
from tradewind.tracking import Measurement

QUANTILES = {"p50": 0.5, "p95": 0.95, "p99": 0.99}
FORMULAS = {
    "ttft": "first text - send, one per request",
    "itl": "every gap between two texts of an answer, pooled over requests",
    "e2e": "[DONE] - send, one per request",
}


def measure(raw: Mapping[str, Any], warm_up: float, seed: int) -> list[Measurement]:
    """`raw` is what loadtests/sse.py writes. Raises UserError where no request ended well.

    Where answers take so long that none starts after the warm-up, the whole run is the window, and `warm_up_s` is 0.
    """
    stop = raw["stopping"]
    counted = [one for one in raw["requests"] if warm_up <= one["start"] < stop]
    good = [one for one in counted if one["error"] is None and one["texts"] and one["end"] is not None]
    failed = [one for one in counted if one["error"] is not None]
    if not counted and warm_up > 0:
        return measure(raw, 0.0, seed)
    if not good:
        why = f"; the first failure: {failed[0]['error']}" if failed else ""
        raise UserError(f"no request ended well in {stop - warm_up:.1f} s after {warm_up:.1f} s of warm-up{why}")
    samples = {
        "ttft": [one["texts"][0] - one["start"] for one in good],
        "itl": [after - before for one in good for before, after in zip(one["texts"], one["texts"][1:], strict=False)],
        "e2e": [one["end"] - one["start"] for one in good],
    }
    found = [latency(name, share, samples[name], seed) for name in samples for share in QUANTILES if samples[name]]
    return [*found, *throughput(raw, warm_up, seed), *counts(good, failed, warm_up, stop, seed), *client(raw, seed)]


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


def throughput(raw: Mapping[str, Any], warm_up: float, seed: int) -> list[Measurement]:
    stop = raw["stopping"]
    tokens = 0.0
    ended = [one for one in raw["requests"] if one["error"] is None and one["texts"] and one["completion_tokens"]]
    for one in ended:
        inside = sum(warm_up <= moment < stop for moment in one["texts"])
        tokens += one["completion_tokens"] * inside / len(one["texts"])
    formula = (
        "completion tokens whose text came in the window / its seconds; usage shared evenly over an answer's texts"
    )
    rate = tokens / (stop - warm_up)
    return [Measurement("completion_tokens_per_s", rate, "tokens/s", round(tokens), None, formula, seed)]


def counts(good: Sequence[Any], failed: Sequence[Any], warm_up: float, stop: float, seed: int) -> list[Measurement]:
    prompts, answers = [one["prompt_tokens"] for one in good], [one["completion_tokens"] for one in good]
    total, seconds = len(good) + len(failed), stop - warm_up
    return [
        Measurement("requests", total, "requests", total, None, "requests started in the window and ended", seed),
        Measurement("failures", len(failed), "requests", total, None, "of these, those that broke the protocol", seed),
        Measurement("requests_per_s", total / seconds, "requests/s", total, None, "requests / window", seed),
        Measurement("prompt_tokens", sum(prompts) / len(prompts), "tokens", len(prompts), None, "mean of usage", seed),
        Measurement("answer_tokens", sum(answers) / len(answers), "tokens", len(answers), None, "mean of usage", seed),
        Measurement("warm_up_s", warm_up, "s", None, None, "start of the run to start of the window", seed),
        Measurement("window_s", seconds, "s", None, None, "end of warm-up to stop of the users", seed),
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
