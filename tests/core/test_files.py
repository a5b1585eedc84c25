import contextlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tradewind.errors import UserError
from tradewind.files import atomic_path, digest, read_json, read_jsonl, write_json, write_jsonl

json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=10,
)


@given(st.dictionaries(st.text(), json_values, max_size=5))
def test_digest_does_not_depend_on_key_order(value):
    assert digest(value) == digest(dict(reversed(value.items())))


@given(rows=st.lists(st.dictionaries(st.text(), st.text(), max_size=3), max_size=5))
def test_json_lines_survive_the_round_trip(tmp_path_factory, rows):
    path = tmp_path_factory.mktemp("rows") / "rows.jsonl"
    write_jsonl(path, rows)
    assert read_jsonl(path) == rows


def test_a_failed_write_leaves_the_old_file_and_no_other(tmp_path):
    path = tmp_path / "value.json"
    write_json(path, {"kept": 1})
    with contextlib.suppress(RuntimeError), atomic_path(path) as temporary:
        temporary.write_text("half", encoding="utf-8")
        raise RuntimeError
    assert read_json(path) == {"kept": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["value.json"]


def test_a_folder_is_replaced_whole(tmp_path):
    path = tmp_path / "folder"
    path.mkdir()
    (path / "old").touch()
    with atomic_path(path) as temporary:
        temporary.mkdir()
        (temporary / "new").touch()
    assert [p.name for p in path.iterdir()] == ["new"]


def test_a_folder_is_kept_where_nothing_was_made(tmp_path):
    write_json(tmp_path / "folder" / "old.json", 1)
    with pytest.raises(UserError, match="nothing was made"), atomic_path(tmp_path / "folder"):
        pass
    assert read_json(tmp_path / "folder" / "old.json") == 1


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"file/deeper: cannot be made \(Not a directory\)"):
        write_json(tmp_path / "file" / "deeper" / "value.json", 1)


def test_nan_is_no_json(tmp_path):
    with pytest.raises(ValueError):
        write_json(tmp_path / "value.json", {"x": float("nan")})


@pytest.mark.parametrize("content", ["{", "[1,]"])
def test_broken_json_is_named(tmp_path, content):
    path = tmp_path / "broken.json"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(UserError, match=r"broken\.json"):
        read_json(path)
    path.write_text(json.dumps({"fine": 1}) + "\n" + content, encoding="utf-8")
    with pytest.raises(UserError, match=r"broken\.json"):
        read_jsonl(path)
