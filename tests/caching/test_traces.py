"""Traces: the popularity asked for, from the seed alone, and back from a log."""

import json
from pathlib import Path

import numpy as np
import pytest

from tradewind.caching.popular import CallLog
from tradewind.caching.traces import Answers, Popularity, asked, drawn, read, sizes
from tradewind.errors import UserError


def test_questions_come_as_often_as_their_weights_say() -> None:
    popularity = Popularity(questions=50, exponent=1.0, tenants=4)
    questions, tenants = asked(popularity, 40_000, seed=3)
    shares = np.bincount(questions, minlength=50) / 40_000
    spread = np.sqrt(popularity.weights * (1 - popularity.weights) / 40_000)
    assert np.all(np.abs(shares - popularity.weights) < 5 * spread)
    assert np.all(np.abs(np.bincount(tenants) / 40_000 - 0.25) < 0.02)
    assert popularity.weights[0] == pytest.approx(2 * popularity.weights[1])


def test_a_trace_follows_from_its_seed() -> None:
    one, again, other = (drawn(Popularity(churn=0.1), 500, 50.0, Answers(), seed) for seed in (1, 1, 2))
    for column in vars(one):
        assert np.array_equal(getattr(one, column), getattr(again, column))
    assert not np.array_equal(one.questions, other.questions)
    assert np.all(np.diff(one.times) > 0)
    assert len(one) / one.times[-1] == pytest.approx(50, rel=0.2)
    assert (
        dict(zip(one.questions.tolist(), one.nbytes.tolist(), strict=True)).items()
        <= dict(enumerate(sizes(1000, Answers(), 0).tolist())).items()
    )  # an answer has one size, whichever trace asks for it


def test_churn_moves_the_favourites() -> None:
    def top(churn: float) -> set[int]:
        late = asked(Popularity(200, 1.2, churn=churn), 20_000, 5)[0][-4000:]
        return set(np.argsort(-np.bincount(late, minlength=200))[:10].tolist())

    assert len(top(0.0) & set(range(10))) >= 9
    assert len(top(0.2) & set(range(10))) <= 4


def test_answers_have_the_median_and_spread_asked_for() -> None:
    logs = np.log(sizes(20_000, Answers(bytes=4096, spread=0.5), 1))
    assert np.exp(np.median(logs)) == pytest.approx(4096, rel=0.02)
    assert logs.std() == pytest.approx(0.5, rel=0.02)
    assert set(sizes(5, Answers(bytes=100, spread=0.0), 1)) == {100}


def test_a_log_is_read_in_the_order_of_time(tmp_path: Path) -> None:
    rows = [
        {"time": 12.0, "key": "b", "tenant": "y", "bytes": 7, "seconds": 0.5},
        {"time": 10.0, "key": "a", "tenant": "x"},
        {"time": 15.0, "key": "a", "tenant": "y"},
    ]
    log = tmp_path / "log.jsonl"
    log.write_text("\n".join(map(json.dumps, rows)) + "\n")
    trace = read(log, Answers(bytes=9, seconds=2.0))
    assert [column.tolist() for column in vars(trace).values()] == [
        [0.0, 2.0, 5.0], [0, 1, 0], [0, 1, 1], [9, 7, 9], [2.0, 0.5, 2.0],
    ]  # fmt: skip


def test_a_servers_log_of_calls_is_a_trace(tmp_path: Path) -> None:
    log = CallLog(tmp_path / "calls.jsonl")
    for tenant, words, stream in (("x", "a", True), ("x", "a", False), ("y", "b", True)):
        log.add("/v1/chat/completions", tenant, json.dumps({"prompt": words, "stream": stream}).encode())
    log.close()
    trace = read(tmp_path / "calls.jsonl", Answers())
    assert (trace.questions.tolist(), trace.tenants.tolist()) == ([0, 0, 1], [0, 0, 1])


@pytest.mark.parametrize("text", ['{"time": 1}', "no json", '{"time": "x", "key": 1}', "[1]"])
def test_a_file_that_is_no_trace_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / "log.jsonl").write_text(text)
    with pytest.raises(UserError, match=r"log\.jsonl: no trace"):
        read(tmp_path / "log.jsonl", Answers())


@pytest.mark.parametrize("wrong", [{"questions": 0}, {"tenants": 0}, {"exponent": -1.0}, {"churn": 1.5}])
def test_mistakes_are_named(wrong: dict[str, float]) -> None:
    with pytest.raises(UserError):
        Popularity(**wrong)  # type: ignore[arg-type]
