"""The frontier on results that are made up: drift falls out, bounds are kept, sections say what the reports hold."""

from pathlib import Path

import pytest
from matplotlib.text import Annotation, Text

from studies.compression import frontier
from studies.compression.frontier_picture import figure_of, named
from studies.compression.places import VARIANTS, plan
from tradewind.files import read_json, write_json, write_jsonl, write_text
from tradewind.report.compression import SECTIONS
from tradewind.report.readme import Reports

REPORTS = Path("reports/studies/compression")
NAMES = {"teacher-fp32": (0.8, None, 100e6), "student-fp32": (0.6, None, 40e6), "student-int4": (0.55, 0.3, 8e6),
         "student-int4-qat": (0.59, 0.05, 8e6), "vocabulary-fp32": (0.7, None, 90e6),
         "depth-fp32": (0.5, None, 70e6)}  # fmt: skip
"""Variant -> answer F1, KL to its parent, bytes."""


def results(name: str, drift: float) -> None:
    """Of one variant; `drift`: how much faster the machine was when it was measured."""
    model, _, recipe = name.partition("-")
    f1, kl, size = NAMES[name]
    parent = None if recipe == "fp32" else f"{model}-fp32"
    manifest = {"model": model, "precision": recipe.partition("-")[0], "parent": parent, "parameters": 1000}
    manifest |= {"rules": {} if parent is None else {"method": "qat" if "qat" in recipe else "rtn"}}
    manifest |= {"digests": {"model.onnx": {"sha256": f"{model} {manifest['precision']}"}}}
    write_json(VARIANTS / name / "manifest.json", manifest | {"files": {"ort": ["model.onnx"]}})
    write_text(VARIANTS / name / "model.onnx", "x" * int(size / 1e6))
    metrics = {"answer_f1": f1, "bits_per_byte": 0.1, "perplexity": 1.1, "kl_to_parent": kl}
    metrics |= {"top1_agreement": None if kl is None else 0.9}
    intervals = {"answer_f1": [f1 - 0.05, f1 + 0.05]} | (
        {} if kl is None else {"kl_to_parent": [kl, kl], "top1_agreement": [0.9, 0.9]}
    )
    evaluated = {"metrics": metrics, "intervals": intervals, "formulas": {"answer_f1": "tokens shared"}}
    evaluated["run_id"] = f"evaluate-{name}-20261128T000000-e0"
    write_json(REPORTS / "evaluate" / f"{name}.json", {name: evaluated})
    rows = [{"label": name, "id": f"q{i}", "kind": "k", "answerable": True, "f1": f1} for i in range(20)]
    write_jsonl(REPORTS / "evaluate" / f"{name}.questions.jsonl", rows)
    rates = dict.fromkeys(frontier.RATES, 100.0 * drift) | dict.fromkeys(frontier.TIMES, 10.0 / drift)
    own = {key: value * (2.0 if key in frontier.RATES else 1.0) for key, value in rates.items()}
    rounds = {key: [wide * own[key] / rates[key] for wide in (0.9, 1.0, 1.1)] for key in rates}
    speed = {"run_id": f"benchmark-{name}-20261128T000000-b0", "formulas": dict.fromkeys(own, "per s"),
             "metrics": own | {"load_s": 1.0, "peak_rss_bytes": 1e8},
             "anchor": {"variant": "a", "metrics": rates, "rounds": rounds}}  # fmt: skip
    write_json(REPORTS / "benchmark" / f"{name}.json", {name: speed})


@pytest.fixture
def measured(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(frontier, "planned", lambda: list(NAMES))
    for place, name in enumerate(NAMES):
        results(name, drift=1.0 + 0.1 * place)
    return frontier.variants(seed=0)


def test_figures_name_the_runs_that_they_come_from(measured):
    alike = [f"benchmark-{name}-20261128T000000-b0" for name in measured["student-int4"]["timed_with"]]
    assert len(alike) == 2 and measured["student-int4"]["measured_in"] == alike
    assert measured["student-int4"]["evaluated_in"] == "evaluate-student-int4-20261128T000000-e0"


def test_the_machines_drift_falls_out(measured):
    rates = {row["decode_tokens_per_s"] for row in measured.values()}
    assert max(rates) == pytest.approx(min(rates))
    assert max(rates) == pytest.approx(2 * 125.0)  # twice the anchor's median over the stages


def test_variants_with_one_graph_have_one_speed_over_all_their_rounds():
    keys = (*frontier.RATES, *frontier.TIMES)
    ratios = {"a": [1.0, 1.2, 1.4], "b": [2.0, 2.2, 2.4], "c": [5.0, 5.0, 5.0]}
    measured = {
        name: {
            "anchor": {"metrics": dict.fromkeys(keys, 10.0), "rounds": dict.fromkeys(keys, own)},
            "metrics": {"peak_rss_bytes": 100 * own[0], "load_s": own[0]},
            "run_id": name,
        }
        for name, own in ratios.items()
    }
    rates = frontier.pooled({"a": "one", "b": "one", "c": "another"}, measured, seed=0)
    assert rates["a"] == rates["b"] and rates["a"]["timed_with"] == ["a", "b"]
    assert rates["a"]["ttft_ms"] == pytest.approx(17.0) and rates["c"]["ttft_ms"] == pytest.approx(50.0)
    low, high = rates["a"]["ttft_ms_ci"]
    assert low <= 12.0 and high >= 22.0  # the processes differ more than their rounds: either may be drawn twice
    assert (rates["a"]["peak_rss_bytes"], rates["a"]["load_s"]) == (200.0, 1.5)


def test_a_variant_outside_its_bounds_is_not_recommended_and_says_why(measured):
    assert measured["student-int4-qat"]["recommended"]
    assert not measured["student-int4"]["recommended"]
    assert measured["student-fp32"]["recommended"] is None
    assert measured["student-int4"]["faults"] == ["KL 0.3000 (at most 0.1)", "F1 5.0 points lower (at most 3)"]
    assert (measured["student-int4-qat"]["method"], measured["student-int4"]["method"]) == ("qat", "rtn")


def test_the_study_writes_its_report_picture_and_runs(measured, monkeypatch):
    monkeypatch.setattr(frontier, "stage_params", lambda _: {"seed": 0})
    frontier.main()
    reports = Reports("reports")
    assert set(reports["compression"]["runs"]) == set(NAMES)
    assert reports["compression"]["fronts"]["disk_bytes"]["variants"] == [
        "student-int4-qat",
        "student-fp32",
        "vocabulary-fp32",
        "teacher-fp32",
    ]
    assert (REPORTS / "frontier.png").read_bytes().startswith(b"\x89PNG")
    assert "student-int4-qat ▪" in SECTIONS["compression_frontier"](reports)
    assert "| student-int4-qat: at least 50 % of rounding's KL recovered | 83 %" in SECTIONS["compression_goals"](
        reports
    )
    assert "make study NAME=compression" in SECTIONS["compression_edge"](reports)
    assert reports["compression"]["cuts"]["depth-fp32"]["value"] == pytest.approx(-0.2)
    assert "| depth | 0.0 | 100 | 62 [62, 62] | -20.0 [-20.0, -20.0] | - |" in SECTIONS["compression_models"](reports)
    recorded = read_json(f"reports/runs/compression-variant-{next(iter(NAMES))}.json")["measurements"]
    assert all(one["formula"] and one["seed"] == 0 for one in recorded)


def test_a_front_says_which_steps_are_more_than_chance_and_which_knee_keeps_the_bounds():
    f1 = {"tiny-int4": 0.2, "tiny-int8": 0.6, "student-int8": 0.7, "teacher-fp32": 0.72}
    rows = {name: {"answer_f1": value, "recommended": name != "tiny-int8", "bytes": 2.0**place}
            for place, (name, value) in enumerate(f1.items())}  # fmt: skip
    noise = [0.3 * (-1) ** n for n in range(20)]
    answers = {name: [{"id": f"q{n}", "kind": "k", "answerable": True, "f1": value + (by if name == "student-int8" else 0)}
                      for n, by in enumerate(noise)] for name, value in f1.items()}  # fmt: skip
    found = frontier.front_of(rows, "bytes", False, answers, seed=0)
    assert (found["knee"], found["knee_within"]) == ("tiny-int8", "student-int8")
    assert {name: step["interval"][0] > 0 for name, step in found["steps"].items()} == {
        "tiny-int8": True, "student-int8": False, "teacher-fp32": False,
    }  # fmt: skip
    assert found["steps"]["teacher-fp32"]["than"] == "student-int8"
    turned = {name: row | {"bytes": 1 / row["bytes"]} for name, row in rows.items()}  # now more is cheaper
    assert frontier.front_of(turned, "bytes", True, answers, seed=0)["steps"] == found["steps"]


@pytest.fixture(scope="module")
def crowded():
    """As many variants as the study has, in clusters, all on one front or another."""
    methods = ("fp32", "int8", "w8a8", "mixed", "mixed-qat", "int4", "int4-gptq", "int4-qat")
    rows, answers = {}, {}
    for place, model in enumerate(("teacher", "student", "tiny", "vocabulary")):
        for number, recipe in enumerate(methods):
            f1, size = (
                0.83 - 0.15 * place - 0.012 * number,
                5e8 / 2.5**place / (1 if recipe == "fp32" else 4 + number / 9),
            )
            name, by = f"{model}-{recipe}", 0.05 * (-1) ** number  # so that methods differ by chance, models do not
            rows[name] = {
                "model": model, "precision": recipe.partition("-")[0], "recommended": number % 3 != 2, "answer_f1": f1,
                "answer_f1_ci": [f1 - 0.05, f1 + 0.05], "disk_bytes": size, "peak_rss_bytes": size + 1e8,
                "decode_tokens_per_s": 2e10 / size,
            }  # fmt: skip
            answers[name] = [
                {"id": f"q{n}", "kind": "k", "answerable": True, "f1": f1 + by * (-1) ** n} for n in range(20)
            ]
    fronts = {cost: frontier.front_of(rows, cost, more, answers, 0) for cost, more in frontier.COSTS.items()}
    return rows, fronts


def test_the_pictures_labels_stand_in_the_frame_and_clear_of_each_other(crowded):
    figure = figure_of(*crowded, "host")
    assert len(figure.axes) == len(frontier.COSTS) + 1  # and the legend
    for axes, cost in zip(figure.axes, ("disk_bytes", "decode_tokens_per_s", "peak_rss_bytes"), strict=False):
        names = [text for text in axes.texts if isinstance(text, Annotation)]
        assert {text.get_text() for text in names} == set(named(crowded[1][cost]))
        boxes = [Text.get_window_extent(text) for text in names]
        assert all(axes.bbox.contains(*corner) for box in boxes for corner in box.corners())
        assert not any(a.overlaps(b) for place, a in enumerate(boxes) for b in boxes[:place])


def test_what_is_named_are_ends_knees_and_certain_steps():
    steps = {"b": {"interval": [0.1, 0.2]}, "c": {"interval": [-0.1, 0.2]}, "d": {"interval": [-0.1, 0.2]}}
    edge = {"variants": ["a", "b", "c", "d"], "knee": "b", "knee_within": None, "steps": steps}
    assert named(edge) == ["a", "b", "d"]


def test_every_part_of_the_plan_is_read():
    folder = Path(frontier.__file__).parent
    code = "".join(path.read_text() for path in folder.glob("*.py"))
    stages = folder.joinpath("dvc.yaml").read_text()
    assert [name for name in plan() if f'plan()["{name}"]' not in code and f"${{{name}." not in stages] == []
