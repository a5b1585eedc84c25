"""A server that starts with what was asked of an earlier one."""

import json
import logging
from pathlib import Path

import pytest

from tests.serving.conftest import serving, until
from tests.serving.test_caches import GREEDY, RING, TEXT, ask, same
from tradewind.engine.mock import MockEngine
from tradewind.errors import UserError
from tradewind.serving.settings import ServeSettings

OFTEN, ONCE = GREEDY | {"prompt": "often"}, GREEDY | {"prompt": "once"}


def test_a_new_server_knows_the_popular_answers(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    file = str(tmp_path / "calls.jsonl")
    with serving(MockEngine(slots=2, max_len=256), ServeSettings(cache="memory", cache_log=file), RING) as served:
        for body, key in ((ONCE, "a1"), (OFTEN, "a1"), (OFTEN | {"stream": True}, "a1"), (OFTEN, "a2")):
            before = ask(served, body, authorization=f"Bearer {key}")
        ask(served, GREEDY | {"temperature": 1}, authorization="Bearer a1")
    assert len(Path(file).read_text().splitlines()) == 4
    settings = ServeSettings(cache="memory", warm_from=file, warm_calls=1)
    with (
        caplog.at_level(logging.INFO),
        serving(MockEngine(slots=2, max_len=256), settings, RING, model="new") as served,
    ):
        until(lambda: "warmed up" in caplog.text)
        assert "warmed up with 1 calls" in caplog.text
        reply = ask(served, OFTEN | {"model": "new"}, authorization="Bearer a2")
        assert reply.headers["x-cache"] == "hit"
        assert same(reply).replace('"new"', '"mock"') == same(before)
        for key in ("a1", "b1"):  # the less frequent, and the other tenant's
            body = {"a1": ONCE, "b1": OFTEN}[key] | {"model": "new"}
            assert ask(served, body, authorization=f"Bearer {key}").headers["x-cache"] == "miss", key


def test_calls_come_before_warming_up(tmp_path: Path) -> None:
    """Its requests wait behind all others, and leave with the server."""
    file = tmp_path / "calls.jsonl"
    calls = [
        {"path": TEXT, "body": GREEDY | {"prompt": f"{place}", "ignore_eos": True, "max_tokens": 200}}
        for place in range(50)
    ]
    file.write_text("".join(json.dumps(one) + "\n" for one in calls))
    engine = MockEngine(slots=1, max_len=256, step_delay=0.005)
    with serving(engine, ServeSettings(cache="memory", warm_from=str(file))) as served:
        until(lambda: served.scheduler.snapshot().running == 1)
        replies = [ask(served, GREEDY | {"prompt": f"real {place}", "max_tokens": 4}) for place in range(3)]
        assert [reply.status_code for reply in replies] == [200] * 3
    until(served.all_free)


def test_calls_that_fail_are_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    file = tmp_path / "calls.jsonl"
    bodies = [GREEDY | {"max_tokens": -1}, GREEDY | {"nonsense": 1}, GREEDY | {"max_tokens": 10_000}, GREEDY]
    lines = [{"path": TEXT, "body": body} for body in bodies] + [{"path": "/v1/other", "body": GREEDY}]
    file.write_text("".join(json.dumps(one) + "\n" for one in lines))
    with (
        caplog.at_level(logging.INFO),
        serving(MockEngine(slots=1, max_len=256), ServeSettings(cache="memory", warm_from=str(file))) as served,
    ):
        until(lambda: "warmed up" in caplog.text)
        assert "4 failed, 1 miss" in caplog.text
        assert ask(served, GREEDY).headers["x-cache"] == "hit"


def test_no_such_file_is_told_at_the_start(tmp_path: Path) -> None:
    settings = ServeSettings(cache="memory", warm_from=str(tmp_path / "none"))
    with pytest.raises(UserError, match="no such file"), serving(MockEngine(), settings):
        raise AssertionError("it served")
