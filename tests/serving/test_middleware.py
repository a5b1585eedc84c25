"""What every call passes: an unforeseen error has the shape and the id of any other."""

import httpx
import pytest

from tests.serving.conftest import Served, serving
from tests.serving.test_robustness import error_of
from tradewind.engine.mock import MockEngine
from tradewind.serving.settings import ServeSettings


def broken(*_: object) -> httpx.Response:
    raise ZeroDivisionError("nobody foresaw this")


def test_an_unforeseen_error_is_a_500_with_an_id(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tradewind.serving.readiness.Loop._fresh", broken)
    with serving(MockEngine(), ServeSettings()) as served, served.http() as http:
        reply = http.get("/ready", headers={"X-Request-Id": "mine-2"})
        assert error_of(reply) == (500, None, None)
        assert reply.headers["x-request-id"] == "mine-2"
        assert "foresaw" not in reply.text
        text = http.get("/metrics").text
    assert 'tradewind_http_requests_total{method="GET",route="/ready",status="500"} 1.0' in text


def test_a_socket_upgrade_is_a_plain_request(quick: Served) -> None:
    upgrade = {"Connection": "Upgrade", "Upgrade": "websocket", "Sec-WebSocket-Key": "x", "Sec-WebSocket-Version": "13"}
    with quick.http() as http:
        assert error_of(http.get("/v1/realtime", headers=upgrade))[:2] == (404, "unknown_url")
