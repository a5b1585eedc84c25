"""The notebooks: executed in place, and their committed figures held against reports/.

    python -m tradewind.notebooks [NAME ...] [--profile cpu] [--check]

Executing starts a kernel in the repository's root, with the reports and variants of the profile. Checking executes
nothing: every output of a cell tagged `measured:<section>` or `measured:<picture.png>` must be what the reports give
now, and a picture tagged `drawn:<picture.png>` must name the data that they hold.
"""

import argparse
import base64
import os
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError
from nbformat import NotebookNode

from tradewind.config import PROFILES, run
from tradewind.errors import UserError
from tradewind.report import serving, serving_pictures
from tradewind.report.readme import Reports
from tradewind.report.show import picture_bytes, section_text

FOLDER = Path("notebooks")
TAG, DRAWN = "measured:", "drawn:"
TIMEOUT_S = 600


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m tradewind.notebooks", description="Execute the notebooks in place."
    )
    parser.add_argument("names", nargs="*", help="file names without .ipynb (default: all)")
    parser.add_argument("--profile", default="cpu", choices=PROFILES, help="whose reports and variants")
    parser.add_argument("--check", action="store_true", help="only compare committed outputs with reports/")
    options = parser.parse_args()
    paths, places = chosen(options.names), environment(options.profile)
    if options.check:
        wrong = [
            line for path in paths for line in differences(read(path), Path(places["TRADEWIND_REPORTS"]), path.name)
        ]
        print("\n".join(wrong) or f"{len(paths)} notebooks say what the reports say")
        sys.exit(1 if wrong else 0)
    for path in paths:
        print(f"executing {path}", flush=True)
        write(path, execute(read(path), places, Path.cwd()))


def chosen(names: list[str], folder: Path = FOLDER) -> list[Path]:
    """Paths of the named notebooks, or of all. Raises UserError with the choices."""
    known = {path.stem: path for path in sorted(folder.glob("*.ipynb"))}
    if unknown := [name for name in names if name not in known]:
        raise UserError(f"no notebook {unknown[0]!r} (choices: {', '.join(known) or 'none'})")
    return [known[name] for name in names or known]


def environment(profile: str) -> dict[str, str]:
    """Where the profile's results lie; a profile other than `cpu` runs in a working copy of its own."""
    root = Path() if profile == "cpu" else Path(".tradewind") / "runs" / profile
    return {"TRADEWIND_REPORTS": str(root / "reports"), "TRADEWIND_VARIANTS": str(root / "artifacts" / "variants")}


def read(path: Path) -> NotebookNode:
    return nbformat.read(path, as_version=4)


def write(path: Path, notebook: NotebookNode) -> None:
    nbformat.validate(notebook)
    nbformat.write(notebook, path)


def execute(notebook: NotebookNode, variables: Mapping[str, str], root: Path) -> NotebookNode:
    """Run every cell in a fresh kernel whose working folder is `root`; outputs replace those there were. A cell that
    fails gives a UserError with its source's first line and the error."""
    client = NotebookClient(
        notebook,
        timeout=TIMEOUT_S,
        kernel_name="python3",
        record_timing=False,
        resources={"metadata": {"path": str(root)}},
    )
    try:
        client.execute(env=os.environ | dict(variables))
    except CellExecutionError as error:
        first = next((cell.source.splitlines()[0] for cell in notebook.cells if _failed(cell)), "?")
        raise UserError(f"the cell {first!r} failed: {error.ename}: {error.evalue}") from error
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)
    notebook.metadata.get("language_info", {}).pop("version", None)
    return notebook


def _failed(cell: NotebookNode) -> bool:
    return any(output.output_type == "error" for output in cell.get("outputs", []))


def differences(notebook: NotebookNode, reports: Path, name: str = "notebook") -> Iterator[str]:
    """One line for each measured cell whose output is not what the reports give."""
    for number, cell in enumerate(notebook.cells):
        for tag in cell.metadata.get("tags", []):
            if tag.startswith(TAG) and _shown(cell) != _wanted(tag.removeprefix(TAG), reports):
                yield f"{name}: cell {number} ({tag}) differs from {reports} (run `make notebooks`)"
            if tag.startswith(DRAWN) and not _current(cell, tag.removeprefix(DRAWN), Reports(reports)):
                yield f"{name}: cell {number} ({tag}) shows other data than {reports} (run `make notebooks`)"


def _wanted(what: str, reports: Path) -> str:
    if what.startswith("studies/"):
        path = reports / f"{what}.png"
        return base64.b64encode(path.read_bytes()).decode() if path.is_file() else serving.missing(what)
    if what.endswith(".png"):
        return base64.b64encode(picture_bytes(what, reports)).decode()
    return section_text(what, reports)


def _current(cell: NotebookNode, picture: str, reports: Reports) -> bool:
    """Whether a drawing, or the line in its place, is of what the reports hold."""
    report = serving_pictures.PICTURES[picture][0]
    data, shown = serving.found(reports, report), _shown(cell) or ""
    if data is None or shown == serving.missing(report):
        return data is None and shown == serving.missing(report)
    return serving_pictures.drawn_from(base64.b64decode(shown)) == serving_pictures.digest(data) if shown else False


def _shown(cell: NotebookNode) -> str | None:
    """The Markdown or the picture (base64 without line ends) that the cell's one output holds."""
    data: Mapping[str, Any] = cell.outputs[0].get("data", {}) if len(cell.outputs) == 1 else {}
    if "image/png" in data:
        return "".join(str(data["image/png"]).split())
    return data.get("text/markdown")


if __name__ == "__main__":
    run(main)
