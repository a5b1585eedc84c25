"""The response cache as the server has it: opened from the settings, asked by each call, told in its reply's headers.

`X-Cache: hit|miss|coalesced|bypass`, `Age` (seconds) with a hit, `X-Cache-Key` (16 characters of it) with one prompt.
"""

import logging
import os
import secrets

from fastapi import Request as HttpRequest

from tradewind.caching.directives import BadDirective, Directives
from tradewind.caching.memory import LocalStore
from tradewind.caching.observed import CacheMetrics
from tradewind.caching.response import CachedCall, CacheRules, Outcome, ResponseCache, anchored, worst
from tradewind.caching.shared import RedisShared
from tradewind.errors import UserError
from tradewind.serving.backend import Backend
from tradewind.serving.errors import ApiError
from tradewind.serving.metrics import Metrics
from tradewind.serving.settings import ServeSettings
from tradewind.tracking import home

log = logging.getLogger(__name__)
NONE, MEMORY = "none", "memory"
SECRET_VARIABLE, SECRET_FILE = "TRADEWIND_CACHE_SECRET", "cache.secret"
SECRET_LENGTH = 16


def open_cache(settings: ServeSettings, metrics: Metrics) -> ResponseCache | None:
    """None where the settings want none. Raises UserError."""
    if settings.cache == NONE:
        return None
    local = LocalStore(settings.cache_mib << 20)
    rules = CacheRules(settings.cache_ttl_s, shared_by_tenants=settings.cache_scope == "all")
    clock = anchored()
    shared = None if settings.cache == MEMORY else RedisShared(settings.cache, secret(), clock)
    observer = CacheMetrics(metrics.registry, local, shared)
    return ResponseCache(local, rules, observer, shared, clock)


def secret() -> bytes:
    """What seals shared answers: TRADEWIND_CACHE_SECRET, which all servers of one store are given, or a file that is made
    with the first server of this home. Raises UserError for one that can be guessed."""
    given = os.environ.get(SECRET_VARIABLE)
    if given is not None:
        if len(given) < SECRET_LENGTH:
            raise UserError(f"{SECRET_VARIABLE} has fewer than {SECRET_LENGTH} characters")
        return given.encode()
    path = home() / SECRET_FILE
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with open(path, "x", opener=lambda name, flags: os.open(name, flags, 0o600)) as file:
            file.write(secrets.token_hex(32))
    except FileExistsError:
        pass
    held = path.read_text().strip()
    if len(held) < SECRET_LENGTH:
        raise UserError(f"{path} holds no secret: remove it, and a new one is made")
    return held.encode()


class CallCaches:
    """The caches as one HTTP call goes through them. cache None: not at all. Raises ApiError for a header that cannot be
    read."""

    def __init__(self, cache: ResponseCache | None, http: HttpRequest) -> None:
        self._cache, self._calls = cache, dict[int, CachedCall]()
        try:
            self._directives = Directives.of(http.headers.get("cache-control", ""))
        except BadDirective as error:
            raise ApiError("invalid_value", f"Invalid value for Cache-Control: {error}.", "Cache-Control") from None

    def over(self, backend: Backend, identity: str) -> Backend:
        """The same for the same backend."""
        if self._cache is None:
            return backend
        return self._calls.setdefault(id(backend), self._cache.call(backend, identity, self._directives))

    @property
    def outcome(self) -> Outcome | None:
        """Once the first event is there."""
        asked = [one for call in self._calls.values() for one in call.asked]
        return worst(asked) if asked else None

    @property
    def headers(self) -> dict[str, str]:
        asked = [one for call in self._calls.values() for one in call.asked]
        if not asked:
            return {}
        told = {"X-Cache": str(self.outcome)}
        if self.outcome == "hit":
            told["Age"] = str(int(max(one.age_s for one in asked)))
        if len(asked) == 1 and asked[0].key:
            told["X-Cache-Key"] = asked[0].key.hex()[:16]
        return told
