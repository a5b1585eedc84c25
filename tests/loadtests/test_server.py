"""A server of a load test's own that ends or hangs is told by its last words, and never left running."""

import subprocess
import sys
import time
from collections.abc import Callable

import pytest

from tradewind.errors import UserError
from tradewind.load import server

ENDS = "import sys; sys.exit('no memory')"
ENDS_LATER = "import sys; print('serving http://127.0.0.1:9/v1', flush=True); sys.exit('no disk')"
HANGS = "import sys, time; print('loading weights', file=sys.stderr, flush=True); time.sleep(600)"


@pytest.fixture
def program(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], list[subprocess.Popen[str]]]:
    """Puts a program in the place of the server; the list holds what was started."""

    def use(text: str) -> list[subprocess.Popen[str]]:
        began: list[subprocess.Popen[str]] = []
        start = subprocess.Popen

        def instead(command: list[str], **options: object) -> subprocess.Popen[str]:
            assert "tradewind.serving" in command
            began.append(start([sys.executable, "-c", text], **options))  # type: ignore[call-overload]
            return began[0]

        monkeypatch.setattr(server.subprocess, "Popen", instead)
        return began

    return use


@pytest.mark.timing
@pytest.mark.parametrize(("text", "said"), [(ENDS, "no memory"), (ENDS_LATER, "no disk")])
def test_a_server_that_ends_is_noticed_at_once(program, text: str, said: str) -> None:
    program(text)
    before = time.monotonic()
    with pytest.raises(UserError, match=f"the server ended before .*: {said}$"), server.started([]):
        pass
    assert time.monotonic() - before < server.START_SECONDS / 10


def test_a_server_that_hangs_is_told_by_its_last_words_and_ended(program, monkeypatch: pytest.MonkeyPatch) -> None:
    began = program(HANGS)
    words = server._last_words
    monkeypatch.setattr(server, "START_SECONDS", 0.0)
    monkeypatch.setattr(server, "_last_words", lambda said: _once(words, said))
    with pytest.raises(UserError, match=r"did not start within 0 s; its last words: loading weights$"), \
            server.started([]):  # fmt: skip
        pass
    assert began[0].returncode is not None


def _once(words, said) -> str:
    """The last words, as soon as there are any."""
    deadline = time.monotonic() + 60
    while words(said) == "none" and time.monotonic() < deadline:
        time.sleep(0.01)
    return words(said)


@pytest.mark.parametrize(
    "url", ["garbage", "localhost:8000", "ftp://host:1", "http://", "http://host:port", "http://["]
)
def test_what_is_no_address_is_told_at_once(url: str) -> None:
    with pytest.raises(UserError, match="is no address of a server"):
        server.await_ready(url, check=lambda: pytest.fail("it was tried"))
