"""Plans as files: what they hold, who takes them, and what is refused."""

import pytest

from tradewind.errors import UserError
from tradewind.serving.__main__ import arguments, settings_from
from tradewind.serving.planned import planned_text, read_planned


def written(path, replicas=1, **values):
    path.write_text(planned_text(values, replicas, "why\nand for what"), encoding="utf-8")
    return path


def test_a_plan_comes_back_as_it_was_written(tmp_path):
    path = written(tmp_path / "p.yaml", 3, model="student-int8", slots=4)
    assert read_planned(path) == ({"model": "student-int8", "slots": 4}, 3)
    assert path.read_text().startswith("# why\n# and for what\n")


def test_a_server_takes_it_and_its_own_options_win(tmp_path):
    path = written(tmp_path / "p.yaml", model="student-int8", slots=4, cache="memory")
    settings, _ = settings_from(arguments(["--plan", str(path), "--slots", "2"]))
    assert (settings.model, settings.slots, settings.cache) == ("student-int8", 2, "memory")


def test_one_server_is_not_several(tmp_path):
    with pytest.raises(UserError, match="for 2 replicas: `make cluster PLAN="):
        settings_from(arguments(["--plan", str(written(tmp_path / "p.yaml", 2))]))


@pytest.mark.parametrize(("text", "words"), [("modell: x\n", "unknown key 'modell'"), ("replicas: 0\n", "from 1")])
def test_what_is_no_plan_is_refused(tmp_path, text, words):
    path = tmp_path / "p.yaml"
    path.write_text(text)
    with pytest.raises(UserError, match=words):
        read_planned(path)
    with pytest.raises(UserError, match="no such plan"):
        read_planned(tmp_path / "none.yaml")
