"""Notebook 2's sections of the load test `caching`: latency by outcome, refusals, hit ratios beside both predictions, and a
shared store that fails. What a report does not hold is a dash."""

from collections.abc import Mapping
from typing import Any

from tradewind.load.prices import PRICE_OF
from tradewind.report.markdown import source, table

OFF = 0.05
"""Error of a hit ratio from which words are due."""
PREDICTED = ("cold", "warm")
ORDER = ("empty", "cold", "warm-up", "warm", "known", "kept", "elsewhere", "uncached", "no-cache", "burst")
"""Of phases, as they are run."""


def load(data: Any) -> str:
    """Latency by outcome, never blended; all phases' refusals; hit ratio beside the simulator's."""
    part = data["memory"]
    given, held = part["settings"], values(part)
    head = (
        f"`{given['model']}`, {given['caching']['questions']:,} questions by Zipf with exponent "
        f"{given['caching']['exponent']:g}, {given['rate']:g} requests/s in open loop, {given['caching']['cache_mib']} MiB, "
        f"warmed up with {given['caching']['warm_requests']:,} requests of another seed; {given['answer_tokens']} tokens an "
        "answer.\n\n"
    )
    return (
        head + "\n".join([_latencies(part), _phases(part), _same_p95(held), _ratios(part), _saved(part)]) + source(data)
    )


def _latencies(part: Mapping[str, Any]) -> str:
    given, held = part["settings"], values(part)
    beside = f"{held.get('kept/generations', 0):.0f} answers made beside it"
    named = (
        ("empty", "empty", "a route that does nothing"), ("kept", "hit", f"hit, {beside}"),
        ("warm", "hit", "hit, misses being generated beside it"), ("warm", "miss", "miss, at the same time"),
        ("no-cache", "miss", f"miss, {given['users']} users"),
        ("uncached", "uncached", f"no cache, {given['users']} users"),
        ("burst", "coalesced", f"{given['caching']['burst']} at once, waiting for the one that is made"),
    )  # fmt: skip
    rows = [
        [words, f"{part['measurements'][f'{phase}/{outcome}/e2e_p50_ms']['n'] or 0:.0f}",
         *(number(held, f"{phase}/{outcome}/e2e_{share}_ms", ".1f") for share in ("p50", "p95", "p99"))]
        for phase, outcome, words in named
        if f"{phase}/{outcome}/e2e_p50_ms" in held
    ]  # fmt: skip
    cost = spread(part, "miss_cost_ms", "+.1f")
    tail = f"\nA miss costs {cost} ms beside no cache (medians of phases in turn).\n"
    return table(["E2E, ms", "requests", "p50", "p95", "p99"], rows) + tail


def _phases(part: Mapping[str, Any]) -> str:
    """Of all requests that were sent."""
    held = values(part)
    names = sorted((name.split("/")[0] for name in held if name.endswith("/requests")), key=_turn)
    rows = [
        [
            name, number(held, f"{name}/requests", ".0f"), f"{refused(held, name):.1%}",
            number(held, f"{name}/failures", ".0f"), number(held, f"{name}/requests_per_s", ".1f"),
            spread(part, f"{name}/system_p95_ms", ".0f"),
        ]
        for name in names
    ]  # fmt: skip
    return table(["phase", "sent", "refused", "failed", "requests/s", "p95 of all sent, ms [95 %]"], rows)


def _turn(phase: str) -> tuple[int, int]:
    """Its place in the run; the closed loops with the cache by their users."""
    if phase.startswith("cached "):
        return ORDER.index("uncached"), int(phase.split()[1])
    return (ORDER.index(phase) if phase in ORDER else len(ORDER)), 0


def _same_p95(held: Mapping[str, float]) -> str:
    """The rule is that of tradewind.load.gain."""
    gain, goal = held.get("same_p95_gain"), held.get("same_p95_goal")
    if gain is None:
        return ""
    rule = (
        "A refused request exceeds every p95; chosen are the most users whose p95 is at most that of the server without a "
        "cache, as is that of all fewer users"
    )
    if not goal:
        return f"{rule}: {gain:.1f} times its requests/s.\n"
    users = number(held, "same_p95_users", ".0f")
    return f"{rule}: {users}, with {gain:.1f} times its requests/s; 0.8 / (1 - hit ratio) would be {goal:.1f}.\n"


def _ratios(part: Mapping[str, Any]) -> str:
    held = values(part)
    rows = [
        [
            phase, spread(part, f"{phase}/hit_ratio", ".3f"),
            f"{number(held, f'{phase}/replay_hit_ratio', '.3f')} ({number(held, f'{phase}/replay_error', '+.3f')})",
            f"{number(held, f'{phase}/forecast_hit_ratio', '.3f')} ± {number(held, f'{phase}/forecast_spread', '.3f')} "
            f"({number(held, f'{phase}/forecast_error', '+.3f')})",
            number(held, f"{phase}/coalesced_ratio", ".3f"), number(held, f"{phase}/replay_coalesced_ratio", ".3f"),
            number(held, f"{phase}/ideal_hit_ratio", ".3f"),
        ]
        for phase in PREDICTED
    ]  # fmt: skip
    head = [
        "phase",
        "hit ratio [95 %]",
        "replay (error)",
        "forecast ± spread (error)",
        "joined",
        "joined, replay",
        "ideal",
    ]
    tail = (
        "\nShares of the requests that ended well. The replay has the run's own requests, times and sizes; the forecast has "
        "popularity, rate, budget and what is assumed of answers. Neither knows lifetimes that are spread, answers made anew "
        "early, or refused requests.\n"
    )
    return table(head, rows) + tail + "".join(_off(part, phase) for phase in PREDICTED)


def _off(part: Mapping[str, Any], phase: str) -> str:
    """Where the simulator is far off, and how far the one time that it has for all answers explains it."""
    held, given = values(part), part["settings"]["caching"]
    errors = {kind: held.get(f"{phase}/{kind}_error", 0.0) for kind in ("replay", "forecast")}
    if max(map(abs, errors.values())) < OFF:
        return ""
    said = []
    for kind, error in errors.items():
        joined = held.get(f"{phase}/{kind}_coalesced_ratio", 0.0) - held.get(f"{phase}/coalesced_ratio", 0.0)
        said.append(f"the {kind} by {error:+.3f}, of hits and joined together by {error + joined:+.3f}")
    p50, p95 = (number(held, f"{phase}/miss/e2e_{share}_ms", ".0f") for share in ("p50", "p95"))
    return (
        f"\n`{phase}` is off: {'; '.join(said)}. Misses took {p50} ms (p50) to {p95} ms (p95) there; the simulator has one "
        "time for all of them, the replay their median over the run so far, the forecast "
        f"{1000 * given.get('assumed_s', 0):.0f} ms. While a queue grows, early answers take less and late ones more, so "
        "what was a hit is said to have joined, or the other way round; what the two are off together has other reasons. "
        f"Refused: {refused(held, phase):.0%}.\n"
    )


def _saved(part: Mapping[str, Any]) -> str:
    held, given = values(part), part["settings"]["caching"]
    text = f"Saved: {number(held, 'saved_tokens', ',.0f')} tokens"
    if "saved_engine_s" in held:
        text += f", {held['saved_engine_s']:,.0f} s of an engine kept busy"
    if (thousand := held.get("uncached_usd_per_1000")) is not None:
        text += f", {held['saved_usd']:.3f} USD at {thousand:.4f} USD for 1,000 answers that are made ({PRICE_OF})"
    made = number(held, "burst/generations", ".0f")
    return f"{text}. Generations for the {given['burst']} identical requests: {made}.\n"


def shared(data: Any) -> str:
    """Hits by where they come from; then what an outage adds to questions that nobody asked before."""
    part = data["redis"]
    held, rows = values(part), []
    for phase, words in (
        ("kept", "hit, this process has it"), ("elsewhere", "hit, another process had it: from Redis"),
        ("fresh", "new question, Redis well"), ("paused", "new question, Redis stopped (SIGSTOP)"),
        ("lost", "new question, Redis killed"),
    ):  # fmt: skip
        outcome = "hit" if phase in ("kept", "elsewhere") else "miss"
        if f"{phase}/requests" in held:
            sent = (number(held, f"{phase}/requests", ".0f"), f"{refused(held, phase):.0%}")
            times = (number(held, f"{phase}/{outcome}/e2e_{share}_ms", ".1f") for share in ("p50", "p95", "p99"))
            more = (spread(part, f"{phase}/added_{share}_ms", "+.0f") for share in ("p50", "p95"))
            rows.append([words, *sent, number(held, f"{phase}/failures", ".0f"), *times, *more])
    floor = number(held, "empty/empty/e2e_p50_ms", ".1f")
    text = (
        f"\nA route that does nothing takes this client {floor} ms. Added: quantiles of all requests of the phase minus "
        "those of the new questions with Redis well, which came directly before, with 95 % intervals over requests.\n"
    )
    head = ["E2E, ms", "requests", "refused", "failed", "p50", "p95", "p99", "p50 added", "p95 added"]
    return table(head, rows) + text + source(data)


def values(part: Mapping[str, Any]) -> dict[str, float]:
    return {name: one["value"] for name, one in part["measurements"].items() if one["value"] is not None}


def refused(held: Mapping[str, float], phase: str) -> float:
    """Of the requests that were sent."""
    return held.get(f"{phase}/rejected", 0.0) / max(1.0, held.get(f"{phase}/requests", 0.0))


def number(held: Mapping[str, float], name: str, form: str) -> str:
    return format(held[name], form) if name in held else "-"


def spread(part: Mapping[str, Any], name: str, form: str) -> str:
    """Value [interval]."""
    one = part["measurements"].get(name)
    if one is None or one["value"] is None:
        return "-"
    text = format(one["value"], form)
    if one.get("interval") is None:
        return text
    low, high = (format(end, form) for end in one["interval"])
    return f"{text} [{low}, {high}]"
