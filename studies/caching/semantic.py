"""The semantic cache: how often the answer to a similar question would have been right, over thresholds.

    make study NAME=caching, or python -m studies.caching.semantic [--pairs 400] [--choice-pairs 150] [--requests 4000]

1. Pairs of questions that mean the same, that nearly do and must not hit, and unrelated ones (`semantic_pairs`,
   `semantic_swaps`); right and wrong by the corpus' gold answers (normalised words equal, or token F1 >= 0.8), of turned
   sentences and of swapped names by making.
2. Their similarity; for each threshold the share that hits, without a guard, with the guard's rules, and strict.
3. `choice`: the least threshold at which no more than 1 % of the wrong pairs hit, by the upper end of the interval, all
   wrong classes of the side `validation` together; what it lets through and what it saves is then read off `test`.
4. A replay: intents by Zipf's law with a random wording and spelling each go through `SemanticCache` as the server would
   send them, with the gold answer for the engine's; once all in one context (no passage is given), once each with its
   passage. Exact repetitions are the response cache's and count apart.
5. The same stream against a threshold for each entry (`semantic_entries`).

What the guards exclude by definition (`BY_DEFINITION`, in the report too): the strict guard refuses any other word and any
other order, and every wrong pair here has one or the other. Its zero false hits over pairs, and the threshold chosen by
them, are no evidence that it is safe. Evidence are the guards `none` and `rules`, and for `strict` the replay, where the
same words in the same order may be asked of two objects.

Vectors are kept under .tradewind/studies by the encoder's digest, so that a run cut off goes on where it was. Intervals
take pairs as independent, although they share objects. Not covered: questions of people, an attacker, other encoders.
"""

import argparse
import random
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from studies.caching.semantic_entries import replay as replay_entries
from studies.caching.semantic_pairs import RIGHT, WRONG, Intent, Pair, intents, pairs, sides, spellings
from studies.caching.semantic_picture import draw
from studies.caching.semantic_swaps import SWAPPED, swapped
from tradewind import host
from tradewind.caching.guard import differs
from tradewind.caching.semantic import Question, SemanticCache
from tradewind.caching.shadow import CLOSE, THRESHOLDS
from tradewind.config import read_params, run
from tradewind.corpus.phrasings import TRAIN
from tradewind.corpus.records import Record
from tradewind.encoder import load_encoder
from tradewind.encoder.contract import Encoder
from tradewind.files import atomic_path, read_json, read_jsonl, write_json
from tradewind.intervals import wilson
from tradewind.tracking import Measurement, git_commit, home, record_run

SEED, CHUNK, BUDGET, GOAL = 0, 64, 256 << 20, 0.01
REPORT, PICTURE = Path("reports/studies/caching/semantic.json"), Path("reports/studies/caching/semantic.png")
RUN = Path("reports/runs/caching-semantic.json")
GUARDS = ("none", "rules", "strict")
DELTAS = (0.01, 0.02, 0.05)
FALSE = (*WRONG, *SWAPPED)
"""The classes whose hits are false."""
BY_DEFINITION = {
    "rules": "polarity and number are made mostly of words and digits that this guard compares: what hits there is what "
    "its tables lack. reversed, and_or and question_word are what it does not look at.",
    "strict": "every class of wrong pairs differs in a word or in the order of words, and this guard refuses all such "
    "pairs at any similarity: its zeros say what it is, not how often it errs.",
}
FORMULA = "pairs of the class with similarity >= threshold that the guard lets pass / pairs of the class"

Vectors = dict[str, NDArray[np.float32]]


@dataclass(frozen=True)
class Work:
    """pairs: of each class on `test`; choice_pairs: on `validation`. intents, requests, zipf: of the replay."""

    pairs: int = 400
    choice_pairs: int = 150
    intents: int = 500
    requests: int = 4000
    zipf: float = 1.0
    seed: int = SEED


@dataclass(frozen=True)
class Sample:
    """What is to be measured. asked: (question, passage, gold answer) in order of arrival."""

    pairs: dict[str, list[Pair]]
    harmless: dict[str, dict[str, int]]
    asked: list[tuple[str, str, str]]

    def texts(self) -> list[str]:
        both = [text for side in self.pairs.values() for pair in side for text in (pair.asked, pair.known)]
        return list(dict.fromkeys([*both, *(question for question, *_ in self.asked)]))


def main() -> None:
    given, work = arguments()
    encoder = load_encoder(given.encoder)
    rows = read_jsonl(given.records)
    sample = sampled([Record.from_json(row) for row in rows], work)
    vectors = embedded(encoder, sample.texts())
    manifest = read_json(given.encoder / "manifest.json")
    result = {
        "device": host.device(),
        "git_commit": git_commit(),
        "work": asdict(work),
        "encoder": {"digest": encoder.digest, "name": manifest["name"], "precision": manifest["precision"]},
        "judged": f"right: normalised words equal or token F1 >= {CLOSE} between gold answers; turned sentences and "
        "swapped names: wrong",
        "excluded_by_definition": BY_DEFINITION,
    } | measured(sample, encoder, vectors, work)
    write_json(REPORT, result)
    draw(PICTURE, result["test"], result["device"])
    record(result, work)
    print(lines(result))


def arguments() -> tuple[argparse.Namespace, Work]:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--encoder", type=Path, default=Path("artifacts/encoder"))
    parser.add_argument("--records", type=Path, default=Path("artifacts/corpus/records.jsonl"))
    for name, value in asdict(Work()).items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=type(value), default=value)
    given = parser.parse_args()
    return given, Work(**{name: getattr(given, name) for name in asdict(Work())})


def sampled(records: Sequence[Record], work: Work) -> Sample:
    corpus = read_params()["corpus"]
    by_side = sides(records, corpus["validation_share"], corpus["test_share"])
    made, harmless, pools = {}, {}, {}
    for side, count in (("validation", work.choice_pairs), ("test", work.pairs)):
        rng = random.Random(work.seed)
        pools[side] = intents(by_side[side], rng, 6 * count)
        made[side], harmless[side] = pairs(by_side[side], pools[side], count, rng)
        made[side] += swapped(by_side[side], count, random.Random(work.seed))
    return Sample(made, harmless, stream(pools["test"][: work.intents], work))


def stream(pool: Sequence[Intent], work: Work) -> list[tuple[str, str, str]]:
    """Requests by Zipf's law over the intents, each in one of its wordings and spellings."""
    rng = random.Random(work.seed)
    weights = [1 / rank**work.zipf for rank in range(1, len(pool) + 1)]
    out = []
    for intent in rng.choices(pool, weights, k=work.requests):
        said = replace(intent, symbol=rng.choice(spellings(intent.record)))
        out.append((rng.choice(said.wordings()), intent.passage, intent.gold))
    return out


def embedded(encoder: Encoder, texts: Sequence[str]) -> Vectors:
    """text -> vector; what was computed before is read back."""
    path = home() / "studies" / "semantic" / f"{encoder.digest}.npz"
    known: Vectors = {}
    if path.is_file():
        with np.load(path) as kept:
            known = dict(zip(kept["texts"].tolist(), kept["vectors"], strict=True))
    missing = [text for text in texts if text not in known]
    for start in tqdm(range(0, len(missing), CHUNK), desc="vectors", disable=None):
        part = missing[start : start + CHUNK]
        known |= zip(part, encoder.embed(part), strict=True)
        if start % (8 * CHUNK) == 0 or start + CHUNK >= len(missing):
            with atomic_path(path) as temporary, open(temporary, "wb") as file:
                np.savez(file, texts=np.array(list(known)), vectors=np.stack(list(known.values())))
    return {text: known[text] for text in texts}


def measured(sample: Sample, encoder: Encoder, vectors: Vectors, work: Work) -> dict[str, Any]:
    out: dict[str, Any] = {side: classes(found, vectors, work.seed) for side, found in sample.pairs.items()}
    out["harmless"] = sample.harmless
    out["choice"] = {guard: choice(out["validation"], out["test"], guard) for guard in GUARDS}
    asked = [(question, gold) for question, _, gold in sample.asked]
    out["replay"] = {
        "open": replayed([(question, "", gold) for question, gold in asked], encoder, vectors),
        "passage": replayed(sample.asked, encoder, vectors),
        "entries": [
            asdict(one) | {"wrong_interval": list(wilson(one.wrong, one.requests))}
            for one in (replay_entries(asked, vectors, delta, work.seed) for delta in DELTAS)
        ],
    }
    return out


def classes(found: Sequence[Pair], vectors: Vectors, seed: int) -> dict[str, Any]:
    """Class -> pairs, how many each guard refuses at any similarity, quantiles of similarity, hits over thresholds by
    guard with their Wilson intervals; `random` is made of the others' texts,
    `polarity_unlisted` are pairs whose words the guard does not list."""
    by_class = {kind: [pair for pair in found if pair.kind == kind] for kind in (*RIGHT, *FALSE)}
    by_class["polarity_unlisted"] = [pair for pair in by_class["polarity"] if not pair.listed]
    strangers = [pair.asked for pair in by_class["paraphrase"]]
    random.Random(seed).shuffle(strangers)
    by_class["random"] = [
        Pair("random", "", pair.asked, stranger)
        for pair, stranger in zip(by_class["paraphrase"], strangers, strict=True)
        if pair.asked != stranger
    ]
    return {kind: outcome(members, vectors) for kind, members in by_class.items()}


def outcome(members: Sequence[Pair], vectors: Vectors) -> dict[str, Any]:
    scores = np.array([vectors[pair.asked] @ vectors[pair.known] for pair in members])
    reasons = {
        "none": [None] * len(members),
        "rules": [differs(pair.asked, pair.known) for pair in members],
        "strict": [differs(pair.asked, pair.known, strict=True) for pair in members],
    }
    quantiles = np.quantile(scores, (0.05, 0.25, 0.5, 0.75, 0.95)) if members else np.zeros(0)
    return {
        "pairs": len(members),
        "similarity_quantiles": [float(value) for value in quantiles],
        "refused_by": {guard: len(members) - reasons[guard].count(None) for guard in GUARDS},
        "refused": {reason: reasons["strict"].count(reason) for reason in sorted({*reasons["strict"]} - {None})},
        "guards": {
            guard: over_thresholds(scores[[reason is None for reason in found]], len(members))
            for guard, found in reasons.items()
        },
    }


def over_thresholds(passed: NDArray[np.float32], count: int) -> list[dict[str, Any]]:
    """passed: similarities of the pairs that the guard lets pass; count: of all pairs."""
    hits = [(threshold, int((passed >= threshold).sum())) for threshold in THRESHOLDS]
    return [
        {"threshold": at, "hits": n, "share": n / count if count else 0.0, "interval": list(wilson(n, count))}
        for at, n in hits
    ]


def choice(chosen_on: Mapping[str, Any], read_off: Mapping[str, Any], guard: str) -> dict[str, Any] | None:
    """The least threshold that keeps the wrong pairs of one side under GOAL, and what it does on the other."""
    total = sum(chosen_on[kind]["pairs"] for kind in FALSE)
    for at, threshold in enumerate(THRESHOLDS):
        hits = sum(chosen_on[kind]["guards"][guard][at]["hits"] for kind in FALSE)
        if wilson(hits, total)[1] < GOAL:
            rows = {kind: found["guards"][guard][at] for kind, found in read_off.items()}
            pooled = sum(rows[kind]["hits"] for kind in FALSE)
            count = sum(read_off[kind]["pairs"] for kind in FALSE)
            return {
                "threshold": threshold,
                "chosen_on": {"hits": hits, "pairs": total, "interval": list(wilson(hits, total))},
                "wrong": {"hits": pooled, "pairs": count, "interval": list(wilson(pooled, count))},
                "classes": {kind: row | {"pairs": read_off[kind]["pairs"]} for kind, row in rows.items()},
            }
    return None


def replayed(asked: Sequence[tuple[str, str, str]], encoder: Encoder, vectors: Vectors) -> dict[str, Any]:
    """What the shadow counts; requests, and how many an exact cache would have answered. vectors: by `encoder`."""
    out: dict[str, Any] = {"requests": len(asked)}
    for guard in ("rules", "strict"):
        cache = SemanticCache(encoder, BUDGET, strict=guard == "strict")
        try:
            for text, passage, gold in asked:
                found = cache.nearest(Question("tenant", passage.encode(), text), vectors[text])
                cache.learn(found, gold, tokens=0)
        finally:
            cache.close()
        shadow = cache.shadow
        out |= {"repeated": shadow.repeated, "first_in_context": shadow.empty, "entries": len(cache.past)}
        out[guard] = [row for row in shadow.rows() if row["guard"]]
        out["none"] = [row for row in shadow.rows() if not row["guard"]]
    return out


def record(result: Mapping[str, Any], work: Work) -> None:
    params = asdict(work) | {"encoder": result["encoder"]["digest"], "wordings": sum(map(len, TRAIN.values()))}
    with record_run(stage="semantic", question="caching", params=params, path=RUN) as made:
        for guard, chosen in result["choice"].items():
            if chosen is None:
                continue
            made.log(Measurement(f"threshold_{guard}", chosen["threshold"], "1", None, None, "see the report"))
            wrong, right = chosen["wrong"], chosen["classes"]["paraphrase"]
            share = wrong["hits"] / wrong["pairs"]
            made.log(
                Measurement(
                    f"false_hits_{guard}", share, "1", wrong["pairs"], tuple(wrong["interval"]), FORMULA, work.seed
                )
            )
            made.log(
                Measurement(
                    f"paraphrase_hits_{guard}", right["share"], "1", right["pairs"], tuple(right["interval"]), FORMULA,
                    work.seed,
                )
            )  # fmt: skip
        made.artifact(PICTURE)


def lines(result: Mapping[str, Any]) -> str:
    out = []
    for guard, chosen in result["choice"].items():
        if chosen is None:
            out.append(f"guard {guard}: no threshold keeps false hits under {GOAL:.0%}")
            continue
        shares = ", ".join(
            f"{kind} {row['hits']} of {row['pairs']} [{row['interval'][0]:.2%}, {row['interval'][1]:.2%}]"
            for kind, row in chosen["classes"].items()
        )
        out.append(f"guard {guard}: from {chosen['threshold']}: {shares}")
    for name in ("open", "passage"):
        played = result["replay"][name]
        out.append(f"replay, {name}: {played['requests']} requests, {played['repeated']} repeated")
        for guard in GUARDS:
            cells = (f"{r['threshold']}: {r['hits']} ({r['wrong']} wrong)" for r in played[guard] if r["hits"])
            out.append(f"  guard {guard}: " + ", ".join(cells))
    out += [
        f"entries, delta {r['delta']}: {r['served']} served, {r['wrong']} wrong" for r in result["replay"]["entries"]
    ]
    return "\n".join(out)


if __name__ == "__main__":
    run(main)
