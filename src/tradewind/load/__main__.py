"""Run a load test: `python -m tradewind.load steady [--url URL] [--model NAME --engine ort]`.

Without a URL a server is started on a free port and stopped again. Settings come from the `loadtest` section of
params.yaml, where there is one, and the command line; the result goes to reports/load/, the run's record to
reports/runs/.
"""

import argparse
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from tradewind.config import build, read_params, run
from tradewind.load.caching import NAME as CACHING
from tradewind.load.caching import RATE, CachingSettings
from tradewind.load.report import report
from tradewind.load.scenario import LoadSettings, run_scenario
from tradewind.serving.__main__ import run_folder

NO_OPTIONS = ("scenario", "caching")


def main() -> None:
    given = arguments()
    folder = run_folder(given.profile)
    params = read_params(folder / "params.yaml") if (folder / "params.yaml").is_file() else {}
    settings = build(LoadSettings, params.get("loadtest", {}), "loadtest")
    settings = replace(settings, caching=replace(settings.caching, **_chosen(given, CachingSettings)))
    settings = replace(settings, **_chosen(given, LoadSettings))
    if settings.scenario == CACHING and given.rate is None:
        settings = replace(settings, rate=RATE)
    seed = int(params.get("seed", 0)) if given.seed is None else given.seed
    profile = ("--profile", given.profile) if given.profile else ()
    outcome = run_scenario(settings, seed, given.url, profile)
    out = given.out or folder / "reports" / "load" / f"{settings.scenario}.json"
    report(outcome, "load", out, folder / "reports" / "runs" / f"load-{settings.scenario}.json", given.url)
    print(out)


def _chosen(given: argparse.Namespace, kind: type[LoadSettings] | type[CachingSettings]) -> dict[str, Any]:
    """Options of the command line that are fields of it."""
    names = {field.name for field in fields(kind)}
    return {name: value for name, value in vars(given).items() if name in names and value is not None}


def arguments(argv: list[str] | None = None) -> argparse.Namespace:
    """Options left out are None."""
    parser = argparse.ArgumentParser(prog="python -m tradewind.load", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("scenario", nargs="?", default="", help="a file of loadtests/, without .py")
    for field in (*fields(LoadSettings), *fields(CachingSettings)):
        if field.name not in NO_OPTIONS:
            parser.add_argument(f"--{field.name.replace('_', '-')}", type=type(field.default), help=f"{field.default}")
    parser.add_argument("--url", help="a server that runs already")
    parser.add_argument("--profile", help="whose parameters and variants")
    parser.add_argument("--seed", type=int)
    parser.add_argument("--out", type=Path, help="where the result goes")
    return parser.parse_args(argv)


if __name__ == "__main__":
    run(main)
