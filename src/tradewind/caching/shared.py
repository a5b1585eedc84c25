"""Answers that all processes share, in Redis: values under a seal, leases so that one of them makes an answer for all.

The life of a `fetch`:
1. It waits for a round trip, which takes up to BATCH that wait; TRIPS run at once. Where the breaker is open (see
   `tradewind.breaker`), nothing is asked.
2. Redis says (see `caching.lua`) the value; or gives a lease where nobody holds one, or somebody less urgent; or says that
   another has it. A value that is not ours, past its end, or of another clock is as none: asked again without it.
3. After TIMEOUT_S of all that, the request goes on without. If it was sent, a lease that it still brings is released, as
   nobody knows of it; and after STORE_S, when nothing was said, once more.
4. A round trip that takes nearly TIMEOUT_S, or fails, is a fault of the store, and three in a row open the breaker. So is
   connecting, which takes several round trips, from four times as long. A request that had no round trip in time, or only
   the rest of its time, is none: the store did nothing wrong.

Writes wait for nobody and nobody for them: they have connections of their own, are left out while the breaker is open,
and cannot close it. A lease ends by itself `lease_s` after its holder last renewed it, so that a process that dies holds
nobody up. All times are Redis' own: clocks of machines may differ. Not covered: several Redis nodes, eviction (Redis'
own, `maxmemory-policy allkeys-lru` is what suits), TLS but by `rediss://`, a Redis whose host lies about the time, a
batch of values all near the limit (16 MiB, which may take longer than TIMEOUT_S).
"""

import asyncio
import importlib.util
import logging
import math
import time
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Protocol
from urllib.parse import urlsplit

from tradewind.breaker import Breaker
from tradewind.caching.codec import SEAL, BadValue, FromTheFuture, seal, unseal
from tradewind.caching.lua import EXTEND, FETCH, RELEASE
from tradewind.caching.patience import in_time, watched
from tradewind.errors import UserError

log = logging.getLogger(__name__)
TIMEOUT_S, STORE_S = 0.05, 0.5
"""That a request waits for the store, and that what nobody waits for may take."""
FAULT, CONNECTING = 0.9, 4.0
"""Times TIMEOUT_S, that a round trip takes at most, so that a fault is known before the next request asks; and
connecting."""
TRIPS, BATCH, WRITES = 4, 16, 8
LEASE_S = 3.0
MAX_VALUE = 1 << 20
QUIET_S = 60.0
"""Without a refusal, or a value that is not ours or from the future, until one is logged again."""


@dataclass(frozen=True)
class Lease:
    """The right to make the answer of a key for all, until somebody more urgent takes it over."""

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
    """None of these raises; `fetch` without anything means: make it, for yourself. priority: smaller is more urgent."""

    lease_s: float

    async def fetch(self, key: bytes, token: str, priority: int = 0) -> Found: ...
    async def extend(self, lease: Lease) -> None: ...
    async def release(self, lease: Lease) -> None: ...
    async def put(self, key: bytes, value: bytes, ttl_s: float, lease: Lease | None) -> None: ...
    async def close(self) -> None: ...


@dataclass
class Faults:
    """errors: round trips that failed or took too long; skipped: not asked, the breaker was open; late: not asked, or too
    late for its request, though the store did nothing wrong; rejected: values whose seal was not ours; skewed: values from
    the future; large: values beyond the limit, not put or not read."""

    errors: int = 0
    skipped: int = 0
    late: int = 0
    rejected: int = 0
    skewed: int = 0
    large: int = 0


@dataclass
class Question:
    """sent: whether it is under way, or was. told: what FETCH says, None for nothing."""

    lease: Lease
    priority: int
    limit: int
    told: asyncio.Future[list[Any] | None]
    sent: bool = False

    def keys_and_args(self, lease_ms: int) -> tuple[Any, ...]:
        key = self.lease.key
        return _value(key), _lease(key), self.lease.token, lease_ms, self.priority, self.limit

    def tell(self, told: list[Any] | None) -> None:
        if not self.told.done():
            self.told.set_result(told)


@dataclass
class RedisShared:
    """max_value: bytes that an answer may have. Raises UserError where the address is none."""

    uri: str
    secret: bytes
    lease_s: float = LEASE_S
    max_value: int = MAX_VALUE
    faults: Faults = field(default_factory=Faults)

    def __post_init__(self) -> None:
        self._client = _client(self.uri)
        self._fetch, self._extend, self._release = map(self._client.register_script, (FETCH, EXTEND, RELEASE))
        self.breaker = Breaker("the shared cache", "answers are made without it")
        self._waiting: deque[Question] = deque()
        self._trips, self._loaded = 0, False
        self._writing = asyncio.Semaphore(WRITES)
        self._tasks: set[asyncio.Task[Any]] = set()
        self._said: dict[str, float] = {}

    @property
    def _lease_ms(self) -> int:
        return round(1000 * self.lease_s)

    async def fetch(self, key: bytes, token: str, priority: int = 0) -> Found:
        latest = time.monotonic() + TIMEOUT_S
        for limit in (self.max_value + SEAL, -1):
            told = await self._asked(Lease(key, token), priority, limit, latest - time.monotonic())
            if told is None:
                break
            if not isinstance(told[0], bytes):
                _, code, large = told
                self.faults.large += large
                return Found(lease=Lease(key, token) if code == 1 else None, busy=code == 2)
            if (found := self._opened(key, told)) is not None:
                return found
        return Found()

    async def _asked(self, lease: Lease, priority: int, limit: int, seconds: float) -> list[Any] | None:
        """What FETCH says, None where it does not in time."""
        if self.breaker.resting:
            self.faults.skipped += 1
            return None
        question = Question(lease, priority, limit, asyncio.get_running_loop().create_future())
        self._waiting.append(question)
        if self._trips < TRIPS:
            self._trips += 1
            self._spawn(self._travel())
        try:
            return question.told.result() if await in_time(question.told, seconds) else None
        finally:
            if not question.told.done():
                self._gone_without(question)

    def _gone_without(self, question: Question) -> None:
        def came(told: asyncio.Future[list[Any] | None]) -> None:
            said = None if told.cancelled() else told.result()
            if said is not None:
                self.faults.late += 1
                if said[:2] == [None, 1]:
                    self._spawn(self._release_all([question.lease]))

        if question.sent:
            question.told.add_done_callback(came)
        else:
            self.faults.late += 1
            question.told.cancel()

    async def _travel(self) -> None:
        """Round trips, as long as somebody waits for one."""
        try:
            while self._waiting:
                taken = [self._waiting.popleft() for _ in range(min(BATCH, len(self._waiting)))]
                if batch := [one for one in taken if not one.told.done()]:
                    await self._round_trip(batch)
        finally:
            self._trips -= 1

    async def _round_trip(self, batch: list[Question]) -> None:
        """Tells them all, and the breaker how it went."""
        failures: list[BaseException] = []

        def failed(error: BaseException) -> None:
            if not failures:
                failures.append(error)
                self._failed(error)

        if not self.breaker.allows():
            self.faults.skipped += len(batch)
            for one in batch:
                one.tell(None)
            return

        def watch(seconds: float) -> AbstractContextManager[None]:
            return watched(seconds, lambda: failed(TimeoutError(f"no answer in {seconds:g} s")))

        replies: list[Any] = [None] * len(batch)
        try:
            async with asyncio.timeout(STORE_S):
                with watch(CONNECTING * TIMEOUT_S):
                    await self._connected()
                batch[:] = [one for one in batch if not one.told.done()]  # nobody would know of a lease
                with watch(FAULT * TIMEOUT_S):
                    replies = await self._sent(batch)
        except Exception as error:  # whatever its client raises: a cache must not take the service down
            failed(error)
            if isinstance(error, TimeoutError):  # they may have been asked all the same
                self._spawn(self._release_all([one.lease for one in batch if one.sent]))
        else:
            if batch and not failures:
                self.breaker.succeeded()
        finally:
            for one, reply in zip(batch, replies, strict=False):
                if isinstance(reply, Exception):
                    self._failed(reply)
                one.tell(reply if isinstance(reply, list) else None)

    async def _connected(self) -> None:
        """The next connection is open, and Redis has the script: what happens once is not what a request may wait for."""
        pool = self._client.connection_pool
        await pool.release(await pool.get_connection())
        if not self._loaded:
            await self._client.script_load(FETCH)
            self._loaded = True

    async def _sent(self, batch: list[Question]) -> list[Any]:
        """A reply or an error for each."""
        from redis.exceptions import NoScriptError

        if not batch:
            return []
        pipe = self._client.pipeline(transaction=False)
        for one in batch:
            one.sent = True
            pipe.evalsha(self._fetch.sha, 2, *one.keys_and_args(self._lease_ms))
        replies: list[Any] = await pipe.execute(raise_on_error=False)
        if any(isinstance(one, NoScriptError) for one in replies):  # another Redis, or one that began anew
            await self._client.script_load(FETCH)
            return await self._sent(batch)  # a holder that asks twice has its own lease
        return replies

    async def _release_all(self, leases: list[Lease]) -> None:
        """That nobody knows of: one try each, though the breaker be open."""
        for one in leases:
            await self._write(partial(self._release, [_lease(one.key)], [one.token]), anyhow=True)

    def _opened(self, key: bytes, told: list[Any]) -> Found | None:
        """None where it is to be made anew."""
        value, left_ms, *moment = told
        try:
            payload, left_s = unseal(self.secret, key, value, _seconds(moment))
        except FromTheFuture as error:
            self._say("the shared cache: %s; did the clock of Redis go back?", error)
            self.faults.skewed += 1
            return None
        except BadValue as error:
            self._say("the shared cache held a value that is not ours: %s", error)
            self.faults.rejected += 1
            return None
        left_s = min(left_s, left_ms / 1000 if left_ms >= 0 else left_s)
        return Found(payload, left_s) if left_s > 0 else None

    async def extend(self, lease: Lease) -> None:
        await self._write(partial(self._extend, [_lease(lease.key)], [lease.token, self._lease_ms]))

    async def release(self, lease: Lease) -> None:
        await self._write(partial(self._release, [_lease(lease.key)], [lease.token]))

    async def put(self, key: bytes, value: bytes, ttl_s: float, lease: Lease | None) -> None:
        async def stored() -> None:
            now = _seconds(await self._client.time())
            sealed = seal(self.secret, key, value, now, now + ttl_s)
            await self._client.set(_value(key), sealed, px=max(1, round(1000 * ttl_s)))

        if len(value) > self.max_value:
            self.faults.large += 1
        else:
            await self._write(stored)
        if lease is not None:
            await self.release(lease)

    async def close(self) -> None:
        """What is under way ends first: at most some STORE_S."""
        while self._tasks:
            await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._client.aclose()

    async def _write(self, question: Callable[[], Awaitable[Any]], anyhow: bool = False) -> None:
        """anyhow: though the breaker be open."""
        async with self._writing:
            if self.breaker.open and not anyhow:
                self.faults.skipped += 1
                return
            try:
                async with asyncio.timeout(STORE_S):
                    await question()
            except Exception as error:
                self._failed(error)

    def _failed(self, error: BaseException) -> None:
        from redis.exceptions import ResponseError

        self.faults.errors += 1
        if not isinstance(error, ResponseError):
            self.breaker.failed(error)
            return
        self._say("the shared cache refuses: %s", " ".join(str(error).split()))  # as where it has no room

    def _say(self, text: str, why: object) -> None:
        """Once, until it was not so for QUIET_S."""
        now = time.monotonic()
        if now > self._said.get(text, -math.inf) + QUIET_S:
            log.warning(text, why)
        self._said[text] = now

    def _spawn(self, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        """As a task that is held until it is done: a loop holds its tasks weakly."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task


def _seconds(moment: Any) -> float:
    """Of Redis' TIME."""
    seconds, micros = map(int, moment)
    return seconds + micros / 1e6


def _value(key: bytes) -> str:
    return f"tradewind:{{{key.hex()}}}:value"  # in braces what several nodes would be told apart by


def _lease(key: bytes) -> str:
    return f"tradewind:{{{key.hex()}}}:lease"


def _client(uri: str) -> Any:
    if not uri.startswith(("redis://", "rediss://")):
        scheme = uri.partition("://")[0] if "://" in uri else uri  # the rest may hold a password
        raise UserError(
            f"cache {scheme!r}: choose none, memory, redis (one of its own) or an address redis://HOST:PORT"
        )
    if importlib.util.find_spec("redis") is None:
        raise UserError("cache: Redis needs its client: pip install redis")
    from redis.asyncio import ConnectionPool, Redis
    from redis.asyncio.retry import Retry
    from redis.backoff import NoBackoff
    from redis.exceptions import RedisError

    try:
        return Redis.from_pool(
            ConnectionPool.from_url(uri, retry=Retry(NoBackoff(), 0), socket_connect_timeout=STORE_S)
        )
    except (ValueError, RedisError) as error:
        parts = urlsplit(uri)
        raise UserError(f"cache {parts.scheme}://{parts.netloc.rpartition('@')[2]}: {error}") from None
