"""What the simulator (tradewind.caching.simulate) says of a phase's hit ratio: twice, knowing much and knowing little.

- `replay`: after the run, with the run's own requests at the moments they were sent, the median time of its misses and the
  mean size of its entries. It holds the store's code against the simulator's, no more: most of what decides is given.
- `forecast`: before the run, from popularity, rate, budget, time to live and what is assumed of answers, over FORECASTS
  traces of other seeds: their mean, and their standard deviation, by which one run may differ by chance alone.

Neither knows: that lifetimes are spread and answers made anew before their end, requests that were refused or failed (the
replay leaves them out, the forecast has them answered), that answers take longer when many are made at once. The forecast
has the warm-up come at the phases' rate, too.
"""

import statistics
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from tradewind.caching.memory import OVERHEAD
from tradewind.caching.simulate import KEY_BYTES, Replay, ideal
from tradewind.caching.simulate import replay as played
from tradewind.caching.traces import Answers, Popularity, Trace, drawn, from_rows
from tradewind.load.outcomes import outcome_of, seconds
from tradewind.load.results import Timing
from tradewind.tracking import Measurement

PREDICTED = ("cold", "warm")
WARM_UP = "warm-up"
FORECASTS = 10


class Given(Protocol):
    """Settings of the run. assumed_bytes, assumed_s: of an answer."""

    @property
    def questions(self) -> int: ...
    @property
    def exponent(self) -> float: ...
    @property
    def tenants(self) -> int: ...
    @property
    def churn(self) -> float: ...
    @property
    def warm_requests(self) -> int: ...
    @property
    def cache_mib(self) -> int: ...
    @property
    def cache_ttl_s(self) -> float: ...
    @property
    def assumed_bytes(self) -> int: ...
    @property
    def assumed_s(self) -> float: ...


def replay(
    name: str, phases: Mapping[str, Sequence[Timing]], given: Given, entry: float | None, seed: int
) -> list[Measurement]:
    """phases: their requests that ended well. entry: bytes of one in the store. Also the ideal hit ratio at this budget."""
    first = next(one["start"] for one in phases[name])
    before = [one for phase, part in phases.items() if phase != "empty" for one in part if one["start"] < first]
    requests = sorted([*before, *phases[name]], key=lambda one: float(one["start"]))
    misses = [seconds(one) for one in requests if outcome_of(one) == "miss"]
    taken = Answers(
        bytes=max(1, round(entry) - OVERHEAD - KEY_BYTES) if entry else Answers.bytes,
        seconds=statistics.median(misses) if misses else 0.0,
    )
    rows = [{"time": one["start"], "key": one["question"], "tenant": one["tenant"]} for one in requests]
    budget = given.cache_mib << 20
    said = played(from_rows(rows, taken), budget, ttl_s=given.cache_ttl_s, warm_up=len(before))
    weights = np.tile(Popularity(given.questions, given.exponent).weights / given.tenants, given.tenants)
    bound = ideal(weights, np.full(len(weights), taken.bytes, np.int64), budget)
    how = f"simulator on the requests as sent, {taken.bytes} bytes and {taken.seconds:.3g} s an answer"
    error = said.hit_ratio - measured(phases[name])
    formula = "replay - measured, of the requests that ended well"
    count = said.requests
    return [
        Measurement(f"{name}/replay_hit_ratio", said.hit_ratio, "1", count, None, how, seed),
        Measurement(f"{name}/replay_coalesced_ratio", said.coalesced_ratio, "1", count, None, how, seed),
        Measurement(f"{name}/replay_error", error, "1", count, None, formula, seed),
        Measurement(f"{name}/ideal_hit_ratio", bound, "1", None, None, "the most popular answers held all along", seed),
    ]


def forecast(
    name: str, raw: Mapping[str, Any], requests: Sequence[Timing], given: Given, seed: int
) -> list[Measurement]:
    """Of the phases' settings `raw` says how long and at which rate; requests: of the phase, to hold it against."""
    runs = [_forecast(name, raw["phases"], given, trace) for trace in range(FORECASTS)]
    ratios = [one.hit_ratio for one in runs]
    mean = statistics.fmean(ratios)
    assumed = f"{given.assumed_bytes} bytes and {given.assumed_s:g} s an answer assumed"
    how = f"simulator on {FORECASTS} drawn traces, mean; {assumed}"
    joined = statistics.fmean(one.coalesced_ratio for one in runs)
    formula = "forecast - measured, of the requests that ended well"
    spread = "standard deviation of the hit ratio between traces"
    return [
        Measurement(f"{name}/forecast_hit_ratio", mean, "1", FORECASTS, None, how, seed),
        Measurement(f"{name}/forecast_coalesced_ratio", joined, "1", FORECASTS, None, how, seed),
        Measurement(f"{name}/forecast_spread", statistics.stdev(ratios), "1", FORECASTS, None, spread, seed),
        Measurement(f"{name}/forecast_error", mean - measured(requests), "1", len(requests), None, formula, seed),
    ]


def _forecast(name: str, phases: Sequence[Mapping[str, Any]], given: Given, number: int) -> Replay:
    planned = {one["name"]: one for one in phases}
    popularity = Popularity(given.questions, given.exponent, given.tenants, given.churn)
    answers = Answers(given.assumed_bytes, 0.0, given.assumed_s)
    rate, traces = planned[name]["load"], []
    for place, phase in enumerate(("cold", WARM_UP, "warm")):
        if phase in planned:
            planned_seconds = planned[phase]["end"] - planned[phase]["start"]
            count = given.warm_requests if phase == WARM_UP else max(1, round(rate * planned_seconds))
            traces.append(drawn(popularity, count, rate, answers, 3 * number + place))
        if phase == name:
            break
    whole = _joined(traces)
    return played(whole, given.cache_mib << 20, ttl_s=given.cache_ttl_s, warm_up=len(whole) - len(traces[-1]))


def _joined(traces: Sequence[Trace]) -> Trace:
    whole = traces[0]
    for one in traces[1:]:
        whole = whole.then(one)
    return whole


def measured(requests: Sequence[Timing]) -> float:
    """hits / requests that ended well"""
    return sum(outcome_of(one) == "hit" for one in requests) / len(requests)
