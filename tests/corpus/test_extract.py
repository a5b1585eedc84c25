"""Extraction from a package written for the purpose: what is public, under which name, with which sections."""

import subprocess
import sys

import pytest

from tradewind.corpus.extract import PackageChoice, extract
from tradewind.corpus.records import Record
from tradewind.errors import UserError

from .conftest import CORE


def test_only_what_is_public_is_found(shapes):
    public = {"shapes", "shapes.Shape", "shapes.Shape.corners", "shapes.Shape.square", "shapes.area", "shapes.huge"}
    assert set(shapes) == public | {"shapes.other", "shapes.other.flip"}


def test_other_public_paths_are_aliases(shapes):
    assert shapes["shapes.area"].aliases == ["shapes.surface"]
    assert shapes["shapes.area"].file == "shapes/_core.py"
    assert shapes["shapes.area"].line == 1 + CORE[: CORE.index("def area")].count("\n")
    assert shapes["shapes.area"].version == "1.2"


def test_numpy_style_and_signature(shapes):
    shape = shapes["shapes.Shape"]
    sides, colour = shape.sections.parameters
    assert shape.signature == "(sides=3, colour='red')"
    assert (sides.name, sides.type, sides.default) == ("sides", "int", "3")
    assert colour.text == "The colour to paint it in, see Shape.paint."
    assert colour.default == "'red'"


def test_google_style(shapes):
    sections = shapes["shapes.Shape.square"].sections
    assert [(p.name, p.type, p.default) for p in sections.parameters] == [("size", "float", "1.0")]
    assert sections.returns[0].text == "The square that was made."
    assert (sections.raises[0].type, sections.raises[0].text) == ("ValueError", "If the size is negative.")


def test_sphinx_style_and_examples(shapes):
    area = shapes["shapes.area"]
    assert area.sections.summary == "Compute the area of a shape."
    assert area.sections.description == "The area is computed from its outline."
    assert [p.name for p in area.sections.parameters] == ["shape", "unit"]
    assert area.sections.parameters[1].default == "'m2'"
    assert area.sections.raises[0].type == "TypeError"
    assert area.sections.examples[1].source == "shapes.area(shapes.Shape(4))"
    assert area.sections.examples[1].want == "1.0"
    assert area.signature == "(shape, *, unit='m2', digits=2)"


def test_kinds(shapes):
    kinds = {name: record.kind for name, record in shapes.items()}
    assert kinds["shapes"] == "module"
    assert kinds["shapes.Shape"] == "class"
    assert kinds["shapes.Shape.corners"] == "property"
    assert kinds["shapes.Shape.square"] == "method"


def test_a_huge_docstring_is_bounded(shapes):
    assert len(shapes["shapes.huge"].sections.description) <= 2000


def test_a_single_file_is_a_package(site):
    found = {record.id: record for record in extract([PackageChoice("single", str(site))], processes=1)}
    assert found["single.alone"].sections.returns[0].type == "str"


def test_excluded_modules_are_hidden(site):
    choice = PackageChoice("shapes", str(site), exclude=("shapes.other",))
    found = {record.id for record in extract([choice], processes=1)}
    assert "shapes.other.flip" not in found
    assert "shapes.area" in found


def test_number_of_processes_does_not_matter(site):
    choices = [PackageChoice("shapes", str(site)), PackageChoice("single", str(site))]
    one, two = extract(choices, processes=1), extract(choices, processes=2)
    assert [r.to_json() for r in one] == [r.to_json() for r in two]


def test_json_round_trip(shapes):
    for record in shapes.values():
        assert Record.from_json(record.to_json()) == record


def test_compiled_functions_are_introspected(tmp_path):
    """A public name bound to a C function has a docstring only at run time."""
    package = tmp_path / "wrapped"
    package.mkdir()
    (package / "__init__.py").write_text(
        "from wrapped import _impl\nfrom math import hypot as distance\n__all__ = ['distance']\n"
    )
    (package / "_impl.py").write_text("")
    (package / "_speed.so").write_bytes(b"")  # a compiled module, so that sources are known to hide something
    found = _extract_with_path(tmp_path)
    assert found["wrapped.distance"].sections.summary.startswith("Multidimensional Euclidean distance")
    assert found["wrapped.distance"].kind == "function"


def _extract_with_path(folder):
    venv = folder / "venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(venv)], check=True)
    site = next(venv.glob("lib/python*/site-packages"))
    (site / "here.pth").write_text(f"{folder}\n")
    return {r.id: r for r in extract([PackageChoice("wrapped", str(venv / "bin" / "python"))], processes=1)}


@pytest.mark.parametrize(
    ("package", "python", "named"),
    [
        ("shapes", "/nowhere/bin/python", "/nowhere/bin/python"),
        ("no_such_package", "", "no_such_package"),
    ],
)
def test_what_is_missing_is_named(package, python, named):
    with pytest.raises(UserError, match=named) as caught:
        extract([PackageChoice(package, python)], processes=1)
    assert "\n" not in str(caught.value)


def test_a_timeout_is_named(tmp_path):
    slow = tmp_path / "slow"
    slow.write_text("#!/bin/sh\nexec sleep 30\n")
    slow.chmod(0o755)
    with pytest.raises(UserError, match=r"slow.*0\.2 s"):
        extract([PackageChoice("shapes", str(slow))], timeout=0.2, processes=1)
