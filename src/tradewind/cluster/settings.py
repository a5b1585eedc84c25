"""What the two applications of a cluster are started with: their `args` in a `serve.yaml`."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from tradewind.cluster.remote import Patience
from tradewind.config import build, read_params
from tradewind.engine import ENGINES
from tradewind.errors import UserError
from tradewind.serving.settings import ServeSettings


@dataclass(frozen=True)
class EngineArgs:
    """Of an application of engines. slots: of the replicas, in turn."""

    settings: ServeSettings
    slots: tuple[int, ...]

    @classmethod
    def of(cls, args: Mapping[str, Any]) -> "EngineArgs":
        """Raises UserError."""
        given = args.get("slots")
        slots = tuple(given) if isinstance(given, Sequence) and not isinstance(given, str) else None
        settings = settings_of({name: value for name, value in args.items() if name != "slots" or slots is None})
        if slots is not None and (not slots or not all(isinstance(one, int) and one > 0 for one in slots)):
            raise UserError(f"args.slots: {list(slots)} is no list of numbers of slots")
        return cls(settings, slots or (settings.slots,))


@dataclass(frozen=True)
class AliasArgs:
    """A `serving.catalog.Alias`, over names of applications."""

    engines: tuple[str, ...]
    exact: bool = True


@dataclass(frozen=True)
class ApiArgs:
    """Of the API's application. engines: names of applications, the main one first. aliases: names that clients may ask
    for beside the variants' own, each for one of those applications, or for several with other answers (exact: false)."""

    settings: ServeSettings
    engines: tuple[str, ...]
    aliases: dict[str, AliasArgs] = field(default_factory=dict)
    patience: Patience = field(default_factory=Patience)

    @classmethod
    def of(cls, args: Mapping[str, Any]) -> "ApiArgs":
        """Raises UserError."""
        own = {"engines", "aliases", "patience"}
        engines = engines_of(args)
        patience = build(Patience, args.get("patience", {}), "args.patience")
        settings = settings_of({name: value for name, value in args.items() if name not in own})
        aliases = args.get("aliases") or {}
        if not isinstance(aliases, Mapping):
            raise UserError("args.aliases: no mapping of names to engines, as in {assistant: {engines: [engine]}}")
        made = {str(name): build(AliasArgs, one, f"args.aliases.{name}") for name, one in aliases.items()}
        for name, alias in made.items():
            if unknown := [app for app in alias.engines if app not in engines]:
                raise UserError(f"args.aliases.{name}: {unknown[0]!r} is not among the engines ({', '.join(engines)})")
            if alias.exact and len(alias.engines) != 1:  # two applications never serve one model
                raise UserError(f"args.aliases.{name}: names one engine, or says exact: false")
        return cls(settings, engines, made, patience)


def engines_of(args: Mapping[str, Any]) -> tuple[str, ...]:
    """The names of applications in `engines`. Raises UserError."""
    engines = args.get("engines")
    if not isinstance(engines, Sequence) or isinstance(engines, str) or not engines:
        raise UserError("args.engines: name the applications that the API answers with, as in [engine]")
    return tuple(map(str, engines))


def settings_of(args: Mapping[str, Any]) -> ServeSettings:
    """The `serve` section of params.yaml, where there is one, with `args` over it. Raises UserError."""
    params = read_params() if Path("params.yaml").is_file() else {}
    known = {one.name for one in fields(ServeSettings)}
    if unknown := sorted(set(args) - known):
        raise UserError(f"args: unknown key {unknown[0]!r} (choices: {', '.join(sorted(known))})")
    settings = build(ServeSettings, {**params.get("serve", {}), **args}, "args")
    if settings.adapter or settings.adapters_dir:
        raise UserError("args: a cluster serves no adapters; `python -m tradewind.serving` does")
    if settings.engine not in ENGINES:
        raise UserError(f"args.engine: unknown engine {settings.engine!r} (choices: {', '.join(ENGINES)})")
    return settings
