"""Limits: counted per key and tenant, told in headers, refused as OpenAI does, and open where their store is down."""

import asyncio
import logging
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import ClassVar

import httpx
import pytest
from limits.aio.storage import MemoryStorage

from tests.serving.conftest import WAIT, Served, serving, until
from tests.serving.test_robustness import CHAT, GOOD, Broken, error_of
from tradewind.engine.mock import MockEngine
from tradewind.errors import UserError
from tradewind.serving import limits as module
from tradewind.serving.errors import ApiError
from tradewind.serving.keys import ApiKey, Keyring, Limits, Principal, hash_of
from tradewind.serving.limits import Limiter, open_storage
from tradewind.serving.settings import ServeSettings

PROMPT = {"model": "mock", "prompt": [1] * 10, "max_tokens": 5, "ignore_eos": True}
"""15 tokens."""
TEXT = "/v1/completions"
NONE = Limits()


class Clock:
    """Stands in for the module `time` where the store reads it."""

    def __init__(self) -> None:
        self.now = 1000.0

    def time(self) -> float:
        return self.now

    monotonic = time


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr("limits.aio.storage.memory.time", made)
    monkeypatch.setattr(module, "time", made)
    return made


def caller(key: Limits = NONE, tenant: Limits = NONE, name: str = "k") -> Principal:
    return Principal(name, "acme", limits=key, tenant_limits=tenant)


async def refused(limiter: Limiter, principal: Principal, tokens: int = 0) -> ApiError | None:
    """Admit one call with a prompt of so many tokens."""
    account = limiter.account(principal)
    try:
        await account.take_request()
        if tokens:
            await account.take_tokens(tokens)
    except ApiError as error:
        return error
    return None


def test_a_minute_of_requests(clock: Clock) -> None:
    async def check() -> None:
        limiter, who = Limiter(MemoryStorage()), caller(Limits(requests_per_minute=3))
        assert [await refused(limiter, who) for _ in range(3)] == [None] * 3
        clock.now += 20
        error = await refused(limiter, who)
        assert error is not None
        assert (error.status, error.code, error.type) == (429, "rate_limit_exceeded", "rate_limit_error")
        assert error.retry_after == 40
        assert "3 requests per minute" in error.message
        assert await refused(limiter, caller(Limits(requests_per_minute=3), name="another")) is None
        clock.now += 41
        assert await refused(limiter, who) is None

    asyncio.run(check())


def test_a_day_of_requests_is_a_quota(clock: Clock) -> None:
    async def check() -> None:
        limiter, who = Limiter(MemoryStorage()), caller(Limits(requests_per_day=1, requests_per_minute=1))
        assert await refused(limiter, who) is None
        error = await refused(limiter, who)
        assert error is not None
        assert (error.code, error.retry_after) == ("insufficient_quota", 86400)  # the window that closes last

    asyncio.run(check())


def test_a_tenant_shares_its_limit_over_its_keys(clock: Clock) -> None:
    async def check() -> None:
        limiter, shared = Limiter(MemoryStorage()), Limits(requests_per_minute=2)
        assert await refused(limiter, caller(tenant=shared, name="a")) is None
        assert await refused(limiter, caller(tenant=shared, name="b")) is None
        error = await refused(limiter, caller(tenant=shared, name="a"))
        assert error is not None
        assert "limit of the tenant" in error.message
        assert await refused(limiter, replace(caller(tenant=shared), tenant="other")) is None

    asyncio.run(check())


def test_tokens_are_taken_at_admission_and_settled_afterwards(clock: Clock) -> None:
    async def check() -> None:
        limiter, who = Limiter(MemoryStorage()), caller(Limits(tokens_per_minute=100))
        assert (await refused(limiter, who, 101)) is not None  # and takes nothing
        account = limiter.account(who)
        await account.take_request()
        await account.take_tokens(60)
        assert account.headers["x-ratelimit-remaining-tokens"] == "40"
        assert (await refused(limiter, who, 41)) is not None
        await account.settle(-20)  # a prompt given back
        assert (await refused(limiter, who, 60)) is None
        await account.settle(70)  # overdraws: the next waits, though its prompt is one token
        error = await refused(limiter, who, 1)
        assert error is not None
        assert error.code == "rate_limit_exceeded"
        assert "0 left" in error.message
        clock.now += 61
        assert (await refused(limiter, who, 100)) is None

    asyncio.run(check())


def test_many_at_once_get_no_more_than_the_limit() -> None:
    async def check() -> None:
        limiter, who = Limiter(MemoryStorage()), caller(Limits(requests_per_minute=10))
        answers = await asyncio.gather(*(refused(limiter, who) for _ in range(50)))
        assert sum(answer is None for answer in answers) == 10

    asyncio.run(check())


class Down(MemoryStorage):
    """A store that fails, hangs, or works."""

    STORAGE_SCHEME: ClassVar[list[str]] = ["down"]

    def __init__(self) -> None:
        super().__init__()
        self.failing, self.hanging, self.asked = False, False, 0

    async def get(self, key: str) -> int:
        self.asked += 1
        if self.hanging:
            await asyncio.Event().wait()
        if self.failing:
            raise ConnectionError("refused")
        return await super().get(key)


@pytest.mark.parametrize("how", ["failing", "hanging"])
def test_a_store_that_is_down_limits_nobody(
    how: str, clock: Clock, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(module, "STORE_TIMEOUT", 0.02)

    async def check() -> None:
        store = Down()
        limiter, who = Limiter(store), caller(Limits(requests_per_minute=1))
        setattr(store, how, True)
        for _ in range(5):
            assert await refused(limiter, who, 10) is None
        assert store.asked == 1  # the others did not wait for it
        clock.now += module.STORE_PAUSE + 1
        assert await refused(limiter, who) is None
        assert store.asked == 2
        setattr(store, how, False)
        clock.now += module.STORE_PAUSE + 1
        assert await refused(limiter, who) is None
        assert await refused(limiter, who) is not None

    with caplog.at_level(logging.WARNING):
        asyncio.run(check())
    failed, again = caplog.messages
    assert "nobody is limited" in failed
    assert again == "the store of limits answers again"


def test_stores_are_named_or_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    assert isinstance(open_storage("memory"), MemoryStorage)
    monkeypatch.setattr(module.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="pip install redis"):
        open_storage("redis://127.0.0.1:6379")
    with pytest.raises(UserError, match="redis://HOST:PORT"):
        open_storage("sqlite://")


KEYS = {
    "plain": NONE,
    "requests": Limits(requests_per_minute=2),
    "tokens": Limits(tokens_per_minute=40),
    "quota": Limits(tokens_per_day=20),
    "full": Limits(tokens_per_minute=1000),
}
RING = Keyring(tuple(ApiKey(name, hash_of(name), name, limits=limits) for name, limits in KEYS.items()))
"""A key named as each of KEYS, with a tenant of its own."""


@pytest.fixture
def limited() -> Iterator[Served]:
    with serving(MockEngine(slots=1, max_len=4096, step_delay=0.002), ServeSettings(), RING) as made:
        yield made


def ask(served: Served, key: str, path: str = CHAT, body: dict[str, object] = GOOD) -> httpx.Response:
    with served.http() as http:
        return http.post(path, json=body, headers={"Authorization": f"Bearer {key}"})


def test_headers_and_refusal_over_http(limited: Served) -> None:
    first = ask(limited, "requests")
    assert first.status_code == 200
    assert first.headers["x-ratelimit-limit-requests"] == "2"
    assert first.headers["x-ratelimit-remaining-requests"] == "1"
    assert 0 < int(first.headers["x-ratelimit-reset-requests"].removesuffix("s")) <= 60
    assert "x-ratelimit-limit-tokens" not in first.headers
    assert ask(limited, "requests", body={}).status_code == 400  # a bad request is a request
    last = ask(limited, "requests")
    assert error_of(last) == (429, "rate_limit_exceeded", None)
    assert 0 < int(last.headers["retry-after"]) <= 60
    assert last.headers["x-ratelimit-remaining-requests"] == "0"
    with limited.http() as http:  # what does not generate is not limited
        assert http.get("/v1/models", headers={"Authorization": "Bearer requests"}).status_code == 200
    plain = ask(limited, "plain")
    assert not [name for name in plain.headers if name.startswith("x-ratelimit")]


@pytest.mark.parametrize("stream", [True, False])
def test_tokens_over_http(limited: Served, stream: bool) -> None:
    body = PROMPT | {"stream": stream}
    remaining = []
    for _ in range(2):
        reply = ask(limited, "tokens", TEXT, body)
        assert reply.status_code == 200
        remaining.append(reply.headers["x-ratelimit-remaining-tokens"])
    assert remaining == ["30", "15"]  # 40 - 10, then 40 - 15 - 10
    reply = ask(limited, "tokens", TEXT, PROMPT | {"prompt": [1] * 11})  # 10 are left
    assert error_of(reply) == (429, "rate_limit_exceeded", None)
    assert ask(limited, "tokens", TEXT, body).status_code == 200


def test_a_quota_over_http(limited: Served) -> None:
    assert ask(limited, "quota", TEXT, PROMPT).status_code == 200
    reply = ask(limited, "quota", TEXT, PROMPT)
    assert error_of(reply) == (429, "insufficient_quota", None)
    assert reply.json()["error"]["type"] == "rate_limit_error"


def test_a_full_queue_costs_no_tokens() -> None:
    engine = Broken()
    with serving(engine, ServeSettings(max_waiting=1), RING) as served, ThreadPoolExecutor(1) as pool:
        engine.gate.clear()
        waiting = pool.submit(ask, served, "plain", TEXT, PROMPT)
        until(lambda: served.scheduler.snapshot().waiting == 1)
        reply = ask(served, "full", TEXT, PROMPT)
        engine.gate.set()
        assert error_of(reply) == (429, "slow_down", None)
        assert waiting.result(WAIT).status_code == 200
        assert ask(served, "full", TEXT, PROMPT).headers["x-ratelimit-remaining-tokens"] == "990"


def test_a_client_that_leaves_pays_for_what_was_made(limited: Served) -> None:
    long = PROMPT | {"max_tokens": 4000, "stream": True}
    with (
        limited.http() as http,
        http.stream("POST", TEXT, json=long, headers={"Authorization": "Bearer full"}) as reply,
    ):
        lines = reply.iter_lines()
        for _ in range(20):
            next(lines)
    until(limited.all_free)
    left = int(ask(limited, "full", TEXT, PROMPT).headers["x-ratelimit-remaining-tokens"])
    assert left <= 1000 - 10 - 10 - 10  # both prompts, and at least ten tokens of the answer
