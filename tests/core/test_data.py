import hashlib
import shutil
import zipfile

import pytest

from tests.support import unreachable_index
from tradewind import data
from tradewind.errors import UserError
from tradewind.files import read_json, write_json


@pytest.fixture
def locked(tmp_path, monkeypatch):
    """A manifest of two members of one wheel, and a `download` that hands out a local wheel."""
    content = {"one.bin": b"1" * 1000, "two.bin": b"2" * 1000}
    wheel = tmp_path / "pkg-1-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        for name, payload in content.items():
            archive.writestr(f"pkg/{name}", payload)
    entries = [
        {"file": f"in/{name}", "member": f"pkg/{name}", "wheel": "pkg==1", "bytes": len(payload),
         "sha256": hashlib.sha256(payload).hexdigest()}
        for name, payload in content.items()
    ]  # fmt: skip
    manifest = tmp_path / "manifest.json"
    write_json(manifest, {"files": entries, "wheels": {"pkg==1": data.sha256_file(wheel)}})
    monkeypatch.setattr(data, "download", lambda *_: wheel)
    return tmp_path / "data", manifest, wheel


def test_fetch_fills_in_what_is_missing_and_verifies(locked):
    folder, manifest, _ = locked
    assert data.fetch(folder, manifest) == ["in/one.bin", "in/two.bin"]
    (folder / "in" / "two.bin").unlink()
    assert data.fetch(folder, manifest) == ["in/two.bin"]
    assert data.fetch(folder, manifest) == []


def test_an_altered_file_is_named_and_kept(locked):
    folder, manifest, _ = locked
    data.fetch(folder, manifest)
    (folder / "in" / "one.bin").write_bytes(b"mine")
    for check in (data.verify, data.fetch):
        with pytest.raises(UserError, match=r"in/one\.bin is altered \(4 bytes.*: delete it and run `make data` \(or"):
            check(folder, manifest)
    assert (folder / "in" / "one.bin").read_bytes() == b"mine"


def test_an_unknown_file_is_named(locked):
    folder, manifest, _ = locked
    data.fetch(folder, manifest)
    (folder / "extra").touch()
    with pytest.raises(UserError, match=r"extra is not in the manifest: remove it \(or"):
        data.verify(folder, manifest)


def test_a_truncated_wheel_leaves_nothing(locked):
    folder, manifest, wheel = locked
    wheel.write_bytes(wheel.read_bytes()[:500])
    with pytest.raises(UserError, match=wheel.name):
        data.fetch(folder, manifest)
    assert not [path for path in folder.rglob("*") if path.is_file()]


def test_accept_alone_moves_the_lock(locked):
    folder, manifest, _ = locked
    data.fetch(folder, manifest)
    (folder / "in" / "one.bin").write_bytes(b"mine")
    assert data.accept(folder, manifest) == ["in/one.bin"]
    data.verify(folder, manifest)
    assert "wheel" not in next(e for e in read_json(manifest)["files"] if e["file"] == "in/one.bin")


def test_a_missing_file_is_fetched_by_make_data(locked):
    folder, manifest, _ = locked
    data.fetch(folder, manifest)
    (folder / "in" / "one.bin").unlink()
    with pytest.raises(UserError, match=r"in/one\.bin is missing: `make data` fetches it$"):
        data.verify(folder, manifest)


def test_what_was_accepted_and_is_gone_must_be_put_back(locked):
    folder, manifest, _ = locked
    data.fetch(folder, manifest)
    (folder / "in" / "one.bin").write_bytes(b"mine")
    data.accept(folder, manifest)
    assert next(e for e in read_json(manifest)["files"] if e["file"] == "in/two.bin")["wheel"] == "pkg==1"
    shutil.rmtree(folder)
    for check in (data.fetch, data.verify):
        with pytest.raises(UserError, match=r"in/one\.bin is locked but no wheel holds it: put the file back$"):
            check(folder, manifest)
    assert (folder / "in" / "two.bin").exists(), "the other is fetched"


def test_an_index_out_of_reach_is_named(tmp_path, monkeypatch):
    for name, value in unreachable_index().items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match=r"^wheel pkg==1 .* cannot be had: cannot reach the package index$"):
        data.download("pkg==1", "0" * 64, tmp_path)


def test_a_wheel_that_does_not_exist_is_named(tmp_path):
    with pytest.raises(UserError, match="no-such-package-of-tradewind==0"):
        data.download("no-such-package-of-tradewind==0", "0" * 64, tmp_path)


@pytest.fixture
def two_locks(locked):
    """The manifest above as `in.json` of a folder, and one that locks nothing yet."""
    folder, manifest, _ = locked
    locks = manifest.parent / "locks"
    locks.mkdir()
    shutil.move(manifest, locks / "in.json")
    write_json(locks / "manifest.json", {"files": [], "wheels": {}})
    return folder, locks


def test_nothing_is_fetched_beside_an_altered_file(two_locks, monkeypatch):
    folder, locks = two_locks
    (folder / "in").mkdir(parents=True)
    (folder / "in" / "one.bin").write_bytes(b"mine")
    monkeypatch.setattr(data, "download", lambda *_: pytest.fail("fetched"))
    with pytest.raises(UserError, match=r"in/one\.bin is altered"):
        data.fetch(folder, locks)


def test_all_manifests_of_a_folder_are_one_lock(two_locks):
    folder, locks = two_locks
    assert data.fetch(folder, locks) == ["in/one.bin", "in/two.bin"]
    (folder / "in" / "two.bin").write_bytes(b"mine")
    with pytest.raises(UserError, match=r"in/two\.bin is altered"):
        data.verify(folder, locks)


def test_what_is_accepted_goes_into_the_manifest_of_its_folder_alone(two_locks):
    folder, locks = two_locks
    data.fetch(folder, locks)
    before = (locks / "in.json").read_bytes()
    (folder / "other").mkdir()
    (folder / "other" / "three.bin").write_bytes(b"3")
    assert data.accept(folder, locks) == ["other/three.bin"]
    assert (locks / "in.json").read_bytes() == before
    (folder / "in" / "one.bin").write_bytes(b"mine")
    before = (locks / "manifest.json").read_bytes()
    assert data.accept(folder, locks) == ["in/one.bin"]
    assert (locks / "manifest.json").read_bytes() == before
    data.verify(folder, locks)


def test_a_folder_without_manifests_locks_nothing_and_says_so(tmp_path):
    with pytest.raises(UserError, match="no manifest there"):
        data.verify(tmp_path, tmp_path)
