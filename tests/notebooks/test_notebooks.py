"""Notebooks execute on a nano run, and what they show is what the reports say."""

import base64

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_notebook, new_output

from tests.support import ROOT
from tradewind.errors import UserError
from tradewind.files import read_json, write_json
from tradewind.notebooks import DRAWN, TAG, chosen, differences, execute, read
from tradewind.report import serving_pictures
from tradewind.report.build import build_report
from tradewind.report.gate import GateRules
from tradewind.report.readme import Reports
from tradewind.report.show import SECTIONS, section_text

NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
RULES = GateRules(max_kl=0.01, max_f1_loss=0.01, within_best=0.02, beat_baselines=True)


def variables(reports, variants=None, engine="ort") -> dict[str, str]:
    paths = {
        "TRADEWIND_REPORTS": str(reports),
        "TRADEWIND_VARIANTS": str(variants or reports),
        "TRADEWIND_ENGINE": engine,
    }
    return paths | {"PYTHONPATH": str(ROOT / "src")}


@pytest.fixture
def reports(folders):
    build_report(RULES, "nano", 0, folders)
    return folders.reports


def shown(tag: str, **data: str) -> nbformat.NotebookNode:
    cell = new_code_cell("section(...)", metadata={"tags": [TAG + tag]})
    cell.outputs = [new_output("display_data", data={key.replace("_", "/"): value for key, value in data.items()})]
    return new_notebook(cells=[cell])


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_it_executes_on_nano_and_agrees_with_its_reports(path, nano_run):
    places = variables(nano_run / "reports", nano_run / "artifacts" / "variants")
    done = execute(read(path), places, ROOT)
    assert list(differences(done, nano_run / "reports")) == []
    assert any(tag.startswith(TAG) for cell in done.cells for tag in cell.metadata.get("tags", []))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_the_committed_one_says_what_the_reports_say(path):
    if (ROOT / "reports" / "summary.json").exists():
        assert list(differences(read(path), ROOT / "reports", path.name)) == [], "run `make notebooks`"
    else:
        assert not any(cell.get("outputs") for cell in read(path).cells), "figures without a run behind them"


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_cells_hold_no_logic(path):
    for cell in read(path).cells:
        if cell.cell_type == "code":
            for word in ("def ", "for ", "if ", "class ", "while ", "lambda"):
                assert word not in cell.source


@pytest.mark.parametrize("name", SECTIONS)
def test_a_section_that_differs_is_found(name, reports):
    text = section_text(name, reports)
    assert "teacher-int8" in text or "Not measured yet" in text or "as claimed" in text  # devices: of no report
    assert list(differences(shown(name, text_markdown=text), reports)) == []
    assert len(list(differences(shown(name, text_markdown=text + "1"), reports))) == 1
    assert (
        len(list(differences(new_notebook(cells=[new_code_cell("", metadata={"tags": [TAG + name]})]), reports))) == 1
    )


def test_a_picture_that_differs_is_found(reports):
    drawn = (reports / "plots" / "quality_bytes.png").read_bytes()
    same, other = base64.encodebytes(drawn).decode(), base64.encodebytes(drawn[:-1]).decode()
    assert list(differences(shown("quality_bytes.png", image_png=same), reports)) == []
    assert len(list(differences(shown("quality_bytes.png", image_png=other), reports))) == 1


def drawn(data: bytes) -> nbformat.NotebookNode:
    notebook = shown("overload.png", image_png=base64.encodebytes(data).decode())
    notebook.cells[0].metadata["tags"] = [f"{DRAWN}overload.png"]
    return notebook


def test_a_drawing_of_other_data_is_found(reports):
    source = read_json(ROOT / "reports" / "benchmarks" / "overload.json")
    write_json(reports / "benchmarks" / "overload.json", source)
    picture = serving_pictures.draw("overload.png", Reports(reports))
    assert picture is not None
    assert list(differences(drawn(picture), reports)) == []
    write_json(reports / "benchmarks" / "overload.json", source | {"capacity_per_s": 1.0})
    assert len(list(differences(drawn(picture), reports))) == 1
    (reports / "benchmarks" / "overload.json").unlink()
    assert len(list(differences(drawn(picture), reports))) == 1


def test_a_failing_cell_is_one_line(tmp_path):
    cells = [new_code_cell("fine = 1"), new_code_cell("broken = fine / 0\nprint(broken)")]
    with pytest.raises(UserError, match=r"'broken = fine / 0' failed: ZeroDivisionError"):
        execute(new_notebook(cells=cells), {}, tmp_path)


def test_an_unknown_notebook_gives_the_choices():
    with pytest.raises(UserError, match="03_compression"):
        chosen(["99_none"], ROOT / "notebooks")
