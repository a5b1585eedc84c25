import json
import logging
from pathlib import Path
from threading import Event

import pytest

from tradewind.caching import popular as module
from tradewind.caching.popular import DAY_S, CallLog, popular
from tradewind.errors import UserError

CHAT, TEXT = "/v1/chat/completions", "/v1/completions"


def test_the_most_frequent_calls_of_a_day(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = CallLog(tmp_path / "log" / "calls.jsonl")
    for age, path, tenant, prompt in (
        (2 * DAY_S, TEXT, "a", "old"), (2 * DAY_S, TEXT, "a", "old"), (50, TEXT, "a", "often"), (40, CHAT, "a", "once"),
        (30, TEXT, "b", "often"), (20, TEXT, "a", "often"), (10, TEXT, "a", "late"),
    ):  # fmt: skip
        monkeypatch.setattr(module.time, "time", lambda age=age: 1e9 - age)  # type: ignore[misc]
        calls.add(path, tenant, json.dumps({"prompt": prompt}).encode())
    calls.close()
    found = popular(calls.path, 3, now=1e9)
    assert [(one.path, one.tenant, one.body["prompt"], one.count) for one in found] == [
        (TEXT, "a", "often", 2), (CHAT, "a", "once", 1), (TEXT, "b", "often", 1),
    ]  # fmt: skip
    assert calls.path.stat().st_mode & 0o777 == 0o600


def test_a_full_log_is_put_aside_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LARGEST", 1000)
    calls = CallLog(tmp_path / "calls.jsonl")
    for place in range(100):
        calls.add(TEXT, "", json.dumps({"prompt": f"{place}"}).encode())
    calls.close()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["calls.jsonl", "calls.jsonl.1"]
    assert all(path.stat().st_size <= 1000 for path in tmp_path.iterdir())
    kept = [one.body["prompt"] for one in popular(calls.path, 1000)]
    assert kept == [str(place) for place in range(100 - len(kept), 100)]


def test_a_file_made_by_hand(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    file = tmp_path / "calls.jsonl"
    good = json.dumps({"path": TEXT, "body": {"prompt": "x"}})
    file.write_text(f"{good}\n\n{good}\nhalf a li\n[1]\n" + '{"path": 1, "body": {}}\n')
    with caplog.at_level(logging.WARNING):
        assert [(one.tenant, one.count) for one in popular(file, 5)] == [("", 2)]
    assert "3 lines are no calls" in caplog.text


@pytest.mark.parametrize("text", [None, "nothing\n", "{}\n"])
def test_a_file_that_is_none_is_one_line(tmp_path: Path, text: str | None) -> None:
    file = tmp_path / "calls.jsonl"
    if text is not None:
        file.write_text(text)
    with pytest.raises(UserError, match=r"calls\.jsonl"):
        popular(file, 5)


def test_a_log_that_cannot_be_written_is_told_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "file").write_text("")
    calls = CallLog(tmp_path / "file" / "calls.jsonl")
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            calls.add(TEXT, "", b"{}")
        calls.close()
    assert len(caplog.messages) == 1


def test_what_the_writer_cannot_keep_up_with_is_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody waits for it."""
    monkeypatch.setattr(module, "BACKLOG", 3)
    calls, hold = CallLog(tmp_path / "calls.jsonl"), Event()
    calls._writer.submit(hold.wait)
    for _ in range(10):
        calls.add(TEXT, "", b"{}")
    hold.set()
    calls.close()
    assert len(calls.path.read_text().splitlines()) == 3
