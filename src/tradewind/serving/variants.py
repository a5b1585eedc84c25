"""From a model's name to an engine and its tokenizer: variant folders, the champion, the mock."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from tradewind.engine import Engine, load_engine
from tradewind.engine.text import ByteTokenizer, Tokenizer
from tradewind.errors import UserError
from tradewind.serving.settings import ServeSettings

CHAMPION, MOCK = "champion", "mock"


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
    if settings.engine == MOCK:
        return name, load_engine(None, MOCK, **size), ByteTokenizer()
    folder = Path(settings.variants) / name
    from tradewind.model.tokenizer import Tokenizer as ModelTokenizer

    return name, load_engine(folder, settings.engine, **size), ModelTokenizer.load(folder)


def load_beside(main: str, settings: ServeSettings, profile: str = "cpu") -> Iterator[tuple[str, Engine, Tokenizer]]:
    """The variants of `fanout`, in order. Raises UserError where one is named twice or is the main one."""
    names = [main]
    for model in settings.fanout:
        one = replace(settings, model=model)
        if (name := named(one, profile)) in names:
            raise UserError(f"fanout: {name!r} is served already")
        names.append(name)
        yield load(one, profile)
