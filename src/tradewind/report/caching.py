"""Notebook 2's sections, from reports/studies/caching. A report that is not there is one line with its command."""

from collections.abc import Mapping
from typing import Any

from tradewind.load.prices import PRICE_OF
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
OUTCOMES = ("empty", "hit", "coalesced", "miss", "uncached")


def load(data: Any) -> str:
    """Latency by outcome, never blended; hit ratio beside the simulator's."""
    values = _values(data["memory"])
    settings = data["memory"]["settings"]
    given = settings["caching"]
    rows = [
        [words, f"{count:.0f}", *(f"{values[f'{phase}/{outcome}/e2e_{share}_ms']:.1f}" for share in ("p50", "p95", "p99"))]
        for phase, outcome, words in (
            ("empty", "empty", "a route that does nothing"), ("kept", "hit", "hit, no engine at work beside it"),
            ("warm", "hit", "hit, misses being generated beside it"), ("warm", "miss", "miss, at the same time"),
            ("no-cache", "miss", f"miss, {settings['users']} users"),
            ("uncached", "uncached", f"no cache, {settings['users']} users"),
            ("burst", "coalesced", f"{given['burst']} at once, waiting for the one that is made"),
        )
        if f"{phase}/{outcome}/e2e_p50_ms" in values
        for count in [_measured(data["memory"], f"{phase}/{outcome}/e2e_p50_ms")["n"] or 0]
    ]  # fmt: skip
    ratios = [
        [
            phase,
            *(f"{values[f'{phase}/{name}']:.3f}" for name in ("hit_ratio", "predicted_hit_ratio", "coalesced_ratio",
                                                             "ideal_hit_ratio")),
        ]
        for phase in ("cold", "warm")
    ]  # fmt: skip
    gain, goal = values.get("same_p95_gain"), values.get("same_p95_goal")
    tail = (
        f"\n`{settings['model']}`, {given['questions']:,} questions by Zipf with exponent {given['exponent']:g}, "
        f"{settings['rate']:g} requests/s in open loop, {given['cache_mib']} MiB, warmed up with "
        f"{given['warm_requests']:,} requests of another seed; {settings['answer_tokens']} tokens an answer. A miss costs "
        f"{values['miss_cost_ms']:+.1f} ms beside no cache (medians of phases in turn)."
    )
    if gain is not None and goal is not None:
        tail += (
            f" At the p95 of the server without a cache ({values['uncached_p95_ms']:.0f} ms, of all requests) the cache "
            f"gives {gain:.1f} times its requests/s; 0.8 / (1 - hit ratio) would be {goal:.1f}."
        )
    tail += f" Saved: {values['saved_tokens']:,.0f} tokens, {values['saved_s']:,.0f} s of generation"
    if (thousand := values.get("uncached_usd_per_1000")) is not None:
        tail += f", {values['saved_usd']:.3f} USD at {thousand:.4f} USD for 1,000 answers that are made ({PRICE_OF})"
    tail += ". "
    tail += f"{values['burst/generations']:.0f} generation for the {given['burst']} identical requests.\n"
    head = table(["E2E, ms", "requests", "p50", "p95", "p99"], rows)
    return head + "\n" + table(["phase", "hit ratio", "predicted", "coalesced", "ideal"], ratios) + tail + source(data)


def shared(data: Any) -> str:
    values = _values(data["redis"])
    rows = []
    for phase, words in (
        ("kept", "this process has it"), ("elsewhere", "another process had it: from Redis"),
        ("no-cache", "miss"), ("paused", "miss, Redis stopped (SIGSTOP)"), ("lost", "miss, Redis killed"),
    ):  # fmt: skip
        outcome = "miss" if phase in ("no-cache", "paused", "lost") else "hit"
        if f"{phase}/{outcome}/e2e_p50_ms" in values:
            cells = (f"{values[f'{phase}/{outcome}/e2e_{share}_ms']:.1f}" for share in ("p50", "p95", "p99"))
            rows.append([words, f"{values[f'{phase}/requests']:.0f}", f"{values[f'{phase}/failures']:.0f}", *cells])
    floor = values["empty/empty/e2e_p50_ms"]
    text = f"\nA route that does nothing takes this client {floor:.1f} ms.\n"
    return table(["E2E, ms", "requests", "failed", "p50", "p95", "p99"], rows) + text + source(data)


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
        f"\nA miss minus the same call without a cache, round by round: {'; '.join(added)}. {given['rounds']} rounds, "
        f"{given['rate']:g} calls a second, {given['tokens']} tokens an answer, the mock engine.\n"
    )
    return table(["E2E, ms", "", "p50 [95 %]", "p95"], rows) + tail + source(data)


def sweep(data: Any) -> str:
    rows = [
        [
            f"{row['setting']} {row['value']:g}",
            *(
                f"{row[phase]['measured']:.3f} / {row[phase]['predicted']:.3f}"
                for phase in ("cold", "warm")
            ),
            f"{row['warm']['ideal']:.3f}",
        ]
        for row in data["rows"]
    ]  # fmt: skip
    said = "; ".join(
        f"{phase}: median {one['median']:.3f}, largest {one['largest']:.3f} of {one['n']} runs"
        for phase, one in data["error"].items()
    )
    failed = sum(row[phase]["failures"] for row in data["rows"] for phase in ("cold", "warm"))
    given = data["settings"]["caching"]
    tail = (
        f"\nMeasured / predicted hit ratio. {given['questions']:,} questions, exponent {given['exponent']:g}, "
        f"{given['cache_mib']} MiB, warmed up with {given['warm_requests']:,} requests, but for what the row changes. "
        f"|predicted - measured|: {said}. Failed requests: {failed:.0f}.\n"
    )
    return table(["", "cold", "warm", "ideal"], rows) + tail + source(data)


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
        values = _values(made["memory"])
        beside, missed = values["kept/hit/e2e_p50_ms"] - values["empty/empty/e2e_p50_ms"], values["miss_cost_ms"]
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


def _values(part: Mapping[str, Any]) -> dict[str, float]:
    return {name: one["value"] for name, one in part["measurements"].items() if one["value"] is not None}


def _measured(part: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    one: Mapping[str, Any] = part["measurements"][name]
    return one


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
    "caching_decision": decision,
}
