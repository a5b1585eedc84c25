"""Bodies and clients that misbehave: each gets its status and code, and the engine's loop goes on."""

import json
import socket
import threading
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.serving.conftest import WAIT, Served, serving, until
from tradewind.engine.contract import Prefix
from tradewind.engine.mock import MockEngine
from tradewind.serving.keys import Keyring, plain_keys
from tradewind.serving.settings import ServeSettings

CHAT = "/v1/chat/completions"
GOOD = {"model": "mock", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 2}


def error_of(reply: httpx.Response) -> tuple[int, str | None, str | None]:
    """Status, code, param; the shape is checked."""
    error = reply.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["message"]
    assert reply.headers["x-request-id"]
    return reply.status_code, error["code"], error["param"]


RAW = {
    "no body": (b"", None),
    "half": (b'{"model":', None),
    "not JSON": (b"model=mock", None),
    "an array": (b"[]", None),
    "NaN": (b'{"model": "mock", "temperature": NaN}', None),
    "Infinity": (b'{"model": "mock", "temperature": -Infinity}', None),
    "lone surrogate": (rb'{"model": "mock", "messages": [{"role": "user", "content": "\ud800"}]}', None),
    "not UTF-8": (b'{"model": "mo\xff"}', None),
    "deep": (b'{"a":' * 10_000, None),
    "byte order mark": (b"\xef\xbb\xbf{}", None),
    "huge integer": (b'{"n": ' + b"9" * 20_000 + b"}", None),
}


@pytest.mark.parametrize("case", RAW)
def test_what_is_no_json_object(quick: Served, case: str) -> None:
    with quick.http() as http:
        assert error_of(http.post(CHAT, content=RAW[case][0])) == (400, "invalid_json", None)


VALUES = [
    ("n", 10**9), ("n", 0), ("n", -1), ("n", 1.5), ("n", True), ("n", "2"), ("n", 10**30),
    ("max_tokens", 0), ("max_tokens", -5), ("max_tokens", 10**30), ("max_tokens", "many"), ("max_tokens", True),
    ("temperature", 2.1), ("temperature", -0.1), ("temperature", "hot"), ("temperature", True), ("temperature", 1e308),
    ("top_p", 1.5), ("top_p", -1), ("top_p", []), ("top_k", -1), ("top_k", 0.5),
    ("seed", 2**63), ("seed", 1.5), ("seed", "x"),
    ("stop", ["a"] * 5), ("stop", ""), ("stop", ["a", ""]), ("stop", "x" * 10_000), ("stop", 5), ("stop", [1]),
    ("stream", "yes"), ("stream", 1), ("stream_options", {"include_usage": True}), ("stream_options", 3),
    ("logprobs", 5), ("top_logprobs", 3), ("ignore_eos", "yes"), ("max_completion_tokens", 3),
    ("messages", []), ("messages", "hi"), ("messages", None), ("messages", [{}]), ("messages", ["hi"]),
    ("model", None), ("model", 5),
]  # fmt: skip


@pytest.mark.parametrize(("field", "value"), VALUES)
def test_values_out_of_range(quick: Served, field: str, value: object) -> None:
    with quick.http() as http:
        status, code, param = error_of(http.post(CHAT, json=GOOD | {field: value}))
    assert (status, code) == (400, "invalid_value")
    assert param is not None
    assert param.startswith(field) or (field, param) == ("max_completion_tokens", "max_tokens")


@pytest.mark.parametrize(
    ("message", "code", "param"),
    [
        ({"role": "robot", "content": "hi"}, "invalid_value", "messages[0].role"),
        ({"role": "user"}, "invalid_value", "messages[0].content"),
        ({"role": "user", "content": None}, "invalid_value", "messages[0].content"),
        ({"role": "user", "content": "hi", "name": "me"}, "unsupported_parameter", "messages[0].name"),
        ({"role": "user", "content": [{"type": "image_url"}]}, "unsupported_parameter", "messages[0].content"),
        ({"role": "user", "content": [{"type": "text"}]}, "invalid_value", "messages[0].content"),
    ],
)
def test_messages_that_do_not_fit(quick: Served, message: dict[str, object], code: str, param: str) -> None:
    with quick.http() as http:
        assert error_of(http.post(CHAT, json=GOOD | {"messages": [message]})) == (400, code, param)


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"prompt": []}, "prompt"),
        ({"prompt": [[]]}, "prompt"),
        ({"prompt": [1, "a"]}, "prompt"),
        ({"prompt": [True]}, "prompt"),
        ({"prompt": ""}, "prompt"),
        ({"prompt": [258]}, "prompt"),
        ({"prompt": [-1]}, "prompt"),
        ({"prompt": [10**30]}, "prompt"),
        ({"prompt": ["a"] * 100_00}, "prompt"),
        ({"prompt": ["a"] * 30, "n": 100}, "n"),
        ({}, "prompt"),
        ({"prompt": "a", "logprobs": 6}, "logprobs"),
    ],
)
def test_prompts_that_do_not_fit(quick: Served, body: dict[str, object], param: str) -> None:
    with quick.http() as http:
        reply = http.post("/v1/completions", json={"model": "mock", "max_tokens": 2, **body})
    assert error_of(reply) == (400, "invalid_value", param)


def test_huge_max_tokens_do_not_fit_the_context(quick: Served) -> None:
    """The prompt would: the answer's length is at fault, by the name that it was given."""
    asked = {name: value for name, value in GOOD.items() if name != "max_tokens"}
    with quick.http() as http:
        for name in ("max_tokens", "max_completion_tokens"):
            reply = http.post(CHAT, json=asked | {name: 10**9})
            assert error_of(reply) == (400, "context_length_exceeded", name)
        long = {"messages": [{"role": "user", "content": "x" * 600}]}
        assert error_of(http.post(CHAT, json=GOOD | long)) == (400, "context_length_exceeded", "messages")


def test_a_length_beyond_all_is_refused_before_the_body_comes(quick: Served) -> None:
    host, port = quick.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), WAIT) as client:
        client.sendall(f"POST {CHAT} HTTP/1.1\r\nHost: {host}\r\nContent-Length: 99999999999\r\n\r\n".encode())
        assert client.recv(1000).startswith(b"HTTP/1.1 413")


@pytest.mark.parametrize("length", [True, False])
def test_a_body_of_10_mb(quick: Served, length: bool) -> None:
    """With and without a Content-Length; the sender gets to read the answer."""
    body = json.dumps(GOOD | {"messages": [{"role": "user", "content": "x" * 10_000_000}]}).encode()
    chunks = (body[start : start + 65536] for start in range(0, len(body), 65536))
    with quick.http() as http:
        reply = http.post(CHAT, content=body if length else chunks)
        assert error_of(reply) == (413, "request_too_large", None)
        assert http.post(CHAT, json=GOOD).status_code == 200


def test_odd_text_is_text(quick: Served) -> None:
    for text in ("\0", "", "<|im_end|>", "😀" * 50, "שלום", "\u2028"):
        with quick.http() as http:
            reply = http.post(CHAT, json=GOOD | {"messages": [{"role": "user", "content": text}]})
        assert reply.status_code == 200


def test_unknown_paths_and_methods(quick: Served) -> None:
    with quick.http() as http:
        assert error_of(http.get("/v1/responses"))[:2] == (404, "unknown_url")
        assert error_of(http.post("/v1/audio/speech", json={}))[:2] == (404, "unknown_url")
        assert error_of(http.get(CHAT))[:2] == (405, "method_not_allowed")
        assert error_of(http.delete("/v1/models/mock"))[:2] == (405, "method_not_allowed")


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    extra=st.dictionaries(
        st.sampled_from([*(f for f, _ in VALUES), "tools", "best_of", "zzz"]), json_values, max_size=3
    )
)
def test_any_json_gets_an_answer(fast: Served, extra: dict[str, object]) -> None:
    """Never a 5xx, always the error's shape, and the slots come back."""
    with fast.http() as http:
        reply = http.post(CHAT, json=GOOD | extra)
    if reply.status_code != 200:
        assert error_of(reply)[0] in (400, 404)
    until(fast.all_free)


def raw_request(served: Served, body: bytes) -> socket.socket:
    host, port = served.url.removeprefix("http://").split(":")
    client = socket.create_connection((host, int(port)), WAIT)
    head = f"POST {CHAT} HTTP/1.1\r\nHost: {host}\r\nContent-Length: {len(body)}\r\n\r\n"
    client.sendall(head.encode() + body)
    return client


@pytest.mark.timing
@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("moment", ["running", "waiting"])
def test_a_client_that_dies_frees_its_place(slow: Served, stream: bool, moment: str) -> None:
    long = json.dumps(GOOD | {"max_tokens": 3000, "stream": stream, "ignore_eos": True}).encode()
    clients = []
    for count in (1, 2):
        clients.append(raw_request(slow, long))
        until(lambda count=count: slow.scheduler.snapshot().running == count)
    if moment == "waiting":
        clients.append(raw_request(slow, long))
        until(lambda: slow.scheduler.snapshot().waiting == 1)
        clients.pop().close()
        assert until(lambda: slow.scheduler.snapshot().waiting == 0, 2) < 0.2
    for client in clients:
        client.close()
    assert until(slow.all_free, 2) < 0.2


def test_half_a_body_holds_no_slot(slow: Served) -> None:
    host, port = slow.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), WAIT) as client:
        client.sendall(f"POST {CHAT} HTTP/1.1\r\nHost: {host}\r\nContent-Length: 100\r\n\r\n".encode() + b'{"model"')
        with slow.http() as http:
            assert http.post(CHAT, json=GOOD).status_code == 200
        assert slow.all_free()


def test_a_burst_leaves_nothing_behind(slow: Served) -> None:
    """Forty at once over two slots and one waiting place: each is served or refused at once."""

    def one(_: int) -> int:
        with slow.http() as http:
            return http.post(CHAT, json=GOOD).status_code

    with ThreadPoolExecutor(10) as pool:
        statuses = set(pool.map(one, range(40)))
    assert statuses <= {200, 429}
    assert 200 in statuses
    until(slow.all_free)


class Broken(MockEngine):
    """Its prefill fails when told to, its steps wait at a gate."""

    def __init__(self) -> None:
        super().__init__(slots=2, max_len=512)
        self.fail_prefill = False
        self.gate = threading.Event()
        self.gate.set()

    def prefill(self, *args: object, **named: object) -> Prefix:  # type: ignore[override]
        self.gate.wait(WAIT)
        if self.fail_prefill:
            raise RuntimeError("no memory")
        return super().prefill(*args, **named)  # type: ignore[arg-type]

    def step(self, feed):  # type: ignore[no-untyped-def, override]
        self.gate.wait(WAIT)
        return super().step(feed)


@pytest.mark.parametrize("stream", [True, False])
def test_an_engine_fault_is_a_500_and_the_next_request_runs(stream: bool) -> None:
    engine = Broken()
    with serving(engine, ServeSettings()) as served, served.http() as http:
        engine.fail_prefill = True
        reply = http.post(CHAT, json=GOOD | {"stream": stream})
        assert error_of(reply) == (500, None, None)
        assert "memory" not in reply.text
        engine.fail_prefill = False
        assert http.post(CHAT, json=GOOD).status_code == 200
        until(served.all_free)


class Fading(MockEngine):
    """Its steps wait for `go`; after `GOOD_STEPS` of them they fail."""

    GOOD_STEPS = 30

    def __init__(self) -> None:
        super().__init__(slots=2, max_len=512)
        self.go, self.steps = threading.Event(), 0

    def step(self, feed):  # type: ignore[no-untyped-def, override]
        self.go.wait(WAIT)
        self.steps += 1
        if self.steps > self.GOOD_STEPS:
            raise RuntimeError("no memory")
        return super().step(feed)


def test_a_fault_in_mid_stream_is_an_event_after_all_tokens_and_without_done() -> None:
    engine = Fading()
    with serving(engine, ServeSettings(lookup_tokens=0)) as served, served.http() as http:
        body = GOOD | {"stream": True, "max_tokens": 400, "ignore_eos": True, "logprobs": True}
        with http.stream("POST", CHAT, json=body) as reply:
            assert reply.status_code == 200
            lines = (json.loads(line.removeprefix("data: ")) for line in reply.iter_lines() if line)
            events = [next(lines)]
            engine.go.set()
            events += lines
        assert events.pop()["error"]["type"] == "server_error"
        scored = [one["logprobs"]["content"] for event in events for one in event["choices"] if one["logprobs"]]
        assert sum(map(len, scored)) == 1 + engine.GOOD_STEPS
        until(served.all_free)


def test_ready_speaks_for_the_loop_and_health_for_the_process() -> None:
    engine = Broken()
    with serving(engine, ServeSettings()) as served, served.http() as http:
        engine.fail_prefill = True
        assert (http.get("/ready").status_code, http.get("/health").status_code) == (503, 200)
        engine.fail_prefill = False
        assert http.get("/ready").status_code == 200
        made = served.scheduler.snapshot().completion_tokens
        assert made == 1
        assert http.get("/ready").status_code == 200
        assert served.scheduler.snapshot().completion_tokens == made  # fresh: nothing more to ask for


def test_ready_is_false_while_the_loop_hangs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tradewind.serving.readiness.FRESH", 0.1)
    engine = Broken()
    with serving(engine, ServeSettings()) as served, served.http() as http:
        engine.gate.clear()
        assert http.get("/ready").status_code == 503  # the probe hangs
        with ThreadPoolExecutor(1) as pool:
            asked = pool.submit(http.post, CHAT, json=GOOD)
            until(lambda: not served.scheduler.idle)
            assert httpx.get(f"{served.url}/ready").status_code == 503  # busy and without progress
            engine.gate.set()
            assert asked.result(WAIT).status_code == 200


def test_keys() -> None:
    with serving(MockEngine(), ServeSettings(), Keyring(plain_keys(("one", "two")))) as served, served.http() as http:
        for header in (
            {},
            {"Authorization": "Bearer three"},
            {"Authorization": "Basic one"},
            {"Authorization": "Bearer"},
        ):
            assert error_of(http.post(CHAT, json=GOOD, headers=header)) == (401, "invalid_api_key", None)
            assert http.get("/openapi.json", headers=header).status_code == 401
        for key in ("one", "two"):
            assert http.post(CHAT, json=GOOD, headers={"Authorization": f"Bearer {key}"}).status_code == 200
        assert http.get("/ready").status_code == 200


def test_request_ids(quick: Served) -> None:
    with quick.http() as http:
        assert http.get("/health", headers={"X-Request-Id": "mine-1"}).headers["x-request-id"] == "mine-1"
        made = {
            http.get("/health", headers={"X-Request-Id": "no spaces, please"}).headers["x-request-id"] for _ in "ab"
        }
    assert len(made) == 2


def test_the_document_describes_the_bodies(quick: Served) -> None:
    with quick.http() as http:
        document = http.get("/openapi.json").json()
    chat = document["components"]["schemas"]["ChatRequest"]
    assert chat["additionalProperties"] is False
    assert set(chat["required"]) == {"model", "messages"}
    assert "ChatRequest" in json.dumps(document["paths"][CHAT]["post"]["requestBody"])


def test_many_prompts_of_one_call_do_not_refuse_each_other() -> None:
    settings = ServeSettings(ttft_goal_ms=50, max_waiting=64)
    with serving(MockEngine(slots=2, max_len=512, prefill_delay=0.001), settings) as served:
        body = {"model": "mock", "prompt": ["x" * 40] * 8, "max_tokens": 1}
        with served.http() as http:
            assert http.post("/v1/completions", json=body).status_code == 200
