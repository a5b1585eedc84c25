"""Answers that all processes share, in Redis: values under a seal, leases so that one of them makes an answer for all.

`fetch` is one round trip: the value, or a lease where nobody holds one, or word that somebody does. A lease ends by
itself `lease_s` after its holder last renewed it, so that a process that dies holds nobody up.

A store that is down, paused, slow, full or holds nonsense costs a request at most TIMEOUT_S, three in a row open a breaker
(see `tradewind.breaker`), and meanwhile everybody makes its own answers. Redis' own clock ends values; so does the time
in their seal, on this process' clock, whichever comes first. Not covered: several Redis nodes, eviction (Redis' own,
`maxmemory-policy allkeys-lru` is what suits), TLS but by `rediss://`.
"""

import asyncio
import importlib.util
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar
from urllib.parse import urlsplit

from tradewind.breaker import Breaker
from tradewind.caching.codec import BadValue, seal, unseal
from tradewind.errors import UserError

log = logging.getLogger(__name__)
T = TypeVar("T")
TIMEOUT_S, STORE_S = 0.05, 0.5
"""That a request waits for the store, and that keeping an answer, which nobody waits for, may take."""
LEASE_S = 3.0
CONNECTIONS = 64
FETCH = """
local value = redis.call('GET', KEYS[1])
if value then return {value, redis.call('PTTL', KEYS[1]), 0} end
local taken = redis.pcall('SET', KEYS[2], ARGV[1], 'NX', 'PX', ARGV[2])
if type(taken) == 'table' and taken.ok then return {false, 0, 1} end
if taken == false or taken == nil then
  if redis.call('GET', KEYS[2]) == ARGV[1] then return {false, 0, 1} end
  return {false, 0, 2}
end
return {false, 0, 3}
"""
"""-> value, its milliseconds, and 1: the lease is yours; 2: another's; 3: none can be had (the store is full)."""
EXTEND = "if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('PEXPIRE', KEYS[1], ARGV[2]) end return 0"
RELEASE = "if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('DEL', KEYS[1]) end return 0"


@dataclass(frozen=True)
class Lease:
    """The right to make the answer of a key for all."""

    key: bytes
    token: str


@dataclass(frozen=True)
class Found:
    """A value and the seconds that it is still good for; or a lease; or busy: another process has one."""

    value: bytes | None = None
    left_s: float = 0.0
    lease: Lease | None = None
    busy: bool = False


class Shared(Protocol):
    """None of these raises; `fetch` without anything means: make it, for yourself."""

    lease_s: float

    async def fetch(self, key: bytes, token: str) -> Found: ...
    async def extend(self, lease: Lease) -> None: ...
    async def release(self, lease: Lease) -> None: ...
    async def put(self, key: bytes, value: bytes, ttl_s: float, lease: Lease | None) -> None: ...
    async def close(self) -> None: ...


@dataclass
class Faults:
    """errors: questions that failed, skipped ones (breaker open) not counted; rejected: values whose seal was not ours."""

    errors: int = 0
    skipped: int = 0
    rejected: int = 0


@dataclass
class RedisShared:
    """clock: seconds since 1970 that no setting of the clock moves. Raises UserError where the address is none."""

    uri: str
    secret: bytes
    clock: Callable[[], float]
    lease_s: float = LEASE_S
    faults: Faults = field(default_factory=Faults)

    def __post_init__(self) -> None:
        self._client = _client(self.uri)
        self.breaker = Breaker("the shared cache", "answers are made without it")

    async def fetch(self, key: bytes, token: str) -> Found:
        lease_ms = round(1000 * self.lease_s)
        told = await self._ask(
            lambda: self._client.eval(FETCH, 2, _value(key), _lease(key), token, lease_ms), TIMEOUT_S, None
        )
        if told is None:
            return Found()
        value, left_ms, code = told
        if not isinstance(value, bytes):
            return Found(lease=Lease(key, token) if code == 1 else None, busy=code == 2)
        try:
            payload, left_s = unseal(self.secret, key, value, self.clock())
        except BadValue as error:
            if not self.faults.rejected:
                log.warning("the shared cache held a value that is not ours: %s", error)
            self.faults.rejected += 1
            return Found()
        left_s = min(left_s, left_ms / 1000 if left_ms >= 0 else left_s)
        return Found(payload, left_s) if left_s > 0 else Found()

    async def extend(self, lease: Lease) -> None:
        await self._ask(
            lambda: self._client.eval(EXTEND, 1, _lease(lease.key), lease.token, round(1000 * self.lease_s)), STORE_S, 0
        )

    async def release(self, lease: Lease) -> None:
        await self._ask(lambda: self._client.eval(RELEASE, 1, _lease(lease.key), lease.token), STORE_S, 0)

    async def put(self, key: bytes, value: bytes, ttl_s: float, lease: Lease | None) -> None:
        now = self.clock()
        sealed = seal(self.secret, key, value, now, now + ttl_s)
        await self._ask(lambda: self._client.set(_value(key), sealed, px=max(1, round(1000 * ttl_s))), STORE_S, None)
        if lease is not None:
            await self.release(lease)

    async def close(self) -> None:
        await self._client.aclose()

    async def _ask(self, question: Callable[[], Awaitable[T]], seconds: float, otherwise: T) -> T:
        from redis.exceptions import ResponseError

        if not self.breaker.allows():
            self.faults.skipped += 1
            return otherwise
        try:
            async with asyncio.timeout(seconds):
                answer = await question()
        except ResponseError as error:  # it answers, if not well: another type under the key, or no room
            self.faults.errors += 1
            if self.faults.errors == 1:
                log.warning("the shared cache refused: %s", " ".join(str(error).split()))
            self.breaker.succeeded()
            return otherwise
        except Exception as error:  # whatever its client raises: a cache must not take the service down
            self.faults.errors += 1
            self.breaker.failed(error)
            return otherwise
        self.breaker.succeeded()
        return answer


def _value(key: bytes) -> str:
    return f"tradewind:{{{key.hex()}}}:value"  # in braces what several nodes would be told apart by


def _lease(key: bytes) -> str:
    return f"tradewind:{{{key.hex()}}}:lease"


def _client(uri: str) -> Any:
    if not uri.startswith(("redis://", "rediss://")):
        scheme = uri.partition("://")[0] if "://" in uri else uri  # the rest may hold a password
        raise UserError(f"cache {scheme!r}: choose none, memory or an address redis://HOST:PORT")
    if importlib.util.find_spec("redis") is None:
        raise UserError("cache: Redis needs its client: pip install redis")
    from redis.asyncio import BlockingConnectionPool, Redis
    from redis.asyncio.retry import Retry
    from redis.backoff import NoBackoff
    from redis.exceptions import RedisError

    try:
        pool = BlockingConnectionPool.from_url(
            uri,
            max_connections=CONNECTIONS,
            timeout=TIMEOUT_S,
            socket_timeout=STORE_S,
            socket_connect_timeout=TIMEOUT_S,
            retry=Retry(NoBackoff(), 0),
        )
        return Redis.from_pool(pool)
    except (ValueError, RedisError) as error:
        parts = urlsplit(uri)
        raise UserError(f"cache {parts.scheme}://{parts.netloc.rpartition('@')[2]}: {error}") from None
