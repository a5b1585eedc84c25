"""Parameters: composed by Hydra from conf/ into params.yaml, read from there by the stages.

params.yaml is the one truth that DVC sees; nothing else reads YAML. Only `compose` imports Hydra.
"""

import dataclasses
import errno
import sys
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from tradewind.errors import UserError

T = typing.TypeVar("T")
PROFILES = ("nano", "cpu", "gpu", "tpu")


def stage_params(stage: str, path: str | Path = "params.yaml") -> dict[str, Any]:
    """The section of `stage`, with `profile` and `seed` beside its own keys."""
    params = read_params(path)
    if stage not in params:
        raise UserError(f"{path}: no section {stage!r} (sections: {', '.join(sorted(params))})")
    return {"profile": params["profile"], "seed": params["seed"], **params[stage]}


def student_params(
    stage: str, arguments: Sequence[str], path: str | Path = "params.yaml"
) -> tuple[str, dict[str, Any]]:
    """The name of the student on a stage's command line (`student` where there is none) and its part of the section."""
    params = stage_params(stage, path)
    context = {key: params.pop(key) for key in ("profile", "seed")}
    name = arguments[0] if arguments else "student"
    if name not in params:
        raise UserError(f"{path}: section {stage!r} has no student {name!r} (students: {', '.join(sorted(params))})")
    return name, context | params[name]


def read_params(path: str | Path = "params.yaml") -> dict[str, Any]:
    try:
        params = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path}: no such file (run `make repro`, which composes it from conf/)") from None
    except yaml.YAMLError as error:
        raise UserError(f"{path}: not valid YAML ({' '.join(str(error).split())})") from None
    if not isinstance(params, dict):
        raise UserError(f"{path}: holds no parameters")
    return params


def build(cls: type[T], mapping: Mapping[str, Any], where: str = "") -> T:
    """A dataclass (and the dataclasses inside it) from a mapping; unknown and missing keys are named."""
    fields = {field.name: field for field in dataclasses.fields(cls)}  # type: ignore[arg-type]
    name = where or cls.__name__
    if not isinstance(mapping, Mapping):
        raise UserError(f"{name}: {mapping!r} is no mapping of names to values")
    if unknown := sorted(set(mapping) - set(fields)):
        raise UserError(f"{name}: unknown key {unknown[0]!r} (choices: {', '.join(sorted(fields))})")
    required = [f.name for f in fields.values() if f.default is f.default_factory is dataclasses.MISSING]
    if missing := [key for key in required if key not in mapping]:
        raise UserError(f"{name}: key {missing[0]!r} is missing")
    hints = typing.get_type_hints(cls)
    return cls(**{key: _value(hints[key], value, f"{name}.{key}") for key, value in mapping.items()})


def _value(hint: Any, value: Any, where: str) -> Any:
    if dataclasses.is_dataclass(hint) and not isinstance(value, typing.cast(type, hint)):
        return build(typing.cast(type, hint), value, where)
    if typing.get_origin(hint) is tuple:
        if not isinstance(value, (list, tuple)):
            raise UserError(f"{where}: {value!r} is no list")
        return tuple(value)
    if hint is float and isinstance(value, (int, str)) and not isinstance(value, bool):
        return _float(value, where)  # YAML reads 1e-4 as text
    allowed = typing.get_args(hint) if typing.get_origin(hint) in (typing.Union, types.UnionType) else (hint,)
    plain = tuple(t for t in allowed if t in (int, str, bool, types.NoneType))
    if plain and len(plain) == len(allowed) and (not isinstance(value, plain) or (value is True and bool not in plain)):
        raise UserError(f"{where}: {value!r} is not of type {' or '.join(t.__name__ for t in plain)}")
    return value


def _float(value: int | str, where: str) -> float:
    try:
        return float(value)
    except ValueError:
        raise UserError(f"{where}: {value!r} is not a number") from None


def compose(profile: str, overrides: list[str] | None = None, folder: str | Path = "conf") -> dict[str, Any]:
    """All parameters of a profile, as Hydra composes them from `folder`."""
    import hydra
    from hydra.errors import HydraException
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    from tradewind.overrides import check

    def composed(chosen: list[str]) -> dict[str, Any]:
        config = hydra.compose("config", [f"profile={profile}", *chosen])
        return typing.cast(dict[str, Any], OmegaConf.to_container(config, resolve=True))

    check_profile(profile)
    try:
        with hydra.initialize_config_dir(str(Path(folder).resolve()), version_base="1.3"):
            if overrides:
                check(overrides, Path(folder), composed)
            return composed(overrides or [])
    except (HydraException, OmegaConfBaseException) as error:
        raise UserError(" ".join(str(error).split())) from None


def check_profile(profile: str) -> None:
    if profile not in PROFILES:
        raise UserError(f"unknown profile {profile!r} (choices: {', '.join(PROFILES)})")


def _refuse_options(arguments: Sequence[str], about: str) -> None:
    for argument in arguments:
        if argument in ("-h", "--help"):
            print(about.strip())
            raise SystemExit(0)
        if argument.startswith("-"):
            raise UserError(f"unknown option {argument} (its parameters are in params.yaml; --help tells what it does)")


def run(main: Callable[[], None]) -> None:
    """Run an entry point: a UserError or a full disk becomes one line on standard error and exit code 2.

    An entry point without `argparse` (a stage, a step of a study) takes no options: `--help` prints its docstring.
    """
    try:
        if main.__module__ == "__main__" and "argparse" not in main.__globals__:
            _refuse_options(sys.argv[1:], main.__globals__["__doc__"])
        main()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        print("error: no space is left on the disk: free some and run again", file=sys.stderr)
        raise SystemExit(2) from None
    except KeyboardInterrupt:
        raise SystemExit(130) from None
