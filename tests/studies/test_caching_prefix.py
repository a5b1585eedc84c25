"""The prefix study on the mock: what its figures must be where they can be known, and its report and picture."""

import json
from pathlib import Path

import pytest

from studies.caching import prefix
from tradewind.errors import UserError

SMALL = ["--engine", "mock", "--variants-named", "mock", "--chats", "3", "--turns", "3", "--passages", "2",
         "--questions", "2", "--answer-tokens", "8", "--budgets-mib", "0", "0.006", "1"]  # fmt: skip


@pytest.fixture
def report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, object]:
    rows = [{"passage": f"{place} documents one function. " * 3} for place in "abcdefg"]
    (tmp_path / "corpus.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    paths = {"corpus": "corpus.jsonl", "out": "out/prefix.json", "runs": "runs"}
    options = [part for name, path in paths.items() for part in (f"--{name}", str(tmp_path / path))]
    monkeypatch.setattr("sys.argv", ["prefix", *SMALL, *options])
    prefix.main()
    run = json.loads((tmp_path / "runs/caching-prefix-mock.json").read_text())
    assert (run["question"], run["variant"]) == ("caching", "mock")
    assert (tmp_path / "out/prefix.png").read_bytes().startswith(b"\x89PNG")
    return json.loads((tmp_path / "out/prefix.json").read_text())


def test_the_figures_of_the_mock(report: dict[str, object]) -> None:
    found = report["variants"]["mock"]  # type: ignore[index]
    none, little, much = (found["by_budget"][name] for name in ("0", "0.006", "1"))
    assert found["different_answers"] == 0
    assert none["requests"] == little["requests"] == much["requests"] == 3 * 3 + 2 * 2
    assert (none["hit_share"], none["held"]["entries"], none["saved_s"]["by_metric"]) == (0, 0, 0)
    assert 0 < little["hit_share"] < much["hit_share"] < 1
    assert little["evicted"]["entries"] > 0 == much["evicted"]["entries"]
    assert little["held"]["mib"] <= 0.006
    cold, warm, files = (found["restart"][name] for name in ("cold", "warm", "files"))
    assert cold["hit_share"] < 0.75 < warm["hit_share"]  # cold: the system prompt; warm: all but the last question
    assert files["entries"] > 0 < files["tokens_found"]
    assert files["lost"] == 0


def test_turns_of_a_chat_stay_in_order() -> None:
    work = prefix.Work(chats=3, turns=4, passages=2, questions=5)
    order = prefix.asks(work)
    assert len(set(order)) == len(order) == 3 * 4 + 2 * 5
    for kind, place, turns in (("chat", 0, 4), ("chat", 2, 4), ("passage", 1, 5)):
        assert [one.turn for one in order if (one.kind, one.place) == (kind, place)] == list(range(turns))
    assert prefix.asks(work) == order


def test_without_a_bare_side_there_is_nothing_to_compare_with() -> None:
    with pytest.raises(UserError, match="budgets_mib"):
        prefix.arguments(["--budgets-mib", "8"])
