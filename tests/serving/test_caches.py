"""The response cache through the API: headers, streams, tenants, one generation for many calls."""

import concurrent.futures
import json
import re
import threading
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.serving.conftest import Served, serving, until
from tests.serving.test_robustness import error_of
from tradewind.caching.node import RedisNode
from tradewind.engine.mock import MockEngine
from tradewind.errors import UserError
from tradewind.serving.caches import SECRET_VARIABLE, secret
from tradewind.serving.keys import SCOPES, ApiKey, Keyring, hash_of
from tradewind.serving.settings import ServeSettings

TEXT, CHAT = "/v1/completions", "/v1/chat/completions"
GREEDY: dict[str, Any] = {"model": "mock", "prompt": "What is it?", "max_tokens": 12, "temperature": 0}
RING = Keyring(
    tuple(ApiKey(name, hash_of(name), tenant, SCOPES) for name, tenant in (("a1", "a"), ("a2", "a"), ("b1", "b")))
)


@pytest.fixture(scope="module")
def cached() -> Iterator[Served]:
    with serving(MockEngine(slots=4, max_len=512), ServeSettings(cache="memory")) as served:
        yield served


def ask(served: Served, body: Mapping[str, Any], path: str = TEXT, **headers: str) -> httpx.Response:
    with served.http() as http:
        return http.post(path, json=body, headers={name.replace("_", "-"): value for name, value in headers.items()})


def same(reply: httpx.Response) -> str:
    """The body but for what is of each call."""
    return re.sub(r'"id":"[^"]*"|"created":\d+', "", reply.text)


def caches(served: Served, name: str) -> float:
    with served.http() as http:
        lines = http.get("/metrics").text.splitlines()
    return sum(float(line.split()[-1]) for line in lines if line.startswith(f"tradewind_response_cache_{name}"))


prompts = st.text(min_size=1, max_size=12)
fields = st.fixed_dictionaries(
    {"max_tokens": st.integers(1, 16), "stream": st.booleans(), "seed": st.integers(-5, 5)},
    optional={
        "temperature": st.sampled_from([0.0, 0.7, 1.5]),
        "n": st.integers(1, 3),
        "stop": st.sampled_from(["a", ["e", "o"]]),
        "echo": st.booleans(),
        "logprobs": st.integers(0, 3),
        "presence_penalty": st.sampled_from([0.0, 1.0]),
        "logit_bias": st.just({"65": 3}),
    },
)


@given(prompt=prompts, given_=fields)
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_hit_is_the_miss_byte_for_byte(cached: Served, prompt: str, given_: dict[str, Any]) -> None:
    body = GREEDY | {"prompt": prompt} | given_
    if body["stream"]:
        body["stream_options"] = {"include_usage": True}
    fresh = ask(cached, body, cache_control="no-cache")
    assert fresh.status_code == 200, fresh.text
    kept = ask(cached, body)
    assert (fresh.headers["x-cache"], kept.headers["x-cache"]) == ("miss", "hit")
    assert same(kept) == same(fresh)
    made_again = ask(cached, body, cache_control="no-store")
    assert [re.sub(r'"cached_tokens":\d+', "", same(one)) for one in (made_again, fresh)] == 2 * [
        re.sub(r'"cached_tokens":\d+', "", same(kept))
    ]
    ids = [re.findall(r'"id":"([^"]*)"', one.text)[0] for one in (fresh, kept)]
    assert ids[0] != ids[1]
    if body["stream"]:
        assert kept.text.endswith("data: [DONE]\n\n")


def test_a_stream_and_a_whole_answer_are_one_entry(cached: Served) -> None:
    body = GREEDY | {"prompt": "either way"}
    assert ask(cached, body).headers["x-cache"] == "miss"
    stream = ask(cached, body | {"stream": True})
    assert stream.headers["x-cache"] == "hit"
    texts = [json.loads(line[6:])["choices"][0]["text"] for line in stream.text.split("\n\n")[:-2]]
    assert "".join(texts) == ask(cached, body).json()["choices"][0]["text"]
    assert len(texts) > 1


def test_headers(cached: Served) -> None:
    body = GREEDY | {"prompt": "headers"}
    miss, hit = ask(cached, body), ask(cached, body)
    assert "age" not in miss.headers
    assert int(hit.headers["age"]) < 20
    assert re.fullmatch(r"[0-9a-f]{16}", miss.headers["x-cache-key"])
    assert hit.headers["x-cache-key"] == miss.headers["x-cache-key"]
    assert ask(cached, body, cache_control="no-store").headers["x-cache"] == "bypass"
    assert ask(cached, body | {"temperature": 1}).headers["x-cache"] == "bypass"
    assert error_of(ask(cached, body, cache_control="max-age=soon")) == (400, "invalid_value", "Cache-Control")
    with cached.http() as http:
        assert "x-cache" not in http.get("/health").headers


def test_directives_in_several_lines_are_one_list(cached: Served) -> None:
    body = GREEDY | {"prompt": "two lines"}
    for lines, outcome in ((("max-age=60", "no-store"), "bypass"), (("max-age=60",), "miss"), (("max-age=60",), "hit")):
        with cached.http() as http:
            reply = http.post(TEXT, json=body, headers=[("Cache-Control", one) for one in lines])
        assert reply.headers["x-cache"] == outcome


@pytest.mark.parametrize("wrong", [10**30, 2**63, 2**31, -1])
def test_ids_that_are_none_are_refused_and_leave_nothing(cached: Served, wrong: int) -> None:
    first = [7, 7, wrong % 97]
    reply = ask(cached, GREEDY | {"prompt": [first, [wrong]]})
    assert error_of(reply) == (400, "invalid_value", "prompt")
    assert ask(cached, GREEDY | {"prompt": first}).headers["x-cache"] == "miss"


def test_several_prompts_are_called_by_their_worst(cached: Served) -> None:
    assert ask(cached, GREEDY | {"prompt": ["p1", "p2"]}).headers["x-cache"] == "miss"
    assert ask(cached, GREEDY | {"prompt": ["p2", "p1"]}).headers["x-cache"] == "hit"
    mixed = ask(cached, GREEDY | {"prompt": ["p2", "p3"]})
    assert mixed.headers["x-cache"] == "miss"
    assert mixed.json()["choices"][0]["text"] == ask(cached, GREEDY | {"prompt": "p2"}).json()["choices"][0]["text"]


def test_without_a_cache_nothing_is_said_of_one(quick: Served) -> None:
    assert "x-cache" not in ask(quick, GREEDY).headers


def test_tenants_do_not_see_each_other(tmp_path: Path) -> None:
    with serving(MockEngine(slots=2, max_len=256), ServeSettings(cache="memory"), RING) as served:
        told = [
            ask(served, GREEDY, authorization=f"Bearer {key}").headers["x-cache"] for key in ("a1", "b1", "a2", "b1")
        ]
    assert told == ["miss", "miss", "hit", "hit"]
    with serving(MockEngine(slots=2, max_len=256), ServeSettings(cache="memory", cache_scope="all"), RING) as served:
        told = [ask(served, GREEDY, authorization=f"Bearer {key}").headers["x-cache"] for key in ("a1", "b1")]
    assert told == ["miss", "hit"]


def test_a_hundred_identical_calls_at_once_cost_one_generation() -> None:
    engine = MockEngine(slots=2, max_len=256, step_delay=0.02)
    with serving(engine, ServeSettings(cache="memory", max_waiting=4)) as served:
        with concurrent.futures.ThreadPoolExecutor(100) as crowd:
            gate = threading.Barrier(100)

            def one(place: int) -> httpx.Response:
                gate.wait(60)
                return ask(served, GREEDY | {"stream": bool(place % 2)})

            replies = list(crowd.map(one, range(100)))
        assert Counter(reply.status_code for reply in replies) == {200: 100}
        outcomes = Counter(reply.headers["x-cache"] for reply in replies)
        assert outcomes["miss"] == 1
        assert outcomes["hit"] + outcomes["coalesced"] == 99
        assert len({same(reply) for reply in replies if not reply.text.startswith("data")}) == 1
        with served.http() as http:
            metrics = http.get("/metrics").text
        assert 'vllm:request_success_total{finished_reason="stop",model_name="mock"} 1.0' in metrics or (
            'vllm:request_success_total{finished_reason="length",model_name="mock"} 1.0' in metrics
        )


def test_the_leaders_client_may_hang_up() -> None:
    engine = MockEngine(slots=2, max_len=256, step_delay=0.02)
    with serving(engine, ServeSettings(cache="memory")) as served, served.http() as http:
        body = GREEDY | {"max_tokens": 200, "ignore_eos": True}
        with http.stream("POST", TEXT, json=body | {"stream": True}) as leader:
            lines = leader.iter_lines()  # which closes the stream when it goes
            next(lines)
            with concurrent.futures.ThreadPoolExecutor(1) as pool:
                follower = pool.submit(ask, served, body)
                until(lambda: caches(served, 'requests_total{outcome="coalesced"') == 1)
                leader.close()
                reply = follower.result()
        assert (reply.status_code, reply.headers["x-cache"]) == (200, "coalesced")
        assert reply.json()["usage"]["completion_tokens"] == 200
        until(served.all_free)
        assert ask(served, body).headers["x-cache"] == "hit"


def test_an_answer_cut_short_is_not_kept() -> None:
    engine = MockEngine(slots=2, max_len=256, step_delay=0.02)
    with serving(engine, ServeSettings(cache="memory")) as served, served.http() as http:
        body = GREEDY | {"max_tokens": 200, "ignore_eos": True}
        with http.stream("POST", TEXT, json=body | {"stream": True}) as reply:
            next(reply.iter_lines())
        until(served.all_free)
        assert ask(served, body).headers["x-cache"] == "miss"


def test_what_was_saved_is_counted(cached: Served) -> None:
    body = GREEDY | {"prompt": "counted"}
    tokens = ask(cached, body).json()["usage"]["completion_tokens"]
    before = {name: caches(cached, name) for name in ("saved_tokens_total", "saved_seconds_total")}
    for _ in range(3):
        ask(cached, body)
    assert caches(cached, "saved_tokens_total") == before["saved_tokens_total"] + 3 * tokens
    assert caches(cached, "saved_seconds_total") > before["saved_seconds_total"]


def test_chats_are_cached_too(cached: Served) -> None:
    chat = {"model": "mock", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 8, "temperature": 0}
    replies = [ask(cached, chat, CHAT) for _ in range(2)]
    assert [reply.headers["x-cache"] for reply in replies] == ["miss", "hit"]
    assert same(replies[0]) == same(replies[1])


def test_two_servers_share_through_redis(
    redis_node: RedisNode, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("tradewind.caching.shared.TIMEOUT_S", 5.0)
    monkeypatch.setenv("TRADEWIND_HOME", str(tmp_path))
    cache = ServeSettings(cache=redis_node.url)
    with (
        serving(MockEngine(slots=2, max_len=256), cache) as one,
        serving(MockEngine(slots=2, max_len=256), cache) as two,
    ):
        first = ask(one, GREEDY)
        until(lambda: ask(two, GREEDY).headers["x-cache"] == "hit")  # what is kept is kept after it was given
        assert same(ask(two, GREEDY)) == same(first)
    assert (tmp_path / "cache.secret").stat().st_mode & 0o777 == 0o600


def test_a_server_whose_redis_is_down_answers(free_port: int) -> None:
    settings_ = ServeSettings(cache=f"redis://127.0.0.1:{free_port}/0")
    with serving(MockEngine(slots=2, max_len=256), settings_) as served:
        assert [ask(served, GREEDY).headers["x-cache"] for _ in range(2)] == ["miss", "hit"]
        assert caches(served, "store_faults_total") > 0


def test_a_secret_that_can_be_guessed_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(SECRET_VARIABLE, "short")
    with pytest.raises(UserError, match="fewer than 16"):
        secret()
