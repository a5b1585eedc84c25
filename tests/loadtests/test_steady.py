"""The load test against the mock engine: seconds, bounded, nothing left running."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any, ClassVar

import pytest

from tradewind.load.server import started

ROOT = Path(__file__).parents[2]
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
SHORT = ["--seconds", "3", "--warm-up", "1", "--users", "2", "--prompt-words", "8", "--answer-tokens", "12"]
LIMIT = 120
CHOICES = "choices: burst, caching, failover, overload, poisson, ramp, steady"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "loadtests").symlink_to(ROOT / "loadtests")
    return tmp_path


def load(folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "tradewind.load", *options]
    return subprocess.run(command, cwd=folder, env=ENVIRONMENT, capture_output=True, text=True, timeout=LIMIT)


def test_steady_starts_a_server_measures_and_stops_it(folder: Path) -> None:
    ended = load(folder, "steady", "--engine", "mock", "--model", "mock", *SHORT)
    assert ended.returncode == 0, ended.stderr
    result = json.loads((folder / "reports/load/steady.json").read_text())
    found = {name: one["value"] for name, one in result["measurements"].items()}
    assert found["requests"] > 5
    assert (found["failures"], found["answer_tokens"]) == (0, 12)
    assert 0 < found["ttft_p50_ms"] <= found["ttft_p99_ms"] <= found["e2e_p99_ms"]
    assert found["completion_tokens_per_s"] == pytest.approx(12 * found["requests_per_s"], rel=0.2)
    assert 0 < found["client_cpu_share"] < 2
    record = json.loads((folder / "reports/runs/load-steady.json").read_text())
    assert (record["run_id"], record["question"]) == (result["run_id"], "serving")
    assert {"engine": "mock", "scenario": "steady"}.items() <= record["tags"].items()
    assert "client:" in ended.stdout
    assert not processes_in(folder)


def test_a_run_against_a_url_names_what_answered(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As does one with the mock engine where no model was named."""
    monkeypatch.chdir(folder)
    monkeypatch.setenv("PYTHONPATH", ENVIRONMENT["PYTHONPATH"])
    with started(["--engine", "mock", "--model", "another"]) as url:
        ended = load(folder, "steady", "--url", url, "--model", "champion", *SHORT)
    assert ended.returncode == 0, ended.stderr
    record = json.loads((folder / "reports/runs/load-steady.json").read_text())
    assert (record["params"]["url"], record["params"]["engine"]) == (url, None)
    assert (record["params"]["model"], record["variant"], record["tags"]["model"]) == ("another",) * 3
    ended = load(folder, "steady", "--engine", "mock", "--model", "champion", *SHORT)
    assert ended.returncode == 0, ended.stderr
    assert json.loads((folder / "reports/runs/load-steady.json").read_text())["variant"] == "mock"


def processes_in(folder: Path) -> list[str]:
    """Commands of the processes that run in this folder (on Linux)."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if (process / "cwd").readlink() == folder:
                found.append((process / "cmdline").read_text())
        except OSError:
            continue  # another user's, or gone by now
    return found


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["nosuch"], f"unknown load test 'nosuch' ({CHOICES})"),
        (
            [],
            f"name a load test, as in `make load SCENARIO=steady` ({CHOICES})",
        ),
        (["steady", "--model", "nosuch"], "unknown variant 'nosuch'"),
        (["steady", "--seconds", "2", "--warm-up", "2"], "must exceed warm_up"),
    ],
)
def test_mistakes_are_one_line(folder: Path, options: list[str], said: str) -> None:
    ended = load(folder, *options)
    assert (ended.returncode, ended.stderr.count("\n")) == (2, 1)
    assert said in ended.stderr


LAST = '"choices": [{"delta": {"content": "a"}, "finish_reason": "length"}]'
USAGE = ', "usage": {"prompt_tokens": 1, "completion_tokens": 12}'
DONE = "\n\ndata: [DONE]"
BROKEN = {
    "no [DONE]": "{" + LAST + USAGE + "}",
    "no finish reason": '{"choices": []' + USAGE + "}" + DONE,
    "error in mid-stream": '{"error": {"message": "no memory"}}',
    "wrong usage": "{" + LAST + "}" + DONE,
}


class Liar(BaseHTTPRequestHandler):
    """A server that breaks the protocol as `reply` does, and keeps what it was asked."""

    protocol_version = "HTTP/1.1"
    reply = ""
    asked: ClassVar[list[dict[str, Any]]] = []

    def do_GET(self) -> None:
        self._send(b'{"data": [{"id": "liar"}]}')

    def do_POST(self) -> None:
        self.asked.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
        self._send(f"data: {self.reply}\n\n".encode())

    def _send(self, body: bytes) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def liar() -> Iterator[ThreadingHTTPServer]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Liar)
    Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def drive(
    folder: Path, liar: ThreadingHTTPServer, reply: str
) -> tuple[int, list[dict[str, Any]], list[dict[str, Any]]]:
    """Locust for a second, as the README runs it: exit code, timings, what was asked."""
    Liar.reply = reply
    Liar.asked.clear()
    raw, url = folder / "raw.json", f"http://127.0.0.1:{liar.server_port}"
    command = [sys.executable, "-m", "locust", "-f", "loadtests/steady.py", "--host", url, "--headless", "-u", "1"]
    command += ["-t", "2s", "--answer-tokens", "12", "--raw", str(raw), "--only-summary"]
    ended = subprocess.run(command, cwd=folder, env=ENVIRONMENT, capture_output=True, text=True, timeout=LIMIT)
    return ended.returncode, json.loads(raw.read_text())["requests"], list(Liar.asked)


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_stream_is_a_failure(folder: Path, liar: ThreadingHTTPServer, case: str) -> None:
    code, requests, _ = drive(folder, liar, BROKEN[case])
    assert code == 1
    assert {one["error"].split(":")[0] for one in requests} == {"ProtocolError"}


def test_prompts_are_the_same_words_in_orders_that_the_seed_decides(folder: Path, liar: ThreadingHTTPServer) -> None:
    reply = "{" + LAST + USAGE + "}" + DONE
    code, requests, asked = drive(folder, liar, reply)
    assert code == 0
    assert all(one["error"] is None and len(one["texts"]) == 1 for one in requests)
    prompts = [one["messages"][0]["content"] for one in asked]
    assert len({tuple(sorted(prompt.split())) for prompt in prompts}) == 1
    assert len(set(prompts)) == len(prompts) > 2
    assert all(one["ignore_eos"] and one["max_tokens"] == 12 for one in asked)
    _, _, again = drive(folder, liar, reply)
    count = min(len(asked), len(again))
    assert again[:count] == asked[:count]


PHASED = ["--seconds", "8", "--prompt-words", "8", "--answer-tokens", "6", "--engine", "mock", "--model", "mock"]


@pytest.mark.parametrize(
    ("scenario", "phases"),
    [
        ("poisson", ["poisson"]),
        ("burst", ["calm", "burst"]),
        ("overload", ["capacity", "2x", "5x", "10x"]),
        ("ramp", ["1 users", "2 users", "4 users", "8 users", "16 users", "32 users"]),
    ],
)
def test_each_phase_of_a_scenario_is_measured(folder: Path, scenario: str, phases: list[str]) -> None:
    ended = load(folder, scenario, *PHASED, "--rate", "5", "--spread", "0.5")
    assert ended.returncode == 0, ended.stderr
    found = json.loads((folder / f"reports/load/{scenario}.json").read_text())["measurements"]
    assert {name.partition("/")[0] for name in found if "/" in name} == set(phases)
    for phase in phases:
        values = {name.partition("/")[2]: one["value"] for name, one in found.items() if name.startswith(f"{phase}/")}
        assert values["failures"] == 0
        assert values["requests"] == pytest.approx(values["window_s"] * values["requests_per_s"] + values["rejected"])
        assert (scenario == "ramp" or phase == "capacity") == ("schedule_delay_p50_ms" not in values)
    assert ("knee_users" in found) == (scenario == "ramp")
    assert not processes_in(folder)
