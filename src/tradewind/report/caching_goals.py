"""What the cache was to reach, beside what was measured. Not covered: goals of the prefix, embedding and semantic caches,
whose sections stand for themselves."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from tradewind.report.caching_load import number, refused, spread, values
from tradewind.report.goals import Goal
from tradewind.report.markdown import sources, table
from tradewind.report.readme import Reports
from tradewind.report.serving import found, missing

LOAD, COST = "studies/caching/load", "studies/caching/cost"
LOCAL_MS, REDIS_MS, MISS_MS, OUTAGE_MS = 1.5, 4.0, 1.0, 100.0
SPREADS = 2.0
"""Standard deviations of a forecast by which one run may differ from it."""
KINDS = ("whole", "stream")


def goals(reports: Reports) -> str:
    load, cost = found(reports, LOAD), found(reports, COST)
    if load is None and cost is None:
        return missing(LOAD)
    rows = [*(_alone(cost) if cost else ()), *(_together(load) if load else ())]
    text = table(["goal", "measured", "reached"], [[one.words, one.told, one.reached] for one in rows])
    text += "".join(f"\n{missing(name)}" for name, data in ((LOAD, load), (COST, cost)) if data is None)
    return text + sources({name: data for name, data in (("load test", load), ("by itself", cost)) if data is not None})


def _alone(cost: Mapping[str, Any]) -> Iterator[Goal]:
    floor = spread(cost, "empty/p50_ms", ".2f")
    for call, limit, words in (
        ("memory hit", LOCAL_MS, "a hit in this process"),
        ("redis fetched", REDIS_MS, "a hit in Redis"),
    ):
        names = [f"{call} {kind}/p50_ms" for kind in KINDS]
        told = f"{_listed(cost, names, '.2f')}; a route that does nothing: {floor}"
        yield Goal(f"{words}: p50 at most {limit:g} ms end to end", told, _held(cost, names), limit)
    for store, words in (("memory", "in memory"), ("redis", "with Redis")):
        names = [f"{store} {kind}/miss_cost_ms" for kind in KINDS]
        told = _listed(cost, names, "+.2f")
        yield Goal(f"a miss {words}: at most {MISS_MS:g} ms more", told, _held(cost, names), MISS_MS)


def _together(load: Mapping[str, Any]) -> Iterator[Goal]:
    memory, redis = load["memory"], load.get("redis", {"measurements": {}})
    held = values(memory)
    off, chance = held.get("warm/forecast_error"), held.get("warm/forecast_spread")
    told = (
        f"{spread(memory, 'warm/hit_ratio', '.3f')}; forecast {number(held, 'warm/forecast_hit_ratio', '.3f')} ± "
        f"{number(held, 'warm/forecast_spread', '.3f')}, replay {number(held, 'warm/replay_hit_ratio', '.3f')}"
    )
    words = f"hit ratio, warm: within {SPREADS:g} standard deviations of the forecast"
    errors = [{"value": abs(off)}] if off is not None else []
    yield Goal(words, told, errors, None if chance is None else SPREADS * chance)
    gain, goal = spread(memory, "same_p95_gain", ".1f"), held.get("same_p95_goal")
    users = number(held, "same_p95_users", ".0f")
    phase = f"cached {users} users"
    told = f"{gain} of {number(held, 'same_p95_goal', '.1f')}, {users} users, {refused(held, phase):.1%} refused"
    if held.get("same_p95_gain") == 0:
        goal, told = 1.0, "no load keeps to it"
    yield Goal(
        "requests/s at the same p95: at least 0.8 / (1 - hit ratio) times",
        told,
        _held(memory, ["same_p95_gain"]),
        goal,
        True,
    )
    made = ["burst/generations"]
    size = memory["settings"]["caching"]["burst"]
    yield Goal(f"{size} identical at once: 1 generation", number(held, made[0], ".0f"), _held(memory, made), 1.0)
    for phase, words in (("paused", "Redis stopped"), ("lost", "Redis killed")):
        for share in ("p50", "p95"):
            name = f"{phase}/added_{share}_ms"
            told, failed = f"{spread(redis, name, '+.0f')} ms", number(values(redis), f"{phase}/failures", ".0f")
            told += f", {failed} failed, {refused(values(redis), phase):.0%} refused"
            yield Goal(f"{words}: {share} at most {OUTAGE_MS:g} ms more", told, _held(redis, [name]), OUTAGE_MS)


def _held(part: Mapping[str, Any], names: Sequence[str]) -> list[Mapping[str, Any]]:
    """Measurements; none, where one of them is not there."""
    made = part["measurements"]
    return [made[name] for name in names] if all(name in made for name in names) else []


def _listed(part: Mapping[str, Any], names: Sequence[str], form: str) -> str:
    return "; ".join(f"{kind}: {spread(part, name, form)}" for kind, name in zip(KINDS, names, strict=True))
