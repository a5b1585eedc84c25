"""Limits in Redis: shared by servers, kept over their restarts, refused at start where it is down, done without later."""

import logging
import time
from pathlib import Path

import httpx
import pytest

from tests.serving.conftest import WAIT, Served, serving
from tests.serving.test_limits import PROMPT, TEXT
from tests.serving.test_main import refused
from tests.serving.test_robustness import error_of
from tradewind.caching.node import RedisNode
from tradewind.engine.mock import MockEngine
from tradewind.serving import limits
from tradewind.serving.keys import ApiKey, Keyring, Limits, add_key, hash_of
from tradewind.serving.settings import ServeSettings

KEYS = {"minute": Limits(requests_per_minute=3), "day": Limits(tokens_per_day=40)}
RING = Keyring(tuple(ApiKey(name, hash_of(name), name, limits=one) for name, one in KEYS.items()))


@pytest.fixture
def store(redis_node: RedisNode) -> RedisNode:
    return redis_node


def server(store: RedisNode):  # type: ignore[no-untyped-def]
    return serving(MockEngine(slots=2, max_len=256), ServeSettings(limits_storage=store.url), RING)


def ask(served: Served, key: str) -> httpx.Response:
    with served.http() as http:
        return http.post(TEXT, json=PROMPT, headers={"Authorization": f"Bearer {key}"})


def test_two_servers_share_a_limit(store: RedisNode, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "STORE_TIMEOUT", 5.0)  # a busy machine is no outage
    with server(store) as one, server(store) as two:
        replies = [ask(served, "minute") for served in (one, two, one)]
        assert [reply.status_code for reply in replies] == [200] * 3
        left = [reply.headers["x-ratelimit-remaining-requests"] for reply in replies]
        assert left == ["2", "1", "0"]
        for served in (one, two):
            reply = ask(served, "minute")
            assert error_of(reply) == (429, "rate_limit_exceeded", None)
            assert 0 < int(reply.headers["retry-after"]) <= 60


def test_a_quota_outlives_the_server(store: RedisNode, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "STORE_TIMEOUT", 5.0)
    with server(store) as served:
        assert [ask(served, "day").status_code for _ in range(2)] == [200, 200]  # 15 tokens each
    with server(store) as served:
        reply = ask(served, "day")  # a prompt of 10, and 10 are left
        assert (reply.status_code, reply.headers["x-ratelimit-remaining-tokens"]) == (200, "0")
        assert error_of(ask(served, "day")) == (429, "insufficient_quota", None)


def test_a_store_that_dies_is_done_without(
    store: RedisNode, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Open: nobody is limited, nobody waits, one line is logged; when it is back, it counts again, from nothing."""
    monkeypatch.setattr(limits, "STORE_TIMEOUT", 2.0)
    monkeypatch.setattr(limits, "STORE_PAUSE", 0.05)
    with server(store) as served, caplog.at_level(logging.WARNING):
        assert ask(served, "minute").headers["x-ratelimit-remaining-requests"] == "2"
        store.stop()
        replies = [ask(served, "minute") for _ in range(6)]
        assert [reply.status_code for reply in replies] == [200] * 6
        assert max(reply.elapsed.total_seconds() for reply in replies) < 2.0 + 2.0
        (record,) = caplog.records
        assert "nobody is limited" in record.message
        assert record.exc_info is None
        store.start()
        latest = time.monotonic() + WAIT
        # A call may be the first that asks again, or meet the last that fails: it is not counted then.
        while ask(served, "minute").headers.get("x-ratelimit-remaining-requests") != "2":
            assert time.monotonic() < latest


@pytest.mark.timing
def test_a_store_that_hangs_is_not_waited_for(store: RedisNode, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "STORE_TIMEOUT", 0.3)
    with server(store) as served:
        store.pause()
        try:
            begun = time.monotonic()
            assert ask(served, "minute").status_code == 200
            assert time.monotonic() - begun < 6 * 0.3 + 2
        finally:
            store.resume()


def test_a_store_that_is_down_at_the_start_is_one_line(
    tmp_path: Path, free_port: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("redis", reason="the package redis is missing (make installs requirements.lock)")
    add_key(tmp_path / "keys.json", "acme", ("generate",), Limits(requests_per_minute=50))
    address = f"redis://:secret@127.0.0.1:{free_port}/0"
    options = ["--engine", "mock", "--port", "0", "--keys-file", "keys.json", "--limits-storage", address]
    refused(tmp_path, options, monkeypatch)
    line = capsys.readouterr().err
    assert line.startswith(f"error: limits_storage redis://127.0.0.1:{free_port}/0: ")
    assert line.count("\n") == 1
    assert "secret" not in line
