"""The checks themselves, with a mock server and stand-ins for the programs: what they count, say and refuse."""

import json
import sys
from pathlib import Path

import pytest

from benchmarks import aiperf, outside_clients, programs
from benchmarks.aiperf import Load, Seen, Target, profile, seen_by_aiperf, seen_by_locust, steady, summarize
from benchmarks.outside_clients import attempt, find, load_checks, openai_checks
from tests.serving.conftest import serving
from tradewind.engine.mock import MockEngine
from tradewind.errors import UserError
from tradewind.serving.settings import ServeSettings

LOAD = Load(seconds=2, repeats=1, streams=(1,), prompt_tokens=32, answer_tokens=8)
SEEN = Seen(ttft_ms=10, itl_ms=2, requests_per_s=4, requests=12, failures=0, prompt_tokens=40, answer_tokens=8)
EXPORT = {
    "time_to_first_token": {"unit": "ms", "avg": 12, "p50": 10},
    "inter_token_latency": {"unit": "ms", "avg": 3, "p50": 2},
    "request_throughput": {"unit": "requests/sec", "avg": 4},
    "request_count": {"unit": "requests", "avg": 12},
    "input_sequence_length": {"unit": "tokens", "avg": 40},
    "output_sequence_length": {"unit": "tokens", "avg": 8},
}


def program(path: Path, text: str) -> str:
    """An executable of Python's."""
    path.write_text(f"#!{sys.executable}\n{text}", encoding="utf-8")
    path.chmod(0o755)
    return str(path)


def test_the_official_client_passes_on_the_mock_engine():
    with serving(MockEngine(slots=2, max_len=512), ServeSettings()) as served:
        checks = openai_checks(served.url, "mock")
    assert [one for one in checks if not one.passed] == []
    assert len(checks) == 6


def test_a_check_can_fail():
    with serving(MockEngine(slots=2, max_len=512), ServeSettings()) as served:
        failed = {one.what for one in openai_checks(served.url, "another") if not one.passed}
    assert failed == {"models", "chat", "streamed chat", "parsed answer", "completions"}
    assert not attempt("llm", "chat", lambda: (False, "")).passed
    assert [one.passed for one in load_checks(SEEN, LOAD, "chat")] == [True, True]
    short = Seen(**{**SEEN.__dict__, "failures": 1, "answer_tokens": 7.9})
    assert [one.passed for one in load_checks(short, LOAD, "chat")] == [False, False]


def test_a_missing_client_is_left_out_with_a_word_on_how_to_get_it(monkeypatch, capsys):
    monkeypatch.setattr(outside_clients.shutil, "which", lambda name: None)
    assert find("llm", None, outside_clients.GET_LLM) is None
    assert "pip install llm==" in capsys.readouterr().err
    with pytest.raises(UserError, match=r"/nowhere/aiperf: no such executable.*pip install aiperf=="):
        find("aiperf", "/nowhere/aiperf", outside_clients.GET_AIPERF)


def test_a_program_runs_outside_this_environment(tmp_path, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "secret")
    monkeypatch.setenv("PYTHONPATH", "here")
    tell = program(tmp_path / "tell", "import json, os; print(json.dumps(dict(os.environ)))")
    told = json.loads(programs.command([tell], programs.outside(LLM_USER_PATH="x")))
    assert (told["HF_HUB_OFFLINE"], told["LLM_USER_PATH"]) == ("1", "x")
    assert not {"OPENAI_API_KEY", "PYTHONPATH"} & set(told)


def test_a_program_that_fails_or_hangs_is_an_error(tmp_path):
    failing = program(tmp_path / "failing", "raise SystemExit('no such model')")
    with pytest.raises(UserError, match="failing ended with exit code 1: no such model"):
        programs.command([failing], programs.outside())
    hanging = program(tmp_path / "hanging", "import threading; threading.Event().wait()")
    with pytest.raises(UserError, match="hanging did not end within 0 s"):
        programs.command([hanging], programs.outside(), 0.2)


def test_aiperf_is_asked_for_the_load_and_read(tmp_path):
    text = f"""
import json, pathlib, sys
given = dict(zip(sys.argv[1:], sys.argv[2:]))
assert (given['--concurrency'], given['--isl'], given['--osl']) == ('3', '32', '8'), given
assert given['--extra-inputs'] == 'ignore_eos:true' and '--streaming' in given
pathlib.Path(given['--artifact-dir'], 'profile_export_aiperf.json').write_text(json.dumps({EXPORT!r}))
"""
    target = Target(program(tmp_path / "aiperf", text), "http://127.0.0.1:1", "mock", tmp_path, tmp_path)
    assert profile(target, "chat", 3, LOAD) == SEEN


def test_what_aiperf_leaves_out_is_an_error():
    with pytest.raises(UserError, match="time_to_first_token"):
        seen_by_aiperf({key: value for key, value in EXPORT.items() if key != "time_to_first_token"})
    assert seen_by_aiperf(EXPORT | {"error_request_count": {"unit": "requests", "avg": 2}}).failures == 2


def test_our_timings_by_their_formulas():
    one = {"error": None, "prompt_tokens": 30, "completion_tokens": 5}
    requests = [
        one | {"start": 1.0, "texts": [1.5, 1.75, 2.5], "end": 3.0},  # two tokens gave no text of their own
        one | {"start": 2.0, "texts": [2.25, 3.25], "end": 5.0},
        {"error": "cut", "start": 3.0, "texts": [], "end": None, "prompt_tokens": None, "completion_tokens": None},
    ]
    seen = seen_by_locust({"requests": requests})
    assert (seen.ttft_ms, seen.itl_ms, seen.requests_per_s) == (375, 250, 0.5)
    assert (seen.requests, seen.failures, seen.prompt_tokens, seen.answer_tokens) == (2, 1, 30, 5)
    with pytest.raises(UserError, match="no request of the load test ended well"):
        seen_by_locust({"requests": requests[2:]})


def test_ratios_are_of_pairs():
    twice = Seen(**{**SEEN.__dict__, "ttft_ms": 20})
    result = summarize([(twice, SEEN), (SEEN, SEEN), (twice, SEEN)])
    assert result["ratios"] == {"ttft_ms": 2, "itl_ms": 1, "requests_per_s": 1, "prompt_tokens": 1}
    assert "8 at once: ttft_ms 2.00, itl_ms 1.00" in aiperf.ratio_lines({"8": result})[0]


@pytest.mark.slow
def test_our_load_test_gives_the_same_figures(root, monkeypatch, tmp_path):
    monkeypatch.chdir(root)
    with serving(MockEngine(slots=2, max_len=1024), ServeSettings()) as served:
        seen = steady(Target("", served.url, "mock", tmp_path, tmp_path), 2, LOAD, 0)
    assert seen.failures == 0
    assert seen.answer_tokens == LOAD.answer_tokens
    assert min(seen.ttft_ms, seen.itl_ms, seen.requests_per_s) > 0
