import pytest

from tradewind import tracking
from tradewind.errors import UserError
from tradewind.files import read_json, write_json
from tradewind.report.build import build_report, publish
from tradewind.report.gate import GateRules

RULES = GateRules(max_kl=0.01, max_f1_loss=0.01, within_best=0.02, beat_baselines=True)
KEYS = {
    "parameters", "bytes", "answer_f1", "answer_f1_ci", "bits_per_byte", "kl_to_parent", "top1_agreement",
    "prefill_tokens_per_s", "decode_tokens_per_s", "ttft_ms", "peak_rss_bytes", "run_id",
}  # fmt: skip


@pytest.fixture
def built(folders):
    return build_report(RULES, "nano", 0, folders)


def test_summary_has_the_promised_shape(built, folders):
    summary = read_json(folders.reports / "summary.json")
    assert set(summary) == {"profile", "device", "git_commit", "variants"}
    assert list(summary["variants"]) == ["base-fp32", "teacher-fp32", "teacher-int8"]
    for row in summary["variants"].values():
        assert set(row) == KEYS
    assert summary["variants"]["teacher-fp32"]["kl_to_parent"] is None
    assert summary["variants"]["teacher-int8"]["kl_to_parent"] == 0.006
    low, high = summary["variants"]["teacher-fp32"]["answer_f1_ci"]
    assert low <= summary["variants"]["teacher-fp32"]["answer_f1"] <= high


def test_each_row_has_a_run_with_the_same_values(built, folders):
    for name, row in read_json(folders.reports / "summary.json")["variants"].items():
        record = read_json(folders.reports / "runs" / f"report-{name}.json")
        assert record["run_id"] == row["run_id"]
        measured = {m["name"]: m for m in record["measurements"]}
        for key in KEYS - {"answer_f1_ci", "run_id"}:
            assert measured[key]["value"] == row[key]
            assert measured[key]["formula"]


def test_comparisons_are_paired_and_name_both_sides(built, folders):
    compared = read_json(folders.reports / "comparisons.json")["f1_differences"]
    assert set(compared) == {
        "teacher-int8 - teacher-fp32", "teacher-fp32 - base-fp32", "teacher-fp32 - first-sentence",
    }  # fmt: skip
    assert compared["teacher-int8 - teacher-fp32"]["value"] == 0
    assert compared["teacher-fp32 - first-sentence"]["n"] == 10


def test_gate_card_table_and_plots_are_written(built, folders):
    assert built.decision.champion == "teacher-int8"
    assert read_json(folders.reports / "gate.json")["champion"] == "teacher-int8"
    card = (folders.reports / "model_card.md").read_text(encoding="utf-8")
    for wanted in ("Q4_1", "Apache-2.0", "numpy | 2.4.6 | BSD", "refusal recall", "**teacher-int8**", "0.0060"):
        assert wanted in card
    assert "first-sentence" in (folders.reports / "table.md").read_text(encoding="utf-8")
    for name in ("quality_speed.png", "quality_bytes.png"):
        assert (folders.reports / "plots" / name).read_bytes().startswith(b"\x89PNG")
    assert (folders.reports / "plots" / "quality.csv").read_text(encoding="utf-8").count("\n") == 4


def test_a_variant_without_results_is_named(folders):
    (folders.reports / "benchmark" / "teacher-int8.json").unlink()
    with pytest.raises(UserError, match=r"benchmark.*teacher-int8"):
        build_report(RULES, "nano", 0, folders)


@pytest.mark.slow
def test_publishing_moves_the_champion_and_imports_every_run(built, folders, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    publish(folders)
    assert tracking.champion("nano") == "teacher-int8"
    monkeypatch.setenv("TRADEWIND_HOME", str(tmp_path / "another"))  # MLflow keeps a deleted store open in a process
    publish(folders)
    assert tracking.champion("nano") == "teacher-int8", "a store that is lost is made again"
    assert tracking.import_runs(folders.reports / "runs") == 0


def test_figures_made_elsewhere_and_earlier_keep_their_device_and_commit(folders):
    for name, device in (("teacher-fp32", "a CPU"), ("teacher-int8", "a CPU"), ("base-fp32", "another")):
        write_json(folders.reports / "runs" / f"benchmark-{name}.json", {"device": device, "git_commit": "abc"})
    built = build_report(RULES, "nano", 0, folders).summary
    assert (built["device"], built["git_commit"]) == ("another and a CPU", "abc")
