"""The sentence encoder: its runtimes and precisions beside each other, what a hit costs, and whether a vector can be cut.

    make study NAME=caching, or python studies/caching/encoder.py [--texts 40] [--repeats 3]

1. Records of the corpus (their summary and description, cut at the encoder's limit) are encoded, one by one, in JAX, in
   ONNX Runtime in float32 and in int8, taking turns text by text; the fastest of the repeats of each text counts.
2. Cosine of each with the float32 vectors, over the same texts and those of tests/parity.
3. A hit: the same texts again, through the cache, in microseconds for each text, tokens counted and not counted.
4. Cut vectors: for each text its nearest of the other half of the same record (summary to description), by the first k
   dimensions, normalised anew: recall at 1, for k = 384, 256, 128, 64.

Written to reports/studies/caching/encoder.json. Other work on the machine slows all of them: ratios are what to read.
"""

import argparse
import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from tradewind import host
from tradewind.caching.embedding import EmbeddingCache
from tradewind.caching.memory import LocalStore
from tradewind.config import run
from tradewind.encoder import load_encoder
from tradewind.encoder.contract import Encoder, Vectors
from tradewind.encoder.folder import read_published, write_folder
from tradewind.encoder.jax import JaxEncoder
from tradewind.encoder.model import to_model
from tradewind.files import read_json, read_jsonl, write_json
from tradewind.tracking import Measurement, git_commit, record_run

NAME, SEED, THREADS = "all-MiniLM-L6-v2", 0, 2
RECORDS, PUBLISHED = Path("artifacts/corpus/records.jsonl"), Path("data/encoder")
REPORT, RUN = Path("reports/studies/caching/encoder.json"), Path("reports/runs/caching-encoder.json")
CUTS = (384, 256, 128, 64)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--texts", type=int, default=40)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--records", type=Path, default=RECORDS)
    options = parser.parse_args()
    chosen = records(options.records, options.texts)
    with TemporaryDirectory() as folder:
        encoders = load(Path(folder))
        texts = [f"{one['summary']} {one['description']}" for one in chosen]
        tokens = [limited(encoders["ort fp32"], one) for one in texts]
        result = {
            "device": host.device(),
            "git_commit": git_commit(),
            "seed": SEED,
            "threads": THREADS,
            "texts": len(tokens),
            "tokens_mean": float(np.mean([len(one) for one in tokens])),
            "speed": speed(encoders, tokens, options.repeats),
            "cosine": cosines(encoders, tokens),
            "hit": hit(encoders["ort int8"], texts, tokens, options.repeats),
            "recall_at_1": cut(encoders["ort fp32"], chosen),
        }
    write_json(REPORT, result)
    record(result)
    print(json.dumps(result, indent=2))


def records(path: Path, count: int) -> list[dict[str, Any]]:
    """Records with a summary and a description that differ, chosen by the seed."""
    known = [one for one in read_jsonl(path) if len(one["description"]) > 40 and one["summary"] != one["description"]]
    places = np.random.default_rng(SEED).choice(len(known), min(count, len(known)), replace=False)
    return [known[place] for place in places]


def load(folder: Path) -> dict[str, Encoder]:
    config, flat, tokenizer = read_published(PUBLISHED)
    made: dict[str, Encoder] = {"jax": JaxEncoder(to_model(config, flat), tokenizer, NAME)}
    for precision in ("fp32", "int8"):
        write_folder(folder / precision, NAME, config, flat, tokenizer, precision)
        made[f"ort {precision}"] = load_encoder(folder / precision, THREADS)
    return made


def limited(encoder: Encoder, text: str) -> list[int]:
    """Its tokens, what is beyond the limit left out."""
    (tokens,) = encoder.tokenizer.encode([text])
    return tokens if len(tokens) <= encoder.max_tokens else [*tokens[: encoder.max_tokens - 1], tokens[-1]]


def speed(encoders: dict[str, Encoder], tokens: Sequence[list[int]], repeats: int) -> dict[str, dict[str, float]]:
    """Texts/s alone, and the ratio to float32 in ONNX Runtime; for JAX also in its batches of eight."""
    best = {name: np.full(len(tokens), np.inf) for name in encoders}
    for repeat in range(repeats + 1):  # the first warms up
        for place, one in enumerate(tokens):
            for name, encoder in encoders.items():
                seconds = timed(lambda encoder=encoder, one=one: encoder.embed_tokens([one]))
                best[name][place] = min(best[name][place], seconds) if repeat else np.inf
    batched = min(timed(lambda: encoders["jax"].embed_tokens(tokens)) for _ in range(repeats + 1))
    rates = {name: len(tokens) / float(each.sum()) for name, each in best.items()} | {
        "jax batched": len(tokens) / batched
    }
    return {name: {"texts_per_s": rate, "ratio": rate / rates["ort fp32"]} for name, rate in rates.items()}


def timed(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def cosines(encoders: dict[str, Encoder], tokens: Sequence[list[int]]) -> dict[str, dict[str, float]]:
    short = encoders["jax"].tokenizer.encode(read_json("tests/parity/texts.json"))
    with np.load("tests/parity/embeddings.npz") as stored:
        published: Vectors = stored["vectors"]
    made = {}
    for name, encoder in encoders.items():
        own = (encoder.embed_tokens(tokens) * encoders["ort fp32"].embed_tokens(tokens)).sum(1)
        told = (encoder.embed_tokens(short) * published).sum(1)
        made[name] = {
            "corpus_min": float(own.min()),
            "corpus_mean": float(own.mean()),
            "published_min": float(told.min()),
        }
    return made


def hit(encoder: Encoder, texts: Sequence[str], tokens: Sequence[list[int]], repeats: int) -> dict[str, float]:
    """Microseconds a text of a call with one text that is there, and what computing it takes."""
    cache = EmbeddingCache(encoder, LocalStore(1 << 24))
    first = [timed(lambda one=one: finish(cache, one)) for one in tokens]
    found = [min(timed(lambda one=one: finish(cache, one)) for _ in range(repeats * 10)) for one in tokens]
    counted = [
        min(timed(lambda one=one: encoder.tokenizer.encode([one])) for _ in range(repeats * 10)) for one in texts
    ]
    made = {"computed_us": first, "found_us": found, "tokenized_us": counted}
    return {name: float(1e6 * np.median(values)) for name, values in made.items()}


def finish(cache: EmbeddingCache, tokens: list[int]) -> None:
    job = cache.job([tokens])
    while job.waiting:
        job.step()


def cut(encoder: Encoder, chosen: Sequence[dict[str, Any]]) -> dict[str, float]:
    """Share of summaries whose nearest description is their own, by the first k dimensions."""
    halves = [
        encoder.embed_tokens([limited(encoder, one[field]) for one in chosen]) for field in ("summary", "description")
    ]
    found = {}
    for k in CUTS:
        short = [half[:, :k] / np.linalg.norm(half[:, :k], axis=1, keepdims=True) for half in halves]
        found[str(k)] = float(((short[0] @ short[1].T).argmax(1) == np.arange(len(chosen))).mean())
    return found


def record(result: dict[str, Any]) -> None:
    about = {"texts": result["texts"], "threads": THREADS, "seed": SEED}
    with record_run(stage="encoder", question="caching", path=RUN, variant=NAME, params=about) as made:
        for name, rate in result["speed"].items():
            label = name.replace(" ", "_")
            made.log(Measurement(f"texts_per_s.{label}", rate["texts_per_s"], "1/s", result["texts"], seed=SEED))
        for name, cosine in result["cosine"].items():
            label = name.replace(" ", "_")
            made.log(Measurement(f"cosine_published_min.{label}", cosine["published_min"], "1", 16, seed=SEED))
        made.log(Measurement("hit", result["hit"]["found_us"], "us", result["texts"], formula="median", seed=SEED))
        made.artifact(REPORT)


if __name__ == "__main__":
    run(main)
