"""Introspection rows, as the script gives them for modules of the standard library."""

import functools
import json
import math
import subprocess
import sys
import types

import pytest

from tradewind.corpus import introspect


@functools.cache
def rows(package: str, *modules: str) -> dict[str, dict]:
    command = [sys.executable, introspect.__file__, package]
    done = subprocess.run(command, input="\n".join(modules), capture_output=True, text=True, check=True)
    return {row["path"]: row for row in map(json.loads, done.stdout.splitlines())}


def test_c_functions_have_docstring_and_signature():
    row = rows("math", "math")["math.hypot"]
    assert row["doc"] == introspect.inspect.cleandoc(math.hypot.__doc__)
    assert rows("math", "math")["math.gcd"]["signature"] == "(*integers)"
    assert row["kind"] == "function"


def test_constants_are_left_out():
    assert "math.pi" not in rows("math", "math")


def test_classes_bring_their_documented_members():
    found = rows("pathlib", "pathlib")
    assert found["pathlib.PurePath"]["kind"] == "class"
    assert found["pathlib.PurePath.with_suffix"]["kind"] == "method"
    assert found["pathlib.PurePath.suffix"]["kind"] == "property"


def test_a_module_that_fails_to_import_is_left_out():
    assert "math.gcd" in rows("math", "no.such.module", "math")


def test_what_a_module_prints_stays_out_of_the_rows():
    assert rows("this", "this") == {}  # importing it prints a poem


def test_only_the_standard_library_is_imported():
    command = [sys.executable, "-S", "-I", introspect.__file__, "math"]
    subprocess.run(command, input="math", capture_output=True, text=True, check=True)


@pytest.mark.parametrize("declared", [True, False])
def test_a_name_imported_from_elsewhere_is_not_the_modules_own(declared):
    module = types.ModuleType("mine")
    assert not introspect.belongs("mine", module, functools.reduce.__class__ if declared else json.dumps, declared)


def test_docstrings_drawn_at_import_are_the_same_in_every_run():
    rows.cache_clear()
    first = rows("scipy", "scipy.stats")["scipy.stats.Normal"]["doc"]
    rows.cache_clear()
    assert rows("scipy", "scipy.stats")["scipy.stats.Normal"]["doc"] == first
    assert ">>> X.sample(" in first  # what it prints below is drawn when the module is imported
