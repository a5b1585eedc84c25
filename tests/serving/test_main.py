"""The command line: refusals in one line, a server that says where it is, an end that keeps running answers."""

import gc
import json
import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.serving.conftest import WAIT
from tradewind.config import run
from tradewind.serving.__main__ import arguments, main
from tradewind.serving.keys import Limits, add_key
from tradewind.serving.server import Server, serve
from tradewind.serving.settings import ServeSettings

COMMAND = [sys.executable, "-m", "tradewind.serving"]
SOURCE = Path(__file__).parents[2] / "src"


def environment(**more: str) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(SOURCE), **more}


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--host", "0.0.0.0", "--engine", "mock"], "TRADEWIND_API_KEYS"),
        (["--model", "nosuch"], "unknown variant 'nosuch' (choices: one-int8, two-int4)"),
        (["--model", "nosuch", "--variants", "empty"], "there is none under empty"),
        (["--engine", "cuda"], "unknown engine 'cuda' (choices: ort, jax, mock)"),
        (["--profile", "huge"], "unknown profile 'huge' (choices: nano, cpu, gpu, tpu)"),
        (["--port", "70000", "--engine", "mock"], "cannot serve 127.0.0.1 port 70000"),
        (["--port", "-1", "--engine", "mock"], "port: -1 is not a number from 0"),
        (["--threads", "0", "--engine", "mock"], "threads: 0 is not a number from 1"),
        (["--max-choices", "0", "--engine", "mock"], "max_choices: 0 is not a number from 1"),
        (["--request-timeout-s", "nan", "--engine", "mock"], "request_timeout_s: nan is not a number from 0.001"),
        (["--send-timeout-s", "inf", "--engine", "mock"], "send_timeout_s: inf is not a number from 0.001"),
        (["--prefix-cache-mib", "-1", "--engine", "mock"], "prefix_cache_mib: -1 is not a number from 0"),
        (["--keys-file", "nosuch.json", "--engine", "mock"], "nosuch.json: cannot read the keys"),
    ],
)
def test_refusals_are_one_line(
    tmp_path: Path, options: list[str], said: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("one-int8", "two-int4"):
        (tmp_path / "artifacts/variants" / name).mkdir(parents=True)
        (tmp_path / "artifacts/variants" / name / "manifest.json").write_text("{}")
    refused(tmp_path, ["--port", "0", *options], monkeypatch)
    line = capsys.readouterr().err
    assert said in line
    assert line.count("\n") == 1


def test_help_says_what_each_option_is(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        arguments(["--help"])
    said = " ".join(capsys.readouterr().out.split())
    assert ended.value.code == 0
    assert "--slots SLOTS answers that run at once (default: 8)" in said
    assert "(default: none)" in said


def refused(folder: Path, options: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """What the process would do, here in this one: exit code 2."""
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "argv", ["tradewind.serving", *options])
    with pytest.raises(SystemExit) as ended:
        run(main)
    assert ended.value.code == 2


def test_a_taken_port_is_named(
    tmp_path: Path, free_port: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", free_port))
        taken.listen()
        refused(tmp_path, ["--engine", "mock", "--port", str(free_port)], monkeypatch)
    assert f"port {free_port}" in capsys.readouterr().err


def test_the_parameters_section_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "params.yaml").write_text("profile: nano\nseed: 0\nserve: {engine: mock, slotz: 3}\n")
    refused(tmp_path, [], monkeypatch)
    assert "serve: unknown key 'slotz'" in capsys.readouterr().err


@pytest.fixture
def key(tmp_path: Path) -> str:
    """In the file that the server below reads."""
    return add_key(tmp_path / "keys.json", "acme", ("generate", "metrics"), Limits(requests_per_minute=50))


@pytest.fixture
def served(tmp_path: Path, key: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    command = [
        *COMMAND,
        "--engine",
        "mock",
        "--port",
        "0",
        "--max-len",
        "4096",
        "--send-timeout-s",
        "2.5",
        "--lookup-tokens",
        "6",
    ]
    variables = environment(TRADEWIND_KEYS_FILE="keys.json")
    process = subprocess.Popen(command, cwd=tmp_path, env=variables, text=True, stdout=subprocess.PIPE)
    assert process.stdout is not None
    bill, line = process.stdout.readline(), process.stdout.readline()
    assert "8 slots of 4096 tokens" in bill
    yield process, line.split()[-1]
    if process.poll() is None:
        process.kill()
    process.wait(WAIT)


def test_keys_limits_and_metrics_of_the_process(served: tuple[subprocess.Popen[str], str], key: str) -> None:
    _, url = served
    body = {"model": "mock", "prompt": "hi", "max_tokens": 3}
    header = {"Authorization": f"Bearer {key}"}
    with httpx.Client(base_url=url.removesuffix("/v1"), timeout=WAIT) as http:
        assert http.post("/v1/completions", json=body).status_code == 401
        reply = http.post("/v1/completions", json=body, headers=header)
        assert (reply.status_code, reply.headers["x-ratelimit-remaining-requests"]) == (200, "49")
        assert http.get("/v1/models", headers=header).status_code == 403
        assert 'vllm:kv_cache_usage_perc{model_name="mock"} 0.0' in http.get("/metrics", headers=header).text


def test_sigterm_lets_a_running_answer_end(served: tuple[subprocess.Popen[str], str], key: str) -> None:
    process, url = served
    header = {"Authorization": f"Bearer {key}"}
    body = {"model": "mock", "prompt": "hi", "max_tokens": 3000, "ignore_eos": True, "stream": True}
    with httpx.stream("POST", f"{url}/completions", json=body, headers=header, timeout=WAIT) as reply:
        lines = reply.iter_lines()
        next(lines)
        process.send_signal(signal.SIGTERM)
        rest = [line for line in lines if line]
    assert rest[-1] == "data: [DONE]"
    assert json.loads(rest[-2].removeprefix("data: "))["choices"][0]["finish_reason"] == "length"
    assert process.wait(WAIT) == 0


@pytest.mark.parametrize("seconds", [0.3, 1.0, 2.0])
def test_an_interrupt_before_it_serves_ends_it_at_once(tmp_path: Path, seconds: float) -> None:
    """Whatever is being loaded then; with not a word, and its own Redis with it."""
    command = [sys.executable, "-m", "tradewind.serving", "--engine", "mock", "--model", "mock", "--port", "0"]
    process = subprocess.Popen(
        [*command, "--cache", "redis"], cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    time.sleep(seconds)
    served = select.select([process.stdout], [], [], 0)[0]
    process.send_signal(signal.SIGINT)
    said = process.communicate(timeout=20)
    assert served or process.returncode == -signal.SIGINT, said
    assert "Traceback" not in said[1]


def test_variants_beside_the_main_one(tmp_path: Path) -> None:
    command = [*COMMAND, "--engine", "mock", "--port", "0", "--model", "one", "--fanout", "two", "three"]
    process = subprocess.Popen(command, cwd=tmp_path, env=environment(), text=True, stdout=subprocess.PIPE)
    try:
        assert process.stdout is not None
        *bills, line = [process.stdout.readline() for _ in range(4)]
        assert all("8 slots" in bill for bill in bills)
        ask = {"model": "one", "prompt": "hi", "max_tokens": 3, "temperature": 0}
        aggregate = {"models": ["two", "one", "three"], "method": "majority"}
        with httpx.Client(base_url=line.split()[-1], timeout=WAIT) as http:
            assert [one["id"] for one in http.get("/models").json()["data"]] == ["one", "two", "three"]
            reply = http.post("/completions", json=ask | {"aggregate": aggregate}).json()
        assert reply["model"] == "two"  # all wrote the same: the first that was named
        assert [one["votes"] for one in reply["aggregate"]["candidates"]] == [3, 3, 3]
        process.send_signal(signal.SIGTERM)
        assert process.wait(WAIT) == 0
    finally:
        process.kill()
        process.wait(WAIT)
        assert process.stdout is not None
        process.stdout.close()


def test_collections_leave_out_what_was_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is there when serving begins stays: no call is to wait until all of it was looked at."""
    left: list[int] = []
    monkeypatch.setattr(signal, "signal", lambda *given: None)
    monkeypatch.setattr(Server, "run", lambda self, sockets: left.append(len(gc.get_objects())))
    try:
        with socket.socket() as listener:
            listener.bind(("127.0.0.1", 0))
            serve(None, listener, "mock", ServeSettings(), lambda: None)
    finally:
        gc.unfreeze()
    assert left[0] < 1000 < len(gc.get_objects())


def test_a_variant_is_not_served_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    refused(tmp_path, ["--engine", "mock", "--port", "0", "--model", "one", "--fanout", "two", "one"], monkeypatch)
    assert "fanout: 'one' is served already" in capsys.readouterr().err
