"""Notebook 3's sections on reports that are made up."""

import pytest

from tradewind.report import compression
from tradewind.report.compression_models import verdict
from tradewind.report.markdown import source_of_variants


def trained(strategy: str, basis: list[float], untrained: list[float]) -> dict:
    return {"strategy": strategy, "kl_beyond_basis_ci": basis, "kl_beyond_untrained_ci": untrained}


def test_the_verdict_names_only_what_the_intervals_decide():
    rows = [trained("none", [0.01, 0.03], [0.0, 0.0]), trained("kl", [0.0, 0.0], [-0.03, -0.01]),
            trained("a", [-0.03, -0.01], [-0.05, -0.02]), trained("b", [-0.01, 0.02], [-0.02, 0.01]),
            trained("c", [0.04, 0.05], [0.01, 0.02])]  # fmt: skip
    assert verdict({"basis": "kl", "rows": rows}) == (
        "On this text, nearer to the teacher than `kl`: a; further: c; not told from it: 1 of 3; "
        "nearer to the teacher than the untrained model: kl, a; further: c; not told from it: 1 of 4 (paired by row)."
    )


@pytest.mark.parametrize(("kl", "shown"), [(-1.5e-9, "<1e-08"), (6e-10, "<1e-08"), (0.00012, "0.00012")])
def test_a_kl_that_is_rounding_is_shown_as_such(kl, shown):
    agreement = {"max": 0.1, "mean": 0.01, "top1": 1.0, "kl": kl, "same_answers": 1.0}
    one = {"variant": "v", "prompts": 1, "positions": 2, "integers": {"ort": 0}, "runtimes": {"litert": agreement}}
    assert f"| 100.0 | {shown} | 100 % |" in compression.runtimes({"runtimes": {"variants": [one], "device": "d"}})


def test_runs_of_variants_are_told_by_what_their_ids_share():
    runs = {"a-int8": "frontier-a-int8-20261129T010430-eb29", "b-fp32": "frontier-b-fp32-20261129T010522-de02"}
    rows = {"a-int8": {"evaluated_in": "evaluate-a-int8-20261128T230000-aa11", "measured_in": ["x-20261129T000000-0"]},
            "b-fp32": {"evaluated_in": "evaluate-b-fp32-20261129T000000-bb22", "measured_in": []}}  # fmt: skip
    data = {"device": "host", "git_commit": "abc", "seed": 3, "runs": runs, "variants": rows}
    assert source_of_variants(data) == (
        "\nhost; evaluated and measured 2026-11-28 to 2026-11-29, seed 3; put together at commit abc; runs "
        "`frontier-VARIANT-20261129T010...` name their sources.\n"
    )


def test_a_front_is_shown_from_its_cheapest_with_its_certain_steps():
    f1 = {"x": 0.2, "y": 0.5, "z": 0.6}
    steps = {"y": {"interval": [0.1, 0.2]}, "z": {"interval": [-0.1, 0.2]}}
    edge = {"variants": ["z", "y", "x"], "knee": "y", "knee_within": None, "steps": steps}
    data = {"variants": {name: {"answer_f1": value} for name, value in f1.items()}}
    shown = compression._fronts(data | {"fronts": dict.fromkeys(compression.SIGNS, edge)})
    assert "| ▸ decode speed | x **<** y, z | y | none |" in shown
    assert compression.SURE in shown
    bare = {key: edge[key] for key in ("variants", "knee")}  # a report of a study that did not compare neighbours
    shown = compression._fronts(data | {"fronts": dict.fromkeys(compression.SIGNS, bare)})
    assert "x, y, z | y | - |" in shown
    assert compression.SURE not in shown
