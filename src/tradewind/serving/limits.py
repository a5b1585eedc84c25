"""Limits of keys and tenants: requests and tokens, a minute and a day, counted by the `limits` package.

The life of a call's admission: 1. before its body is read it takes one request from each window that limits its key or
its tenant, and is refused where a window is used up; 2. when its prompts are known, their tokens are taken, or it is
refused; 3. when it is over, the tokens of its answers are added, which may overdraw a window: later calls wait for it.

Windows are fixed: they open with the first call and close a minute or a day later, so that one counter and one command
per window suffice, in memory or in Redis; up to twice the limit can pass around the moment between two windows.
Answers under way are not reserved for: calls that run at once may overdraw by what they generate.
A store that fails or is slow while the server runs limits nobody (limits protect from too much use, and an outage of the
store is no reason to answer nobody): one line is logged an outage, and it is asked again after a pause. One that does
not answer when the server starts is refused.
"""

import asyncio
import importlib.util
import time
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from typing import Literal, TypeVar
from urllib.parse import urlsplit

from limits import RateLimitItem, RateLimitItemPerDay, RateLimitItemPerMinute
from limits.aio.storage import MemoryStorage, RedisStorage, Storage
from limits.aio.strategies import FixedWindowRateLimiter

from tradewind.breaker import Breaker
from tradewind.errors import UserError
from tradewind.serving.errors import ApiError
from tradewind.serving.keys import Limits, Principal

T = TypeVar("T")
Kind = Literal["requests", "tokens"]
STORE_TIMEOUT, STORE_PAUSE = 0.5, 5.0
"""Seconds that one question to the store takes at most, and that a failed store is left alone: a call waits once."""
GREETING = 2.0
"""Seconds that the store may take to answer when the server starts."""
MEMORY = "memory"


def open_storage(uri: str) -> Storage:
    """`memory`, or `redis://` and `rediss://` addresses. Raises UserError, also where no Redis answers: a server that
    starts is to count; only one that runs goes on without.
    """
    if uri == MEMORY:
        return MemoryStorage()
    if not uri.startswith(("redis://", "rediss://")):
        scheme = uri.partition("://")[0] if "://" in uri else uri  # the rest may hold a password
        raise UserError(f"limits_storage {scheme!r}: choose {MEMORY} or an address redis://HOST:PORT")
    if importlib.util.find_spec("redis") is None:
        raise UserError("limits_storage: Redis needs its client: pip install redis")
    _greet(uri)
    return RedisStorage(
        f"async+{uri}",
        implementation="redispy",
        socket_timeout=STORE_TIMEOUT,
        socket_connect_timeout=STORE_TIMEOUT,
    )


def _greet(uri: str) -> None:
    """Raises UserError where no Redis counts at the address; a password in it is not repeated."""
    import redis

    try:
        with redis.Redis.from_url(uri, socket_timeout=GREETING, socket_connect_timeout=GREETING) as client:
            client.set("tradewind:greeting", 1, ex=1)  # a read-only or full one refuses this
            client.eval("return 1", 0)
    except (redis.RedisError, ValueError) as error:
        parts = urlsplit(uri)
        shown = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"
        raise UserError(f"limits_storage {shown}: {' '.join(str(error).split())}") from None


@dataclass(frozen=True)
class Window:
    """One limit of one key or tenant."""

    kind: Kind
    item: RateLimitItem
    owner: tuple[str, str]

    @property
    def daily(self) -> bool:
        return isinstance(self.item, RateLimitItemPerDay)

    @property
    def seconds(self) -> int:
        return self.item.get_expiry()


@dataclass(frozen=True)
class State:
    """A window at one moment. reset: seconds until it closes."""

    window: Window
    remaining: int
    reset: float


def windows(principal: Principal) -> list[Window]:
    """Those that limit a caller."""
    owners = ((principal.limits, ("key", principal.key)), (principal.tenant_limits, ("tenant", principal.tenant)))
    return [window for limits, owner in owners for window in _windows_of(limits, owner)]


def _windows_of(limits: Limits, owner: tuple[str, str]) -> Iterable[Window]:
    if limits.requests_per_minute is not None:
        yield Window("requests", RateLimitItemPerMinute(limits.requests_per_minute), owner)
    if limits.requests_per_day is not None:
        yield Window("requests", RateLimitItemPerDay(limits.requests_per_day), owner)
    if limits.tokens_per_minute is not None:
        yield Window("tokens", RateLimitItemPerMinute(limits.tokens_per_minute), owner)
    if limits.tokens_per_day is not None:
        yield Window("tokens", RateLimitItemPerDay(limits.tokens_per_day), owner)


class Limiter:
    """Counts for all callers."""

    def __init__(self, storage: Storage) -> None:
        self._strategy = FixedWindowRateLimiter(storage)
        self._breaker = Breaker("the store of limits", "nobody is limited", 1, STORE_PAUSE, STORE_PAUSE, _now)

    def account(self, principal: Principal) -> "Account":
        return Account(self, windows(principal))

    async def states(self, held: list[Window]) -> list[State]:
        """How the windows stand; empty where the store does not say."""

        async def one(window: Window) -> State:
            reset, remaining = await self._strategy.get_window_stats(window.item, window.kind, *window.owner)
            # A window that is not open yet has no end: its length is what a first call would see.
            left = reset - time.time()
            return State(window, int(remaining), left if left > 0 else window.seconds)

        return await self._ask(lambda: _all(one(window) for window in held), [])

    async def take(self, held: list[Window], cost: int) -> list[Window]:
        """Count `cost` in each window, allowed or not; those that it overdrew."""

        async def one(window: Window) -> bool:
            return await self._strategy.hit(window.item, window.kind, *window.owner, cost=cost)

        allowed = await self._ask(lambda: _all(one(window) for window in held), [True] * len(held))
        return [window for window, fits in zip(held, allowed, strict=True) if not fits]

    async def _ask(self, question: Callable[[], Awaitable[T]], otherwise: T) -> T:
        if not self._breaker.allows():
            return otherwise
        try:
            async with asyncio.timeout(STORE_TIMEOUT):
                answer = await question()
        except Exception as error:  # whatever the store's client raises: limits must not take the service down
            self._breaker.failed(error)
            return otherwise
        self._breaker.succeeded()
        return answer


def _now() -> float:
    return time.monotonic()


async def _all(questions: Iterable[Awaitable[T]]) -> list[T]:
    return list(await asyncio.gather(*questions))


class Account:
    """One call's standing with its caller's windows. `headers` are those of the states last seen."""

    def __init__(self, limiter: Limiter, held: list[Window]) -> None:
        self._limiter = limiter
        self._requests = [window for window in held if window.kind == "requests"]
        self._tokens = [window for window in held if window.kind == "tokens"]
        self._states: list[State] = []

    async def take_request(self) -> None:
        """Raises ApiError where requests or tokens are used up already."""
        await self._refresh()
        self._refuse([state for state in self._states if state.remaining < 1])
        await self._take(self._requests, 1)

    async def take_tokens(self, tokens: int) -> None:
        """Raises ApiError where the prompts' tokens do not fit."""
        await self._refresh()
        self._refuse([s for s in self._states if s.window.kind == "tokens" and s.remaining < tokens])
        await self._take(self._tokens, tokens)

    async def settle(self, tokens: int) -> None:
        """Add what was used beyond the prompts taken; negative gives back."""
        if tokens and self._tokens:
            await self._limiter.take(self._tokens, tokens)

    @property
    def headers(self) -> dict[str, str]:
        """OpenAI's, from the window of each kind that has the least left."""
        named = {}
        for kind in ("requests", "tokens"):
            states = [state for state in self._states if state.window.kind == kind]
            if states:
                state = min(states, key=lambda one: one.remaining)
                named[f"x-ratelimit-limit-{kind}"] = str(state.window.item.amount)
                named[f"x-ratelimit-remaining-{kind}"] = str(max(0, state.remaining))
                named[f"x-ratelimit-reset-{kind}"] = f"{max(0.0, state.reset):.0f}s"
        return named

    async def _take(self, held: list[Window], cost: int) -> None:
        if not held or not cost:
            return
        overdrawn = await self._limiter.take(held, cost)
        await self._refresh()
        self._refuse([state for state in self._states if state.window in overdrawn])

    async def _refresh(self) -> None:
        self._states = await self._limiter.states([*self._requests, *self._tokens])

    @staticmethod
    def _refuse(used_up: list[State]) -> None:
        """The window that closes last decides."""
        if not used_up:
            return
        state = max(used_up, key=lambda one: one.reset)
        window, span = state.window, "day" if state.window.daily else "minute"
        text = (
            f"The limit of the {window.owner[0]} is used up: {window.item.amount} {window.kind} per {span}; "
            f"{max(0, state.remaining)} left, the next window opens in {state.reset:.0f} s."
        )
        raise ApiError("insufficient_quota" if window.daily else "rate_limit_exceeded", text, None, state.reset)
