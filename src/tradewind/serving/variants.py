"""From a model's name to an engine and its tokenizer: variant folders, the champion, the mock."""

import hashlib
import json
import logging
from collections.abc import Iterator
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from urllib.parse import quote

from tradewind import host
from tradewind.caching.embedding import EmbeddingCache
from tradewind.caching.memory import LocalStore
from tradewind.encoder import load_encoder
from tradewind.engine import Engine, load_engine
from tradewind.engine.lookup import feeds_agree
from tradewind.engine.scheduler import Scheduler, SchedulerSettings
from tradewind.engine.text import ByteTokenizer, Tokenizer
from tradewind.engine.timings import Observer
from tradewind.errors import UserError
from tradewind.files import read_json
from tradewind.serving.embeddings import Embeddings
from tradewind.serving.settings import ServeSettings

log = logging.getLogger(__name__)
CHAMPION, MOCK = "champion", "mock"
LIBRARIES = {"ort": "onnxruntime", "jax": "jax"}
"""What runs each engine."""


def resolve(model: str, variants: str | Path, profile: str = "cpu") -> str:
    """The variant that `model` names; `champion` is looked up in the registry. Raises UserError with the choices."""
    if model == CHAMPION:
        from tradewind.tracking import champion

        model = champion(profile)
    choices = sorted(path.parent.name for path in Path(variants).glob("*/manifest.json"))
    if model not in choices:
        known = f"choices: {', '.join(choices)}" if choices else f"there is none under {variants}: run `make repro`"
        raise UserError(f"unknown variant {model!r} ({known})")
    return model


def named(settings: ServeSettings, profile: str) -> str:
    """The name that is served. The mock engine is served as `mock` where no name is given."""
    if settings.engine == MOCK:
        return MOCK if settings.model == CHAMPION else settings.model
    return resolve(settings.model, settings.variants, profile)


def load(settings: ServeSettings, profile: str = "cpu") -> tuple[str, Engine, Tokenizer]:
    """The served name, the engine and the tokenizer."""
    name = named(settings, profile)
    size = {"slots": settings.slots, "max_len": settings.max_len, "threads": settings.threads}
    folder = None if settings.engine == MOCK else Path(settings.variants) / name
    return name, load_engine(folder, settings.engine, **size), load_tokenizer(replace(settings, model=name))


def load_tokenizer(settings: ServeSettings) -> Tokenizer:
    """Of the variant `model`, by its own name."""
    if settings.engine == MOCK:
        return ByteTokenizer()
    from tradewind.model.tokenizer import Tokenizer as ModelTokenizer

    return ModelTokenizer.load(Path(settings.variants) / settings.model)


def identity(settings: ServeSettings, name: str) -> str:
    """Of all that answers of a variant depend on: weights at their precision, tokenizer, template, engine, its
    library, and the processor, by whose kernels a last bit may differ.
    Empty for the mock.
    """
    if settings.engine == MOCK:
        return ""
    manifest = read_json(Path(settings.variants) / name / "manifest.json")
    others = {file for engine, files in manifest["files"].items() if engine != settings.engine for file in files}
    digests = {file: one["sha256"] for file, one in manifest["digests"].items()}
    held = {file: digest for file, digest in digests.items() if file in manifest["files"][settings.engine]}
    held |= {file: digest for file, digest in digests.items() if file not in others}
    text = json.dumps([settings.engine, version(LIBRARIES[settings.engine]), host.processor(), held], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def load_beside(main: str, settings: ServeSettings, profile: str = "cpu") -> Iterator[tuple[str, Engine, Tokenizer]]:
    """The variants of `fanout`, in order. Raises UserError where one is named twice or is the main one."""
    names = [main]
    for model in settings.fanout:
        one = replace(settings, model=model)
        if (name := named(one, profile)) in names:
            raise UserError(f"fanout: {name!r} is served already")
        names.append(name)
        yield load(one, profile)


def load_embeddings(settings: ServeSettings) -> Embeddings | None:
    """None where there is no encoder. Raises UserError for one that is damaged."""
    folder = Path(settings.encoder)
    if not (folder / "manifest.json").is_file():
        log.info("no encoder in %s (the stage encoder makes it): /v1/embeddings is not served", folder)
        return None
    encoder = load_encoder(folder, settings.threads)
    return Embeddings(EmbeddingCache(encoder, LocalStore(settings.embedding_cache_mib << 20)), settings)


def warm_up(engine: Engine, tokenizer: Tokenizer, settings: ServeSettings) -> None:
    """What the first request would otherwise pay for."""
    engine.warm_up(1 + settings.lookup_tokens * engine.exact_feeds, settings.lookup_max_rows)
    tokenizer.token_bytes(0)  # a vocabulary's bytes are made with the first of them


def start(
    name: str, engine: Engine, tokenizer: Tokenizer, settings: SchedulerSettings, observer: Observer | None = None
) -> Scheduler:
    """A warm engine behind a scheduler, without drafts where they could change a token on this machine. Files of its prefix
    cache lie in a folder of the model's name.
    """
    width = min(1 + settings.lookup_tokens, engine.max_len // 2)
    if settings.lookup_tokens and engine.exact_feeds and width and not feeds_agree(engine, width):
        log.warning("%s: tokens fed together give other logits than alone on this machine: no drafts are made", name)
        settings = replace(settings, lookup_tokens=0)
    if settings.prefix_cache_dir:
        settings = replace(settings, prefix_cache_dir=str(Path(settings.prefix_cache_dir) / quote(name, safe="")))
    return Scheduler(engine, tokenizer, settings, observer)
