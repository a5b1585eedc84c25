"""Notebook 2's sections, from reports/studies/caching. A report that is not there is one line with its command."""

from collections.abc import Mapping
from typing import Any

from tradewind.report.caching_goals import goals
from tradewind.report.caching_load import load, shared, values
from tradewind.report.markdown import source, table
from tradewind.report.readme import Reports
from tradewind.report.serving import found, missing, section

STUDY = "studies/caching"
CLASSES = {
    "paraphrase": "the same in other words",
    "respelled": "the same, another spelling of the name",
    "polarity": "a word turned round",
    "number": "another number",
    "reversed": "two names in the other order",
    "and_or": "and for or, or for and",
    "question_word": "another question word",
    "other_parameter": "another parameter, same object",
    "other_kind": "another wish, same object",
    "other_symbol": "another object",
    "random": "unrelated",
}
RIGHT = ("paraphrase", "respelled")
SHOWN = (0.8, 0.9, 0.95, 0.97, 0.99)


def cost(data: Any) -> str:
    """What a call takes on an engine that takes next to nothing, and what the cache adds to one that it cannot answer."""
    made = data["measurements"]

    def cells(name: str) -> list[str]:
        low, high = made[f"{name}/p50_ms"]["interval"]
        return [
            f"{made[f'{name}/p50_ms']['value']:.2f} [{low:.2f}, {high:.2f}]",
            f"{made[f'{name}/p95_ms']['value']:.2f}",
        ]

    rows = [["a route that does nothing", "", *cells("empty")]]
    for name, words in (
        ("memory hit", "hit, in this process"), ("redis fetched", "hit, fetched from Redis"),
        ("redis hit", "hit, fetched before"), ("none", "no cache"), ("memory", "miss, in memory"),
        ("redis", "miss, memory and Redis"),
    ):  # fmt: skip
        rows += [[words, kind, *cells(f"{name} {kind}")] for kind in ("whole", "stream")]
    added = []
    for store, words in (("memory", "in memory"), ("redis", "with Redis behind it")):
        for kind in ("whole", "stream"):
            one = made[f"{store} {kind}/miss_cost_ms"]
            low, high = one["interval"]
            added.append(f"{words}, {kind}: {one['value']:+.2f} ms [{low:.2f}, {high:.2f}]")
    given = data["params"]
    tail = (
        f"\nA miss minus the same question's call without a cache: {'; '.join(added)}. {given['rounds']} blocks of "
        f"{given['block']} calls of each row, {given['rate']:g} a second to one server at a time, in an order of their own; "
        f"known: {given['known']} questions of a kind in turn; {given['tokens']} tokens an answer, the mock engine. "
        "Intervals are over rounds.\n"
    )
    return table(["E2E, ms", "", "p50 [95 %]", "p95"], rows) + tail + source(data)


def sweep(data: Any) -> str:
    """Each phase's hit ratio beside both predictions, and where they are furthest off."""
    rows = []
    for row in data["rows"]:
        label = f"{row['setting']} {row['value']:g}"
        for phase in ("cold", "warm"):
            one = row[phase]
            low, high = one["interval"] or [one["measured"]] * 2
            rows.append([
                f"{label}, {phase}", f"{one['measured']:.3f} [{low:.3f}, {high:.3f}]", f"{one['replay']:.3f}",
                f"{one['replay_error']['mean']:+.3f}", f"{one['forecast']:.3f} ± {one['forecast_spread']:.3f}",
                f"{one['forecast_error']['mean']:+.3f}", f"{one['ideal']:.3f}",
            ])  # fmt: skip
    said = "; ".join(
        f"{phase}, {kind}: median {one['median']:.3f}, largest {one['largest']:.3f} of {one['n']} cells"
        for phase, kinds in data["error"].items()
        for kind, one in kinds.items()
    )
    lost = {
        what: sum(row[phase][what] for row in data["rows"] for phase in data["error"])
        for what in ("failures", "rejected")
    }
    given, fewest = (
        data["settings"]["caching"],
        min(row[phase]["requests"] for row in data["rows"] for phase in data["error"]),
    )
    tail = (
        f"\n{given['questions']:,} questions, exponent {given['exponent']:g}, {given['cache_mib']} MiB, warmed up with "
        f"{given['warm_requests']:,} requests, but for what the row changes; means of {len(data['seeds'])} seeds, intervals "
        f"between them, at least {fewest} requests a phase and seed. The forecast's spread is the standard deviation of one "
        f"run. |predicted - measured|: {said}. Failed requests: {lost['failures']:.0f}, refused: {lost['rejected']:.0f}.\n"
    )
    return table(["", "hit ratio [95 %]", "replay", "error", "forecast", "error", "ideal"], rows) + tail + source(data)


def policies(data: Any) -> str:
    names = sorted(data["mean"], key=lambda name: -data["mean"][name]["hit_ratio"])
    rows = []
    for cell in data["cells"]:
        if cell["budget_share"] in (0.1, 0.5):
            mean = (f"{cell['policies'][name]['hit_ratio']['mean']:.3f}" for name in names)
            ideal = "-" if cell["ideal"] is None else f"{cell['ideal']:.3f}"
            label = f"{cell['exponent']:g}, {cell['budget_share']:.0%}, churn {cell['churn']:g}"
            rows.append([label, *mean, ideal])
    rows.append(["mean over all", *(f"{data['mean'][name]['hit_ratio']:.3f}" for name in names), ""])
    tail = (
        f"\nHit ratios; rows: Zipf exponent, budget as a share of all answers, chance that two ranks change places at a "
        f"request; means over {data['params']['seeds']} seeds of {data['params']['requests']:,} requests after as many.\n"
    )
    return table(["trace", *names, "ideal"], rows) + tail + source(data)


def prefix(data: Any) -> str:
    rows = []
    for variant, made in data["variants"].items():
        for one in sorted(made["by_budget"].values(), key=lambda row: row["budget_mib"]):
            rows.append([
                f"{variant}, {one['budget_mib']:.0f} MiB", f"{one['hit_share']:.0%}", f"{one['ttft_ms']['p50']:.0f}",
                f"{one['ttft_ms']['p95']:.0f}", f"{one['saved_s']['ttft']:.1f}", f"{one['evicted']['entries']}",
            ])  # fmt: skip
        for side in ("cold", "warm"):
            one = made["restart"][side]
            rows.append([
                f"{variant}, after a restart, {side}", f"{one['hit_share']:.0%}", f"{one['ttft_ms']['p50']:.0f}",
                f"{one['ttft_ms']['p95']:.0f}", f"{one['saved_s']['ttft']:.1f}", f"{one['evicted']['entries']}",
            ])  # fmt: skip
    wrong = sum(made["different_answers"] for made in data["variants"].values())
    tail = (
        "\nThe same requests in turn through one scheduler a row. Answers that differed from those without a cache: "
        f"{wrong}.\n"
    )
    head = ["", "tokens found", "TTFT p50, ms", "p95", "seconds saved", "evicted"]
    return table(head, rows) + tail + source(data)


def vectors(data: Any) -> str:
    rows = [
        [name, f"{row['texts_per_s']:.1f}", f"{row['ratio']:.2f}", *(
            f"{data['cosine'][name][key]:.5f}" if name in data["cosine"] else "-" for key in ("published_min", "corpus_min"))]
        for name, row in data["speed"].items()
    ]  # fmt: skip
    hit = data["hit"]
    tail = (
        f"\n{data['texts']} texts of the corpus, {data['tokens_mean']:.0f} tokens on average, {data['threads']} threads. One "
        f"text: computed in {hit['computed_us'] / 1000:.1f} ms, found in {hit['found_us']:.0f} us.\n"
    )
    head = ["encoder", "texts/s", "beside ort fp32", "least cosine, published", "least cosine, corpus"]
    return table(head, rows) + tail + source(data)


def semantic(data: Any) -> str:
    """Hits by class, with the strict guard's Wilson intervals; a class that it refuses whole is so by definition."""
    chosen, strict = data["choice"]["none"], data["choice"]["strict"]
    rows = []
    for name, words in CLASSES.items():
        made = data["test"][name]
        by = {guard: {row["threshold"]: row for row in made["guards"][guard]} for guard in ("none", "rules", "strict")}
        cells = (f"{by['none'][at]['share']:.1%}" for at in SHOWN[:-1])
        given = _of(by["strict"][strict["threshold"]])
        if name not in RIGHT and made["refused_by"]["strict"] == made["pairs"]:
            given = f"by definition: {given}"
        label = f"{words}{'' if name in RIGHT else ' (wrong)'}"
        rows.append([label, f"{made['pairs']}", *cells, _of(by["none"][SHOWN[-1]]), _of(by["rules"][SHOWN[-1]]), given])
    first = (
        "Without a guard no threshold keeps the false hits' upper bound below 1 %."
        if chosen is None
        else f"Without a guard the threshold {chosen['threshold']:g} keeps the false hits' upper bound below 1 %."
    )
    wrong, right = strict["wrong"], strict["classes"]["paraphrase"]
    low, high = right["interval"]
    second = (
        f" With the strict guard {strict['threshold']:g} does, with {wrong['hits']} of {wrong['pairs']:,} wrong pairs, but "
        f"{data['excluded_by_definition']['strict']} It serves {right['share']:.1%} [{low:.1%}, {high:.1%}] of the "
        "paraphrases."
    )
    head = [
        "would hit, at",
        "pairs",
        *(f"{at:g}" for at in SHOWN[:-1]),
        *(f"{guard}, {SHOWN[-1]:g} [95 %]" for guard in ("no guard", "rules")),
        f"strict guard, {strict['threshold']:g} [95 %]",
    ]
    judged = f"\n{first}{second} Judged: {data['judged']}.\n"
    return table(head, rows) + judged + source(data)


def _of(row: Mapping[str, Any]) -> str:
    low, high = row["interval"]
    return f"{row['hits']} [{low:.1%}, {high:.1%}]"


def replay(data: Any) -> str:
    rows = []
    for name, words in (("open", "questions alone"), ("passage", "with the passage, which must match")):
        for guard in ("none", "rules", "strict"):
            for row in data["replay"][name].get(guard, ()):
                if row["threshold"] in (0.9, 0.95, 0.99) and (guard == "none") == (not row["guard"]):
                    low, high = row["wrong_interval"]
                    rows.append([f"{words}, {guard}, {row['threshold']:g}", f"{row['lookups']:,}", f"{row['hit_share']:.1%}",
                                 f"{row['wrong_share']:.1%}", f"{low:.1%} to {high:.1%}"])  # fmt: skip
    entries = "; ".join(
        f"at most {row['delta']:.0%} wrong asked: {row['served']:,} of {row['requests']:,} served, {row['wrong']} wrong"
        for row in data["replay"]["entries"]
    )
    head = ["context, guard, threshold", "new texts", "would hit", "of these wrong", "95 %"]
    return table(head, rows) + f"\nA threshold learnt for each entry ({entries}).\n" + source(data)


def decision(reports: Reports) -> str:
    made = found(reports, f"{STUDY}/load")
    lines = []
    if made is not None:
        held = values(made["memory"])
        beside, missed = held["kept/hit/e2e_p50_ms"] - held["empty/empty/e2e_p50_ms"], held["miss_cost_ms"]
        if (alone := found(reports, f"{STUDY}/cost")) is not None:
            missed = alone["measurements"]["memory whole/miss_cost_ms"]["value"]
        lines.append(
            f"**Answers are cached by default, in memory.** A hit takes {beside:.1f} ms beside a route that does nothing, "
            f"a miss {missed:+.1f} ms beside no cache, and the same question at once is made once."
        )
    if (traces := found(reports, f"{STUDY}/traces")) is not None:
        best = max(traces["mean"], key=lambda name: traces["mean"][name]["hit_ratio"])
        ahead = traces["mean"][best]["over_lru"]
        lines.append(
            f"**Eviction by {best}**: {100 * ahead:.1f} points of hit ratio over LRU on average, most where the budget is "
            "small."
        )
    if (kv := found(reports, f"{STUDY}/prefix")) is not None:
        shares = [max(row["hit_share"] for row in one["by_budget"].values()) for one in kv["variants"].values()]
        lines.append(
            f"**The prefix cache stays on**: {min(shares):.0%} of the tokens of chats and shared passages need not be run."
        )
    if (near := found(reports, f"{STUDY}/semantic")) is not None:
        share = near["choice"]["strict"]["classes"]["paraphrase"]["share"]
        kept = "no threshold" if near["choice"]["none"] is None else f"{near['choice']['none']['threshold']:g}"
        lines.append(
            f"**Nothing is served from the semantic cache.** {kept[0].upper()}{kept[1:]} alone keeps wrong answers below "
            f"1 %; a guard that does leaves {share:.0%} of the paraphrases, little beside what exact matches save."
        )
    return "\n\n".join(lines) + "\n" if lines else missing(f"{STUDY}/load")


SECTIONS = {
    "caching_load": section(f"{STUDY}/load", load),
    "caching_shared": section(f"{STUDY}/load", shared),
    "caching_cost": section(f"{STUDY}/cost", cost),
    "caching_sweep": section(f"{STUDY}/sweep", sweep),
    "caching_policies": section(f"{STUDY}/traces", policies),
    "caching_prefix": section(f"{STUDY}/prefix", prefix),
    "caching_vectors": section(f"{STUDY}/encoder", vectors),
    "caching_semantic": section(f"{STUDY}/semantic", semantic),
    "caching_replay": section(f"{STUDY}/semantic", replay),
    "caching_goals": goals,
    "caching_decision": decision,
}
