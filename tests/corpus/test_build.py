"""The configuration files and the pipeline script of the corpus."""

import dataclasses
import subprocess
import sys

import pytest
import yaml

from tradewind.config import build, compose
from tradewind.corpus.build import CorpusConfig
from tradewind.errors import UserError


@pytest.mark.parametrize("profile", ["cpu", "nano"])
def test_choices_compose_and_build(profile, root):
    params = compose(profile, folder=root / "conf")
    config = build(CorpusConfig, {**params["corpus"], "seed": params["seed"]})
    assert len(config.choices()) == (13 if profile == "cpu" else 2)


def test_a_package_listed_twice_is_named(root):
    params = compose("nano", folder=root / "conf")
    config = build(CorpusConfig, {**params["corpus"], "seed": 0})
    twice = dataclasses.replace(config, packages=({"package": "optax"}, {"package": "optax"}))
    with pytest.raises(UserError, match="optax"):
        twice.choices()


def test_the_script_documents_an_internal_package(site, root, tmp_path):
    """One added line documents a package of one's own; a missing one is a single line on standard error."""
    params = compose("nano", folder=root / "conf")
    params["corpus"]["packages"] = [{"package": "shapes", "python": str(site)}]
    assert _run(params, root, tmp_path).returncode == 0
    assert '"id": "shapes.area"' in (tmp_path / "artifacts/corpus/records.jsonl").read_text()
    params["corpus"]["packages"].append({"package": "circles", "python": str(site)})
    done = _run(params, root, tmp_path)
    assert done.returncode == 2
    assert "circles" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def _run(params, root, folder):
    (folder / "params.yaml").write_text(yaml.safe_dump(params))
    command = [sys.executable, str(root / "pipelines" / "corpus.py")]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
