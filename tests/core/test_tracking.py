import json
import sqlite3
import subprocess
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest

from tradewind import tracking
from tradewind.errors import UserError
from tradewind.files import read_json, write_json
from tradewind.tracking import NAME, RUNS, Measurement, git_commit, record_run


@pytest.fixture
def store(tmp_path, monkeypatch):
    monkeypatch.setenv("TRADEWIND_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.chdir(tmp_path)
    return tracking.client()


def _record(variant="teacher-int8"):
    with record_run(stage="evaluate", question="compression", variant=variant, params={"a": {"b": 1}},
                    tags={"engine": "ort"}, path=f"reports/runs/{variant}.json") as run:  # fmt: skip
        run.log(Measurement("answer_f1", 0.8, "1", n=192, interval=(0.75, 0.85), formula="token F1", seed=0))
        run.log(Measurement("kl_to_parent", None, "nats"))
    return run


def test_records_are_imported_once_with_values_intervals_and_tags(store):
    run = _record()
    assert tracking.import_runs() == 1
    assert tracking.import_runs() == 0
    experiment = store.get_experiment_by_name("compression")
    (found,) = store.search_runs([experiment.experiment_id])
    assert found.data.metrics == {"answer_f1": 0.8, "answer_f1.low": 0.75, "answer_f1.high": 0.85}
    assert found.data.params == {"a.b": "1"}
    assert found.data.tags["tradewind.run_id"] == run.run_id
    assert found.data.tags["engine"] == "ort"
    assert found.data.tags["device"] == read_json("reports/runs/teacher-int8.json")["device"]


def _part(stage, params, path):
    with record_run(
        stage=stage, question="serving", variant="v", params=params, path=f"reports/runs/{path}.json"
    ) as run:
        run.log(Measurement("rate", 2.5, "1/s", n=3, interval=(2.0, 3.0), formula="a, b"))
    return run.run_id


def test_names_tell_parts_and_serving_is_compared_over_them(store, tmp_path):
    assert tracking.serving_side_by_side("http://h") is None
    ids = {
        "cluster-routing": _part("cluster", {"parts": ["routing"]}, "a"),
        "cluster-overload": _part("cluster", {"parts": ["overload"]}, "b"),
        "planning-1-replica": _part("planning", {"replicas": 1}, "c"),
        "planning-2-replicas": _part("planning", {"replicas": 2}, "d"),
        "chaos": _part("chaos", {"replicas": 2}, "e"),
    }
    tracking.import_runs()
    experiment = store.get_experiment_by_name("serving").experiment_id
    found = {run.data.tags["tradewind.run_id"]: run for run in store.search_runs([experiment])}
    for name, run_id in ids.items():
        assert found[run_id].info.run_name == f"{name}-{run_id.partition('-')[2]}"
    link = urlsplit(tracking.serving_side_by_side("http://h"))
    shown = json.loads(parse_qs(link.fragment.partition("?")[2])["runs"][0])
    assert sorted(shown) == sorted(run.info.run_id for run in found.values())
    path = store.download_artifacts(found[ids["chaos"]].info.run_id, "measurements.csv", str(tmp_path))
    assert Path(path).read_text().splitlines()[1] == 'rate,2.5,2.0,3.0,1/s,3,"a, b"'


def test_a_run_imported_under_another_name_is_renamed(store):
    _part("cluster", {"parts": ["hop"]}, "a")
    tracking.import_runs()
    experiment = store.get_experiment_by_name("serving").experiment_id
    (run,) = store.search_runs([experiment])
    name = run.info.run_name
    store.update_run(run.info.run_id, name="old")
    store.delete_tag(run.info.run_id, "part")
    assert tracking.import_runs() == 0
    again = store.get_run(run.info.run_id)
    assert (again.info.run_name, again.data.tags["part"]) == (name, "hop")


def test_a_run_starts_where_the_one_before_it_ended(store):
    first, second = (_record(name) and read_json(f"reports/runs/{name}.json") for name in ("a", "b"))
    begun = datetime.fromisoformat(first["started"]) + timedelta(seconds=first["seconds"])
    assert abs(datetime.fromisoformat(second["started"]) - begun) <= timedelta(seconds=1)
    assert datetime.fromisoformat(first["started"]) < datetime.now(UTC)


def test_the_link_compares_the_last_report_of_each_variant(store):
    assert tracking.side_by_side("http://h") is None
    _record("teacher-int8")  # of another stage
    for name in ("base-fp32", "teacher-int8", "base-fp32"):
        with record_run(stage="report", question="compression", variant=name, path=f"reports/runs/{name}.json"):
            pass
        tracking.import_runs()
        time.sleep(1)  # MLflow orders runs by their seconds here
    link = urlsplit(tracking.side_by_side("http://h"))
    runs = json.loads(parse_qs(link.fragment.partition("?")[2])["runs"][0])
    assert [store.get_run(run).data.tags["variant"] for run in runs] == ["base-fp32", "teacher-int8"]
    assert store.get_run(runs[0]).data.tags["tradewind.run_id"] == read_json("reports/runs/base-fp32.json")["run_id"]


def test_a_failed_run_leaves_no_record(store, tmp_path):
    with pytest.raises(RuntimeError), record_run(stage="a", question="q", path="reports/runs/a.json"):
        raise RuntimeError
    assert not (tmp_path / "reports" / "runs" / "a.json").exists()


def test_the_champion_is_an_alias_of_one_registered_version(store, tmp_path):
    with pytest.raises(UserError, match="no champion"):
        tracking.champion("nano")
    versions = {}
    for name in ("teacher-int8", "student-int8"):
        write_json(tmp_path / name / "manifest.json", {"name": name, "weights_digest": name})
        versions[name] = tracking.register_variant(name, tmp_path / name, "nano")
        assert tracking.register_variant(name, tmp_path / name, "nano") == versions[name], "once per digest"
    for name, version in versions.items():
        tracking.set_champion(version, "nano")
        assert tracking.champion("nano") == name


def test_a_half_made_store_is_one_clear_line(tmp_path, monkeypatch):
    monkeypatch.setenv("TRADEWIND_HOME", str(tmp_path))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    with sqlite3.connect(tmp_path / "mlflow.db") as store:
        store.execute("create table experiments (experiment_id integer)")
    with pytest.raises(UserError, match=r"no usable MLflow store .* may be deleted"):
        tracking.client()


def test_asking_for_a_champion_makes_no_store(tmp_path, monkeypatch, capfd):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setenv("TRADEWIND_HOME", str(tmp_path / "home"))
    with pytest.raises(UserError, match="no champion is registered for profile 'nano'"):
        tracking.champion("nano")
    assert not list(tmp_path.iterdir())
    assert capfd.readouterr() == ("", "")


def test_what_runs_write_does_not_make_a_commit_dirty(tmp_path, monkeypatch):
    def git(*arguments: str) -> None:
        subprocess.run(["git", "-c", "user.name=a", "-c", "user.email=a@b", *arguments], cwd=tmp_path, check=True)

    monkeypatch.chdir(tmp_path)
    assert git_commit() is None
    for name in ("reports/a.json", "dvc.lock", "studies/caching/dvc.lock", "src/code.py"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("1")
    git("init", "-q")
    git("add", "-A")
    git("commit", "-qm", "first")
    clean = git_commit()
    assert clean is not None and len(clean) == 12
    for name in ("reports/a.json", "dvc.lock", "studies/caching/dvc.lock"):
        (tmp_path / name).write_text("2")
    (tmp_path / "src" / "untracked").write_text("2")
    assert git_commit() == clean
    monkeypatch.chdir(tmp_path / "src")
    assert git_commit() == clean
    (tmp_path / "src/code.py").write_text("2")
    assert git_commit() == f"{clean}-dirty"


def test_a_name_that_mlflow_refuses_is_refused_when_it_is_logged():
    made = tracking.Run("r", "evaluate", "serving")
    with pytest.raises(ValueError, match="ms, p50"):
        made.log(Measurement("ms, p50", 1.0, "ms"))


def test_every_committed_record_has_names_that_mlflow_takes():
    names = [row["name"] for path in RUNS.glob("*.json") for row in read_json(path)["measurements"]]
    assert names and all(NAME.fullmatch(name) for name in names)
