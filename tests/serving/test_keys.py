"""Keys: made once, kept as hashes, found in the file, refused where the file or the scope is wrong."""

import json
from dataclasses import asdict
from pathlib import Path

import httpx
import pytest

from tests.serving.conftest import serving
from tests.serving.test_robustness import CHAT, GOOD, error_of
from tradewind.config import run
from tradewind.engine.mock import MockEngine
from tradewind.errors import UserError
from tradewind.serving import keys
from tradewind.serving.keys import SCOPES, ApiKey, Keyring, Limits, add_key, hash_of, keyring, read_keys
from tradewind.serving.middleware import scope_of
from tradewind.serving.settings import ServeSettings


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "keys.json"


def header(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


def test_the_command_prints_a_key_once_and_keeps_its_hash(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    keys.main(["new", "--file", str(file), "--tenant", "acme", "--scopes", "generate", "--tokens-per-day", "500"])
    keys.main(["new", "--file", str(file)])
    first, second = capsys.readouterr().out.split()
    assert len(first) >= 43  # 32 bytes in base64
    assert first != second
    assert first not in file.read_text()
    assert file.stat().st_mode & 0o777 == 0o600
    (one, two), tenants = read_keys(file)
    assert (one.hash, one.tenant, one.scopes) == (hash_of(first), "acme", ("generate",))
    assert one.limits == Limits(tokens_per_day=500)
    assert (two.tenant, two.scopes, two.limits) == ("default", ("models", "generate"), Limits())
    assert not tenants
    assert list(file.parent.iterdir()) == [file]


def test_the_command_wants_a_file(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.delenv("TRADEWIND_KEYS_FILE", raising=False)
    monkeypatch.setattr("sys.argv", ["keys", "new"])
    with pytest.raises(SystemExit) as ended:
        run(keys.main)
    assert ended.value.code == 2
    assert "TRADEWIND_KEYS_FILE" in capsys.readouterr().err


GOOD_ENTRY = asdict(ApiKey("k", "0" * 64))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "not valid JSON"),
        ("[]", "not a JSON object"),
        (json.dumps({"key": []}), "unknown key 'key'"),
        (json.dumps({"keys": [GOOD_ENTRY | {"hash": "abc"}]}), "not 64 hexadecimal digits"),
        (json.dumps({"keys": [GOOD_ENTRY | {"hash": "g" * 64}]}), "not 64 hexadecimal digits"),
        (json.dumps({"keys": [GOOD_ENTRY | {"scopes": ["root"]}]}), "unknown scope 'root'"),
        (json.dumps({"keys": [GOOD_ENTRY | {"limits": {"requests_per_minute": 0}}]}), "is not at least 1"),
        (json.dumps({"keys": [GOOD_ENTRY | {"limits": {"requests_per_hour": 1}}]}), "unknown key 'requests_per_hour'"),
        (json.dumps({"keys": [GOOD_ENTRY, GOOD_ENTRY]}), "same id"),
        (json.dumps({"tenants": {"acme": {"tokens": 1}}}), "tenants.acme"),
    ],
)
def test_a_file_that_is_wrong_is_refused(file: Path, text: str, said: str) -> None:
    file.write_text(text)
    with pytest.raises(UserError, match=said):
        read_keys(file)


def test_a_file_that_is_not_there_is_refused(file: Path) -> None:
    with pytest.raises(UserError, match="cannot read"):
        keyring(str(file))


def test_keys_of_file_and_environment(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = add_key(file, "acme", ("generate",), Limits(requests_per_day=9))
    held = json.loads(file.read_text())
    file.write_text(json.dumps(held | {"tenants": {"acme": {"tokens_per_minute": 7}}}))
    monkeypatch.setenv("TRADEWIND_KEYS_FILE", str(file))
    monkeypatch.setenv("TRADEWIND_API_KEYS", "one, two")
    known = keyring()
    of_file, of_environment = known.find(made), known.find("two")
    assert of_file is not None and of_environment is not None
    assert (of_file.tenant, of_file.scopes) == ("acme", ("generate",))
    assert (of_file.limits, of_file.tenant_limits) == (Limits(requests_per_day=9), Limits(tokens_per_minute=7))
    assert (of_environment.tenant, of_environment.scopes) == ("default", SCOPES)
    assert known.find("three") is known.find("") is None
    monkeypatch.delenv("TRADEWIND_KEYS_FILE")
    monkeypatch.delenv("TRADEWIND_API_KEYS")
    assert not keyring()


@pytest.mark.parametrize(
    ("path", "scope"),
    [
        ("/health", None),
        ("/ready", None),
        ("/readyish", ""),
        ("/metrics", "metrics"),
        ("/v1/models", "models"),
        ("/v1/models/a/b", "models"),
        ("/v1/modelsx", "generate"),
        ("/v1/completions", "generate"),
        ("/v1/anything/new", "generate"),
        ("/admin/flush", "admin"),
        ("/openapi.json", ""),
        ("/", None),
        ("/docs", None),
        ("/docsx", ""),
        ("/static/a.css", None),
        ("/staticx", ""),
        ("", ""),
    ],
)
def test_paths_and_their_scopes(path: str, scope: str | None) -> None:
    assert scope_of(path) == scope


def test_scopes_over_http() -> None:
    held = {scope: f"key-of-{scope}" for scope in SCOPES}
    ring = Keyring(tuple(ApiKey(scope, hash_of(key), scopes=(scope,)) for scope, key in held.items()))
    asked = {"models": ("GET", "/v1/models"), "generate": ("POST", CHAT), "metrics": ("GET", "/metrics")}
    with serving(MockEngine(), ServeSettings(), ring) as served, served.http() as http:
        for needed, (method, path) in asked.items():
            for scope, key in held.items():
                reply = http.request(method, path, json=GOOD if method == "POST" else None, headers=header(key))
                if scope == needed:
                    assert reply.status_code == 200
                else:
                    assert error_of(reply) == (403, None, None)
                    assert reply.json()["error"]["type"] == "permission_error"
        reply = http.get("/metrics")
        assert error_of(reply) == (401, "invalid_api_key", None)
        assert reply.headers["www-authenticate"] == "Bearer"
        assert http.get("/health").status_code == httpx.codes.OK


def test_a_file_without_keys_does_not_open_the_server(tmp_path, monkeypatch):
    monkeypatch.delenv("TRADEWIND_API_KEYS", raising=False)
    path = tmp_path / "keys.json"
    path.write_text('{"keys": []}', encoding="utf-8")
    with pytest.raises(UserError, match="no key is left"):
        keyring(str(path))


def test_a_key_that_cannot_be_kept_is_one_clear_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot write the keys"):
        add_key(tmp_path / "nosuch" / "keys.json", "acme", ("generate",), Limits())
    with pytest.raises(UserError, match="a tenant has a name"):
        add_key(tmp_path / "keys.json", "", ("generate",), Limits())
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "held",
    [
        '{"keys": {}}',
        '{"keys": ["k"]}',
        '{"tenants": []}',
        '{"tenants": {"a": null}}',
        '{"tenants": {"a": {"requests_per_minute": "60"}}}',
        '{"keys": [{"id": "a", "hash": "00", "limits": null}]}',
        '{"keys": [{"id": "a", "hash": "00", "scopes": null}]}',
    ],
)
def test_a_file_of_another_shape_is_one_clear_line(tmp_path, held):
    path = tmp_path / "keys.json"
    path.write_text(held, encoding="utf-8")
    with pytest.raises(UserError, match=r"keys\.json"):
        read_keys(path)
