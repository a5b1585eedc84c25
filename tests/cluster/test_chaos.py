"""A real cluster of mock engines whose processes are killed: streams go on to the byte, or end as an error does.

Answers are long, to be hit in their middle. Real variants under load: `benchmarks.chaos`.
"""

import json
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import httpx
import pytest

from tests.cluster.conftest import Running
from tradewind.load.faults import Part, kill, processes

TOKENS, MIDDLE, LIMIT_S = 1500, 20, 60.0
BODY = {"model": "mock", "prompt": "count on", "max_tokens": TOKENS, "temperature": 0, "ignore_eos": True}


@pytest.fixture
def whole(cluster: Running) -> Iterator[httpx.Client]:
    """The cluster with both replicas alive and answering, as it is left too."""
    with httpx.Client(base_url=cluster.url, timeout=LIMIT_S, headers={"Cache-Control": "no-store"}) as http:
        await_whole(http)
        yield http
        await_whole(http)


def await_whole(http: httpx.Client) -> None:
    eventually(lambda: len(processes(Part.REPLICA)) == 2 and http.get("/ready").status_code == 200)


def eventually(true: Callable[[], bool]) -> None:
    latest = time.monotonic() + LIMIT_S
    while not true():
        assert time.monotonic() < latest
        time.sleep(0.05)


def undisturbed(http: httpx.Client) -> str:
    reply = http.post("/v1/completions", json=BODY)
    assert reply.status_code == 200, reply.text
    return str(reply.json()["choices"][0]["text"])


def streamed(
    http: httpx.Client, in_the_middle: Callable[[], object], body: Mapping[str, Any] = BODY
) -> tuple[str, list[dict[str, Any]]]:
    """The text of an answer during which something happens, and its chunks. Raises AssertionError where it ends without
    `[DONE]`."""
    lines: list[str] = []
    with http.stream("POST", "/v1/completions", json={**body, "stream": True}) as reply:
        assert reply.status_code == 200
        for line in filter(None, reply.iter_lines()):
            lines.append(line)
            if len(lines) == MIDDLE:
                in_the_middle()
    assert lines[-1] == "data: [DONE]"
    chunks = [json.loads(line.removeprefix("data: ")) for line in lines[:-1]]
    assert not [one for one in chunks if "error" in one]
    return "".join(choice["text"] for one in chunks for choice in one["choices"]), chunks


def failovers(http: httpx.Client) -> float:
    lines = http.get("/metrics").text.splitlines()
    return sum(float(line.split()[-1]) for line in lines if line.startswith("tradewind_failovers_total{"))


def test_a_stream_whose_replica_is_killed_goes_on_to_the_byte(whole: httpx.Client) -> None:
    """One replica is killed in each of a few streams, until the one that was hit was answering."""
    want, before = undisturbed(whole), failovers(whole)
    for _ in range(8):
        text, chunks = streamed(whole, lambda: kill(Part.REPLICA))
        assert text == want
        assert chunks[-1]["choices"][0]["finish_reason"] == "length"
        if failovers(whole) > before:
            return
        eventually(lambda: len(processes(Part.REPLICA)) == 2)
    pytest.fail("no stream lost its replica")


def test_several_answers_to_one_prompt_survive_their_replica(whole: httpx.Client) -> None:
    """Each goes on by itself, wherever it is taken in."""
    body = BODY | {"n": 3, "temperature": 1.1, "seed": 5}
    reply = whole.post("/v1/completions", json=body)
    want, before = {choice["index"]: choice["text"] for choice in reply.json()["choices"]}, failovers(whole)
    for _ in range(8):
        _, chunks = streamed(whole, lambda: kill(Part.REPLICA), body)
        texts = dict.fromkeys(want, "")
        for choice in (choice for one in chunks for choice in one["choices"]):
            texts[choice["index"]] += choice["text"]
        assert texts == want
        if failovers(whole) > before:
            return
        eventually(lambda: len(processes(Part.REPLICA)) == 2)
    pytest.fail("no call lost its replica")


def test_with_all_replicas_gone_new_requests_are_refused_and_running_ones_wait(whole: httpx.Client) -> None:
    want, before = undisturbed(whole), failovers(whole)
    refusals: list[httpx.Response] = []

    def gone() -> None:
        assert len(kill(Part.REPLICA, 2)) == 2
        eventually(lambda: refused(whole, refusals))

    text, _ = streamed(whole, gone)
    assert text == want
    assert failovers(whole) > before
    assert refusals[0].headers["Retry-After"].isdigit()
    assert refusals[0].json()["error"]["code"] == "server_is_overloaded"
    eventually(lambda: whole.post("/v1/completions", json=BODY | {"max_tokens": 1}).status_code == 200)


def refused(http: httpx.Client, refusals: list[httpx.Response]) -> bool:
    """One that came before the loss was noticed has lost its replica too: it waits, and is left alone."""
    try:
        reply = http.post("/v1/completions", json=BODY | {"max_tokens": 1}, timeout=1)
    except httpx.ReadTimeout:
        return False
    assert reply.status_code in (200, 503), reply.text
    refusals += [reply] * (reply.status_code == 503)
    return bool(refusals)


def test_a_stream_whose_api_is_killed_is_cut_and_calls_are_answered_again(whole: httpx.Client) -> None:
    with pytest.raises(httpx.RemoteProtocolError):
        streamed(whole, lambda: kill(Part.INGRESS))
    eventually(lambda: whole.get("/ready").status_code == 200)
    assert undisturbed(whole)
